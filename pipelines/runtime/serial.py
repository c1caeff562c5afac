"""Runs units one after another in this process: laptops, debugging, most tests. No Ray."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence
from typing import Any

from pipelines.errors import LimbeckError
from pipelines.redaction import redacted
from pipelines.runtime.code import code_digest
from pipelines.runtime.execute import TickOf, UnitError
from pipelines.runtime.guard import require_current, unit_at_work
from pipelines.runtime.inputs import require_pinned
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.machine import machine_errors
from pipelines.runtime.memory import keep_freed_memory
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.units import Marker, Tick, Unit, UnitOutput, no_tick

#: A disk, a network, memory and a GPU may do better next time; what raises these does the same again.
FAULTS_OF_CODE = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)


def run_unit(stage: Stage[Any], job: Job[Any], worker: Any, unit: Unit, identity: str, tick: Tick = no_tick) -> Marker:
    """Do and commit one unit; what it built is removed if it raises. Every runner ends here."""
    about = f"{stage.subject(unit, job)} ({unit.name})"
    with machine_errors(job.name, unit.name, job.output.url), method_errors(about), unit_at_work(job):
        output = UnitOutput(job.output, unit, identity, tick, code_digest(stage, job.item))
        try:
            stage.run(unit, worker, output, job)
            require_current(job)
            require_pinned(job)
            return output.commit()
        finally:
            output.abandon()


def open_worker(stage: Stage[Any], job: Job[Any]) -> Any:
    """What a stage keeps between units, opened in this process; one that computes also keeps its freed memory.

    An error of a method becomes the user's here too.
    """
    if stage.computes:
        keep_freed_memory()
    with method_errors(job.name):
        return stage.open(job)


def describe(error: BaseException) -> str:
    """One line for the console."""
    text = redacted(" ".join(str(error).split()))
    return text if isinstance(error, LimbeckError) else f"{type(error).__name__}: {text}"[:500]


def comes_again(error: BaseException) -> bool:
    """Say whether an error of Python's follows from the code and its input alone, so that another run of the unit meets it too."""
    return isinstance(error, FAULTS_OF_CODE)


class SerialRunner:
    """In-process runner. With `debug`, the first error is raised as it is."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug
        self._workers: list[Any] = []  # one, when it has been opened

    def run(
        self, stage: Stage[Any], job: Job[Any], units: Sequence[tuple[Unit, str]], tick: TickOf
    ) -> Generator[Marker | UnitError, None, None]:
        if not self._workers:
            self._workers.append(open_worker(stage, job))
        (worker,) = self._workers
        for unit, identity in units:

            def unit_tick(done: float, total: float, note: str = "", name: str = unit.name) -> None:
                tick(name, done, total, note)

            result: Marker | UnitError
            try:
                result = run_unit(stage, job, worker, unit, identity, unit_tick)
            except LimbeckError:
                raise
            except Exception as error:
                if self._debug:
                    raise
                result = UnitError(unit.name, describe(error), traceback.format_exc(), comes_again(error))
            yield result

    def close(self) -> None:
        self._workers.clear()
