"""Runs units on Ray: plain tasks for CPU units, a pool of actors that hold models for model units.

Pixels never enter the object store: workers read and write storage themselves and return a marker. Ray is started only
here and when there is work. A worker that dies costs one unit, which Ray runs again; the bytes do not depend on who runs
it or when.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from pipelines.errors import LimbeckError, StageStopped
from pipelines.runtime.execute import TickOf, UnitError
from pipelines.runtime.guard import require_current, stop_units
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.ray_session import RETRIES, Head, session
from pipelines.runtime.serial import comes_again, describe, open_worker, run_unit
from pipelines.runtime.units import Marker, Unit

Result = Marker | UnitError | LimbeckError
#: Seconds between looks at the ticks of running units.
POLL = 2.0

_open_workers: dict[str, Any] = {}
_log = logging.getLogger(__name__)


def run_unit_in_worker(stage: Stage[Any], job: Job[Any], unit: Unit, identity: str) -> Result:
    """Runs in a Ray worker process. The stage's worker state is opened once per process and run."""
    try:
        if job.token not in _open_workers:
            _open_workers.clear()
            _open_workers[job.token] = open_worker(stage, job)
        last = time.monotonic()

        def tick(done: float, total: float, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= POLL:
                last = time.monotonic()
                require_current(job)
                job.logs.write_bytes(_tick_path(job, unit.name), json.dumps([done, total, note]).encode())

        return run_unit(stage, job, _open_workers[job.token], unit, identity, tick)
    except LimbeckError as error:
        return error
    except Exception as error:
        return UnitError(unit.name, describe(error), traceback.format_exc(), comes_again(error))


def _tick_path(job: Job[Any], unit: str) -> str:
    return f"ticks/{job.name}/{unit}.json"


class UnitActor:
    """A worker process that keeps its models between units."""

    def run(self, stage: Stage[Any], job: Job[Any], unit: Unit, identity: str) -> Result:
        return run_unit_in_worker(stage, job, unit, identity)


class RayRunner:
    """`workers` units at a time; as many as the cluster has CPUs (or GPUs, for model stages) when None.

    The session and its actors live until `close`: a later wave finds the models that an earlier one loaded.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers
        self._hired = ExitStack()
        self._crew: _Crew | None = None

    def run(
        self, stage: Stage[Any], job: Job[Any], units: Sequence[tuple[Unit, str]], tick: TickOf
    ) -> Generator[Marker | UnitError, None, None]:
        import ray

        _remove_ticks(job, units)
        crew = self._crew = self._crew or self._hire(stage, job)
        workers = min(crew.hire(self._workers, len(units)), len(units))
        head = Head()
        waiting, running = deque(units), dict[Any, Unit]()
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    unit, identity = waiting.popleft()
                    running[crew.submit(unit, identity)] = unit
                ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
                for reference in ready:
                    yield _result(reference, running.pop(reference), job)
                    crew.release(reference)
                if head.lost():
                    raise _cluster_died(job, "its head does not answer")
                if not ready:
                    _relay_ticks(job, [unit.name for unit in running.values()], tick)
        finally:
            if running:
                # Not by ray.cancel, which now and then brings the driver down when a task ends just then.
                stop_units(job)
            _remove_ticks(job, units)

    def _hire(self, stage: Stage[Any], job: Job[Any]) -> _Crew:
        """Open the session and found the crew that `close` lets go of."""
        share = job.run.threads if stage.computes else 1
        self._hired.enter_context(session(self._workers, share, job.run.threads))
        crew = _Actors(stage, job) if stage.workers == "actors" else _Tasks(stage, job)
        self._hired.callback(crew.dismiss)
        return crew

    def close(self) -> None:
        self._crew = None
        self._hired.close()


def _result(reference: Any, unit: Unit, job: Job[Any]) -> Marker | UnitError:
    import ray

    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return UnitError(unit.name, describe(error.cause or error), str(error))
    except _cluster_errors() as error:
        raise _cluster_died(job, describe(error)) from None
    except ray.exceptions.RayError as error:
        if _node_died(error):
            raise _cluster_died(job, describe(error)) from None
        hint = "it may need more memory than there is"
        return UnitError(unit.name, f"its worker died {RETRIES + 1} times ({hint}): {describe(error)}", str(error))
    if isinstance(result, LimbeckError):
        raise result
    return result


def _cluster_errors() -> tuple[type[BaseException], ...]:
    """What Ray raises when a node's own process or the head is gone, whatever the unit needed."""
    from ray import exceptions

    return (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.RpcError, exceptions.RaySystemError)


def _node_died(error: BaseException) -> bool:
    """Actors and lost objects tell it in words only."""
    said = str(error).lower()
    return any(
        words in said for words in ("node died", "node has died", "raylet died", "node failure", "gcs", "owner died")
    )


def _cluster_died(job: Job[Any], said: str) -> StageStopped:
    return StageStopped(
        f"{job.name} stopped: a Ray node or the head of the cluster died under it, and no unit is to blame "
        f"({said[:200]}). Finished units are kept; when Ray is up again, limbeck run {job.name} goes on"
    )


class _Crew(Protocol):
    """Those who run units."""

    def hire(self, wanted: int | None, units: int) -> int:
        """Make ready for a wave of `units` units; returns how many may be under way at once."""

    def submit(self, unit: Unit, identity: str) -> Any: ...

    def release(self, reference: Any) -> None: ...

    def dismiss(self) -> None:
        """Let go of processes."""


class _Tasks:
    """Any worker process runs any unit."""

    def __init__(self, stage: Stage[Any], job: Job[Any]) -> None:
        import ray

        self._stage, self._job = stage, job
        self._share = _share(stage, job)
        self._task = ray.remote(max_retries=RETRIES, num_cpus=self._share)(run_unit_in_worker)

    def hire(self, wanted: int | None, units: int) -> int:
        return wanted or _room("CPU", self._share)

    def submit(self, unit: Unit, identity: str) -> Any:
        return self._task.remote(self._stage, self._job, unit, identity)

    def release(self, reference: Any) -> None: ...

    def dismiss(self) -> None: ...


class _Actors:
    """Each process opens the stage's models once and keeps them; one unit at a time each."""

    def __init__(self, stage: Stage[Any], job: Job[Any]) -> None:
        self._stage, self._job = stage, job
        self._actors: list[Any] = []
        self._idle: deque[Any] = deque()
        self._busy: dict[Any, Any] = {}

    def hire(self, wanted: int | None, units: int) -> int:
        import ray

        on_gpus = self._job.run.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1
        share = _share(self._stage, self._job)
        room = min(_room("CPU", share), _room("GPU", 1)) if on_gpus else _room("CPU", share)
        if wanted and wanted > room:
            _log.warning("%s: %d workers wanted, there is room for %d", self._stage.name, wanted, room)
        count = min(wanted or room, room, units)
        # An actor that finds no room would never start, and its unit never end: hence no more than there is room for.
        options = {"max_restarts": -1, "max_task_retries": RETRIES, "num_cpus": share, "num_gpus": int(on_gpus)}
        fresh = [ray.remote(**options)(UnitActor).remote() for _ in range(count - len(self._actors))]
        self._actors += fresh
        self._idle.extend(fresh)
        return count

    def submit(self, unit: Unit, identity: str) -> Any:
        actor = self._idle.popleft()
        reference = actor.run.remote(self._stage, self._job, unit, identity)
        self._busy[reference] = actor
        return reference

    def release(self, reference: Any) -> None:
        self._idle.append(self._busy.pop(reference))

    def dismiss(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)


def _share(stage: Stage[Any], job: Job[Any]) -> int:
    """CPUs that one unit asks for: its compute threads, but never more than the largest machine has."""
    import ray

    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
    return max(1, min(job.run.threads if stage.computes else 1, largest))


def _room(resource: str, share: int) -> int:
    import ray

    return max(1, int(ray.cluster_resources().get(resource, 1)) // share)


def _relay_ticks(job: Job[Any], units: Sequence[str], tick: TickOf) -> None:
    for unit in units:
        try:
            tick(unit, *json.loads(job.logs.read_bytes(_tick_path(job, unit))))
        except (FileNotFoundError, ValueError, TypeError):
            continue


def _remove_ticks(job: Job[Any], units: Sequence[tuple[Unit, str]]) -> None:
    """Remove the ticks of these units, and the folder if it holds nothing else."""
    ours = {_tick_path(job, unit.name) for unit, _ in units}
    for path in ours.intersection(job.logs.list(f"ticks/{job.name}")):
        job.logs.remove(path)
    job.logs.remove_empty_folders([f"ticks/{job.name}"])
