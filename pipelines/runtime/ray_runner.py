"""Runs units on Ray: plain tasks for CPU units, a pool of actors that hold models for model units.

Pixels never enter the object store: workers read and write storage themselves and return a marker. `RAY_ADDRESS` names
a cluster to join, otherwise a local Ray is started, only here and when there is work. A worker that dies costs one unit,
which Ray runs again; the bytes do not depend on who runs it or when.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.errors import LimbeckError
from pipelines.runtime.execute import UnitError
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.serial import describe, run_unit
from pipelines.runtime.units import Marker, Unit

Result = Marker | UnitError | LimbeckError
#: Seconds between looks at the ticks of running units.
POLL = 2.0
#: How often Ray runs a unit again whose worker died.
RETRIES = 3

_open_workers: dict[str, Any] = {}


def run_unit_in_worker(stage: Stage[Any], job: Job[Any], unit: Unit, identity: str) -> Result:
    """Runs in a Ray worker process. The stage's worker state is opened once per process and job."""
    try:
        key = f"{stage.name}:{job.data}:{job.params!r}"
        if key not in _open_workers:
            _open_workers.clear()
            _open_workers[key] = stage.open(job)
        last = 0.0

        def tick(done: float, total: float, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= POLL:
                last = time.monotonic()
                job.logs.write_bytes(_tick_path(stage, unit.name), json.dumps([done, total, note]).encode())

        return run_unit(stage, job, _open_workers[key], unit, identity, tick)
    except LimbeckError as error:
        return error
    except Exception as error:
        return UnitError(unit.name, describe(error), traceback.format_exc())


def _tick_path(stage: Stage[Any], unit: str) -> str:
    return f"ticks/{stage.name}/{unit}.json"


class UnitActor:
    """A worker process that keeps its models between units."""

    def run(self, stage: Stage[Any], job: Job[Any], unit: Unit, identity: str) -> Result:
        return run_unit_in_worker(stage, job, unit, identity)


class RayRunner:
    """`workers` units at a time; as many as the cluster has CPUs (or GPUs, for model stages) when None."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers

    def run(
        self,
        stage: Stage[Any],
        job: Job[Any],
        units: Sequence[tuple[Unit, str]],
        tick: Callable[[str, float, float, str], None],
    ) -> Iterator[Result]:
        import ray

        with session(self._workers, job.run.threads):
            workers = min(self._workers or self._default_workers(stage, job), len(units))
            submit = self._actors(stage, job, workers) if stage.workers == "actors" else self._tasks(stage, job)
            waiting, running = deque(units), {}
            while waiting or running:
                while waiting and len(running) < workers:
                    unit, identity = waiting.popleft()
                    reference, release = submit(unit, identity)
                    running[reference] = (unit, release)
                ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
                for reference in ready:
                    unit, release = running.pop(reference)
                    release()
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        result = UnitError(unit.name, f"its worker died {RETRIES + 1} times: {describe(error)}")
                    if isinstance(result, LimbeckError):
                        raise result
                    yield result
                if not ready:
                    _relay_ticks(stage, job, [unit.name for unit, _ in running.values()], tick)
        if job.logs.exists(f"ticks/{stage.name}"):
            job.logs.remove(f"ticks/{stage.name}")

    def _default_workers(self, stage: Stage[Any], job: Job[Any]) -> int:
        import ray

        resources = ray.cluster_resources()
        if stage.workers == "actors" and job.run.device != "cpu" and resources.get("GPU"):
            return int(resources["GPU"])
        return max(1, int(resources.get("CPU", 1)) // (job.run.threads if stage.computes else 1))

    def _tasks(self, stage: Stage[Any], job: Job[Any]) -> Callable[[Unit, str], tuple[Any, Callable[[], None]]]:
        import ray

        task = ray.remote(max_retries=RETRIES, num_cpus=1)(run_unit_in_worker)
        return lambda unit, identity: (task.remote(stage, job, unit, identity), lambda: None)

    def _actors(
        self, stage: Stage[Any], job: Job[Any], workers: int
    ) -> Callable[[Unit, str], tuple[Any, Callable[[], None]]]:
        import ray

        gpus = 1 if job.run.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        options = {"max_restarts": -1, "max_task_retries": RETRIES, "num_cpus": 1, "num_gpus": gpus}
        idle = deque(ray.remote(**options)(UnitActor).remote() for _ in range(workers))

        def submit(unit: Unit, identity: str) -> tuple[Any, Callable[[], None]]:
            actor = idle.popleft()
            return actor.run.remote(stage, job, unit, identity), lambda: idle.append(actor)

        return submit


def _relay_ticks(stage: Stage[Any], job: Job[Any], units: Sequence[str], tick: Callable[..., None]) -> None:
    for unit in units:
        try:
            tick(unit, *json.loads(job.logs.read_bytes(_tick_path(stage, unit))))
        except (FileNotFoundError, ValueError):
            continue


@contextmanager
def session(workers: int | None, threads: int) -> Iterator[None]:
    """The cluster named by RAY_ADDRESS, a session that is already there, or a local one for the time of the run."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=environment, log_to_driver=False)
    else:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        yield
    finally:
        ray.shutdown()
