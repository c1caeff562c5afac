"""Runs units one after another in this process: laptops, debugging, most tests. No Ray."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipelines.errors import LimbeckError, StageStopped
from pipelines.runtime.execute import UnitError
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.units import Marker, Tick, Unit, UnitOutput, no_tick

#: No sample is to blame for these, and every further unit would meet them too.
MACHINE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


def run_unit(stage: Stage[Any], job: Job[Any], worker: Any, unit: Unit, identity: str, tick: Tick = no_tick) -> Marker:
    """Do and commit one unit; what it built is removed if it raises. Every runner ends here."""
    output = UnitOutput(job.output, unit, identity, tick)
    try:
        stage.run(unit, worker, output, job)
        return output.commit()
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        raise StageStopped(
            f"{stage.name} stopped in {unit.name}: {error.strerror} ({job.output.url}). Nothing that was finished is "
            f"lost: mend it, then limbeck run {stage.name} goes on where it stopped"
        ) from None
    finally:
        output.abandon()


def describe(error: BaseException) -> str:
    """One line for the console."""
    text = " ".join(str(error).split())
    return text if isinstance(error, LimbeckError) else f"{type(error).__name__}: {text}"[:500]


class SerialRunner:
    """In-process runner. With `debug`, the first error is raised as it is."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug

    def run(
        self,
        stage: Stage[Any],
        job: Job[Any],
        units: Sequence[tuple[Unit, str]],
        tick: Callable[[str, float, float, str], None],
    ) -> Iterator[Marker | UnitError]:
        worker = stage.open(job)
        for unit, identity in units:

            def unit_tick(done: float, total: float, note: str = "", name: str = unit.name) -> None:
                tick(name, done, total, note)

            try:
                yield run_unit(stage, job, worker, unit, identity, unit_tick)
            except LimbeckError:
                raise
            except Exception as error:
                if self._debug:
                    raise
                yield UnitError(unit.name, describe(error), traceback.format_exc())
