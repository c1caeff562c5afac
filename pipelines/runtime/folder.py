"""A stage's output folder from the first plan to the seal: marked unfinished, planned, cleared of strays, sealed.

What a finished folder holds is decided by the plan alone: the units' files and markers, the plan, the resolved
parameters, what `Stage.finish` wrote, and `stage.json`, which is written last and names the files no unit wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE, sha256_of
from pipelines.runtime.units import SCRATCH, FileEntry, Marker, Unit
from pipelines.shards.checksum import read_signed, signed_bytes
from pipelines.shards.index import INDEX
from pipelines.storage import Storage, canonical_json, pretty_json

UNITS_FILE = f"{PLAN_FOLDER}/units.json"


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


def plan_digest(plan: Plan, identities: Mapping[str, str]) -> str:
    """32 hex characters over all that a plan says: units, facts and tables."""
    form = [sorted(identities.items()), dict(plan.facts), {n: _table_digest(t) for n, t in plan.tables.items()}]
    return hashlib.sha256(canonical_json(form)).hexdigest()[:32]


def _table_digest(groups: Sequence[pa.Table]) -> str:
    digest = hashlib.sha256()
    for group in groups:
        for batch in group.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def begin(stage: Stage[Any], job: Job[Any], prepared: Prepared) -> None:
    """Mark the output unfinished, then write the plan. Readers look for the index, so it goes first."""
    output = job.output
    of_units = _unit_files(prepared.done.values())
    for path in output.list():
        is_seal = path.rsplit("/", 1)[-1] in (STAGE_FILE, INDEX)
        if is_seal and path not in of_units and not path.startswith(f"{SCRATCH}/"):
            output.remove(path)
    units = [{"name": u.name, "id": prepared.identities[u.name], "payload": u.payload} for u in prepared.plan.units]
    form = {"stage": stage.name, "version": stage.version, "facts": dict(prepared.plan.facts), "units": units}
    output.write_bytes(UNITS_FILE, pretty_json(form))
    for name, groups in prepared.plan.tables.items():
        with output.replacing(_table_path(name)) as temporary:
            _write_table(str(temporary), groups)
    output.write_bytes(CONFIG_FILE, config_bytes(stage, job))


def _unit_files(markers: Any) -> set[str]:
    return {entry.path for marker in markers for entry in marker.files}


def _table_path(name: str) -> str:
    return f"{PLAN_FOLDER}/{name}.parquet"


def _write_table(path: str, groups: Sequence[pa.Table]) -> None:
    """One row group per element, so that a unit reads its own slice only."""
    assert groups, f"{path} has no rows to plan"
    with pq.ParquetWriter(path, groups[0].schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(group.num_rows, 1))


def resolved_config(stage: Stage[Any], job: Job[Any]) -> dict[str, Any]:
    """Every parameter a stage ran with, defaults included."""
    own = job.params.model_dump(mode="json")
    return {"stage": stage.name, "version": stage.version, stage.name: own, "run": job.run.model_dump(mode="json")}


def config_bytes(stage: Stage[Any], job: Job[Any]) -> bytes:
    return pretty_json(resolved_config(stage, job))


def finish(stage: Stage[Any], job: Job[Any], prepared: Prepared, markers: Sequence[Marker]) -> dict[str, Any]:
    """Remove what the plan does not name, let the stage reduce, seal. Returns the content of stage.json."""
    output = job.output
    of_units = _unit_files(markers)
    assert len(of_units) == sum(len(marker.files) for marker in markers), "two units wrote one file"
    of_units |= {marker.path for marker in markers}
    named = of_units | {CONFIG_FILE, UNITS_FILE} | {_table_path(name) for name in prepared.plan.tables}
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
        # Not the parameters: later stages name this one by the hash of this file, and some parameters decide no byte.
        "files": _entries(output, of_units | {CONFIG_FILE}),
    }
    output.write_bytes(STAGE_FILE, signed_bytes(form))
    return form


def _entries(output: Storage, leave_out: set[str]) -> list[dict[str, Any]]:
    sizes = output.sizes()
    names = sorted(path for path in sizes if path not in leave_out)
    return [asdict(FileEntry(path, sizes[path], sha256_of(output, path))) for path in names]


def sealed(stage: Stage[Any], job: Job[Any], prepared: Prepared, verify: bool) -> dict[str, Any] | None:
    """The content of stage.json if the folder is finished for exactly this plan and these parameters, else None."""
    output = job.output
    try:
        form = read_signed(output.read_bytes(STAGE_FILE))
        config = output.read_bytes(CONFIG_FILE)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    try:
        entries = [FileEntry(**entry) for entry in form["files"]]
        if form["plan"] != prepared.digest or form["version"] != stage.version or config != config_bytes(stage, job):
            return None
    except (KeyError, TypeError):
        return None
    sizes = output.sizes()
    for entry in entries:
        if sizes.get(entry.path) != entry.bytes or (verify and sha256_of(output, entry.path) != entry.sha256):
            return None
    return dict(form)
