"""The driver: plan, skip what is done, run the rest, reduce, publish. The same for every stage and every runner."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import __version__
from pipelines.errors import UserError
from pipelines.runtime.breaker import Breaker
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE, Ledger
from pipelines.runtime.progress import ProgressView
from pipelines.runtime.units import LEDGER, Marker, Unit
from pipelines.storage import Storage, canonical_json, pretty_json


class Runner(Protocol):
    """Runs units somewhere and yields what became of each, in any order."""

    def run(
        self,
        stage: Stage[Any],
        job: Job[Any],
        units: Sequence[tuple[Unit, str]],
        tick: Callable[[str, float, float, str], None],
    ) -> Iterator[Marker | UnitError]:
        """Yield a marker or an error for every unit given."""
        ...


@dataclass(frozen=True, slots=True)
class UnitError:
    """A unit that raised; `error` is one line, `trace` the whole."""

    unit: str
    error: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with identities and what is already done."""

    plan: Plan
    identities: dict[str, str]
    done: dict[str, Marker]
    digest: str

    @property
    def pending(self) -> list[tuple[Unit, str]]:
        return [(u, self.identities[u.name]) for u in self.plan.units if u.name not in self.done]


def prepare(stage: Stage[Any], job: Job[Any], verify: bool = False) -> Prepared:
    """Plan a job and look at what its output already holds. Reads only."""
    plan = stage.plan(job)
    params = stage.identity_params(job)
    identities = {unit.name: unit.identity(stage.name, stage.version, params) for unit in plan.units}
    assert len(identities) == len(plan.units), f"{stage.name} planned two units of one name"
    digest = hashlib.sha256(canonical_json([sorted(identities.items()), dict(plan.facts)])).hexdigest()[:32]
    return Prepared(plan, identities, Ledger(job.output, verify).done(identities, plan.units), digest)


def execute(stage: Stage[Any], job: Job[Any], runner: Callable[[], Runner], verify: bool = False) -> dict[str, Any]:
    """Bring the output of a stage up to date. Returns the content of stage.json, with `ran` = units run now."""
    with _only_run(job):
        started = time.time()
        job.output.sweep_temporary()
        prepared = prepare(stage, job, verify)
        finished = _finished(job.output)
        if not prepared.pending and finished is not None and finished.get("plan") == prepared.digest:
            return {**finished, "ran": 0}
        _begin(stage, job, prepared)
        markers = dict(prepared.done)
        breaker = Breaker(stage.name, job.run.breaker)
        if prepared.pending:
            with ProgressView(stage.name, len(prepared.plan.units), len(markers)) as view:
                for result in runner().run(stage, job, prepared.pending, view.tick):
                    if isinstance(result, UnitError):
                        breaker.unit_error(result.unit, result.error)
                        continue
                    markers[result.name] = result
                    view.finished(result)
                    breaker.finished(result)
        breaker.raise_if_any()
        ordered = [markers[unit.name] for unit in prepared.plan.units]
        facts = _finish(stage, job, prepared, ordered)
        _log(stage, job, prepared, started, len(prepared.pending))
        return {**facts, "ran": len(prepared.pending)}


def _finished(output: Storage) -> dict[str, Any] | None:
    import json

    if not output.exists(STAGE_FILE):
        return None
    try:
        form = json.loads(output.read_bytes(STAGE_FILE))
    except ValueError:
        return None
    return form if isinstance(form, dict) else None


def _begin(stage: Stage[Any], job: Job[Any], prepared: Prepared) -> None:
    """Mark the output unfinished, then write the plan. Readers look for the index, so it goes first."""
    output = job.output
    for path in output.list():
        name = path.rsplit("/", 1)[-1]
        if name in (STAGE_FILE, "index.json"):
            output.remove(path)
    units = [{"name": u.name, "id": prepared.identities[u.name], "payload": u.payload} for u in prepared.plan.units]
    form = {"stage": stage.name, "version": stage.version, "facts": dict(prepared.plan.facts), "units": units}
    output.write_bytes(f"{PLAN_FOLDER}/units.json", pretty_json(form))
    for name, groups in prepared.plan.tables.items():
        with output.replacing(f"{PLAN_FOLDER}/{name}.parquet") as temporary:
            _write_table(str(temporary), groups)
    output.write_bytes(CONFIG_FILE, pretty_json(resolved_config(stage, job)))


def _write_table(path: str, groups: Sequence[pa.Table]) -> None:
    """One row group per element, so that a unit reads its own slice only."""
    with pq.ParquetWriter(path, groups[0].schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(group.num_rows, 1))


def resolved_config(stage: Stage[Any], job: Job[Any]) -> dict[str, Any]:
    """Every parameter a stage ran with, defaults included."""
    own = job.params.model_dump(mode="json")
    return {"stage": stage.name, "version": stage.version, stage.name: own, "run": job.run.model_dump(mode="json")}


def _finish(stage: Stage[Any], job: Job[Any], prepared: Prepared, markers: list[Marker]) -> dict[str, Any]:
    output = job.output
    named = {entry.path for marker in markers for entry in marker.files} | {marker.path for marker in markers}
    named |= {CONFIG_FILE, f"{PLAN_FOLDER}/units.json"} | {f"{PLAN_FOLDER}/{t}.parquet" for t in prepared.plan.tables}
    named |= stage.keeps(job)
    for path in output.list():
        if path not in named:
            output.remove(path)  # what an earlier plan left: the folder must equal a clean run's
    output.sweep_temporary()
    output.remove_empty_folders()
    facts = stage.finish(job, prepared.plan, markers)
    form = {
        "stage": stage.name,
        "version": stage.version,
        "plan": prepared.digest,
        "units": len(markers),
        "facts": facts,
    }
    output.write_bytes(STAGE_FILE, pretty_json(form))
    return form


@contextmanager
def _only_run(job: Job[Any]) -> Iterator[None]:
    """One run of a stage per data folder; the lock dies with its process. Object stores rely on idempotent units."""
    if not job.logs.is_local:
        with nullcontext():
            yield
        return
    folder = job.logs.root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f"{job.stage}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --data") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(handle, 32, 0).decode(errors="replace") or "unknown"
            raise UserError(
                f"another run of {job.stage} (process {owner}) is writing {job.output.url}; wait for it or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _log(stage: Stage[Any], job: Job[Any], prepared: Prepared, started: float, ran: int) -> None:
    form = {
        "stage": stage.name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "units": len(prepared.plan.units),
        "ran": ran,
        "limbeck": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    job.logs.write_bytes(f"{stage.name}.json", pretty_json(form))


def require_finished(storage: Storage, stage: str) -> None:
    """A stage reads only finished inputs."""
    if not storage.exists(STAGE_FILE):
        state = "is unfinished" if storage.exists(LEDGER) else "does not exist"
        raise UserError(f"the input {storage.url} {state}; run first: limbeck run {stage}")
