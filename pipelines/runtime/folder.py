"""A stage's output folder from the first plan to the seal: marked unfinished, planned, cleared of strays, sealed.

What a finished folder holds is decided by the plan alone: the units' files and markers, the plan, the resolved
parameters, what `Stage.finish` wrote, and `stage.json`, which is written last and names the files no unit wrote.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from pipelines.errors import StageStopped
from pipelines.redaction import redacted_values
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE, content_of, sha256_of
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.ownership import (
    NAMES_FILE,
    UNITS_FILE,
    NamedStorage,
    Names,
    described,
    is_litter,
    names_of_unit,
    planning_code,
    read_claims,
    require_ours,
)
from pipelines.runtime.rows import ROWS_FILE, table_digest, write_rows
from pipelines.runtime.units import LEDGER, SCRATCH, FileEntry, Marker, Unit
from pipelines.shards.checksum import read_signed, signed_bytes
from pipelines.shards.index import INDEX
from pipelines.storage import Storage, canonical_json, pretty_json

#: Files of a seal that are hashed and not only measured whenever a finished stage is asked for: indexes, class names, metrics.
ALWAYS_HASHED = 1 << 18


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with identities and what is already done.

    `again` counts the transient failures of units that are to be tried again. `others` are the units whose files were made of the
    same by other code than `code`, which is the stage's now; those that were accepted are done, under the identity they have.
    `unsigned` counts the units that earlier releases made, which did not record their code.
    """

    plan: Plan
    identities: dict[str, str]
    done: dict[str, Marker]
    digest: str
    again: dict[str, int]
    code: str = ""
    others: frozenset[str] = frozenset()
    unsigned: int = 0

    @property
    def pending(self) -> list[tuple[Unit, str]]:
        return [(u, self.identities[u.name]) for u in self.plan.units if u.name not in self.done]


def plan_digest(plan: Plan, identities: Mapping[str, str], reduced_by: str = "") -> str:
    """32 hex characters over all that a plan says, units, facts and tables, and the code that puts the units together."""
    tables = {name: table_digest(table) for name, table in plan.tables.items()}
    form = [sorted(identities.items()), dict(plan.facts), tables, *([reduced_by] if reduced_by else [])]
    return hashlib.sha256(canonical_json(form)).hexdigest()[:32]


def begin(stage: Stage[Any], job: Job[Any], prepared: Prepared) -> Names:
    """Name what is there and what is planned, mark the output unfinished, then write the plan.

    Readers look for the index, so it goes first.
    """
    output, units = job.output, prepared.plan.units
    present = output.list()
    require_ours(job.name, output, present)
    tables = _table_paths(prepared.plan)
    implied = [path for unit in units for path in names_of_unit(unit.name, prepared.identities[unit.name])]
    ours = [path for path in present if not is_litter(path)]
    names = Names(output, [*ours, UNITS_FILE, CONFIG_FILE, STAGE_FILE, *tables, *implied])
    names.write()
    of_units = _unit_files(prepared.done.values())
    for path in present:
        is_seal = path.rsplit("/", 1)[-1] in (STAGE_FILE, INDEX)
        if is_seal and path not in of_units and path in names and not path.startswith(f"{SCRATCH}/"):
            output.remove(path)
    listed = [{"name": u.name, "kind": u.kind, "id": prepared.identities[u.name], "payload": u.payload} for u in units]
    form = {"stage": stage.name, "version": stage.version, "code": prepared.code, "facts": dict(prepared.plan.facts)}
    output.write_bytes(UNITS_FILE, pretty_json(redacted_values({**form, "units": listed})))
    if prepared.plan.rows:
        write_rows(output, prepared.plan.rows)
    for name, table in prepared.plan.tables.items():
        with output.replacing(_table_path(name)) as temporary:
            pq.write_table(table, str(temporary), compression="zstd")
    output.write_bytes(CONFIG_FILE, config_bytes(stage, job))
    return names


def _unit_files(markers: Any) -> set[str]:
    return {entry.path for marker in markers for entry in marker.files}


def _table_path(name: str) -> str:
    return f"{PLAN_FOLDER}/{name}.parquet"


def _table_paths(plan: Plan) -> list[str]:
    return [*map(_table_path, plan.tables), *([ROWS_FILE] if plan.rows else [])]


def resolved_config(stage: Stage[Any], job: Job[Any]) -> dict[str, Any]:
    """Every parameter a stage ran with, defaults included; without what URLs and options keep secret."""
    own = redacted_values(job.params.model_dump(mode="json"))
    return {"stage": stage.name, "version": stage.version, stage.name: own, "run": job.run.model_dump(mode="json")}


def config_bytes(stage: Stage[Any], job: Job[Any]) -> bytes:
    return signed_bytes(resolved_config(stage, job))


def finish(
    stage: Stage[Any],
    job: Job[Any],
    prepared: Prepared,
    names: Names,
    markers: Sequence[Marker],
    still_true: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Remove what of ours the plan does not name, let the stage reduce, seal. Returns the content of stage.json.

    Raises `StageStopped` when a unit's files are not there any more, when somebody else's are, or when `still_true` does:
    then nothing is sealed and no reader finds an index.
    """
    output = job.output
    of_units = _unit_files(markers)
    assert len(of_units) == sum(len(marker.files) for marker in markers), "two units wrote one file"
    planned = of_units | {marker.path for marker in markers} | {CONFIG_FILE, UNITS_FILE, NAMES_FILE}
    planned |= set(_table_paths(prepared.plan))
    _clear(job, names, planned, markers)
    job = replace(job, opened=lambda url: NamedStorage(url, names))
    try:
        with method_errors(job.name):
            facts = stage.finish(job, prepared.plan, markers)
        still_true()
        present = _require_whole(job, markers)
        if foreign := [path for path in present if path not in names and not is_litter(path)]:
            raise _visited(job, foreign)
        names.settle([*(path for path in present if not is_litter(path)), STAGE_FILE])
        form = {
            "stage": stage.name,
            "version": stage.version,
            "plan": prepared.digest,
            "units": len(markers),
            # Not the parameters: later stages name this one by the hash of this file, and some parameters decide no byte.
            "content": content_of(markers),
            # Which code made how many units.
            "code": dict(sorted(Counter(marker.code for marker in markers).items())),
            "facts": facts,
            "files": _entries(output, [path for path in present if path not in of_units | {CONFIG_FILE}]),
        }
        output.write_bytes(STAGE_FILE, signed_bytes(form))
    except BaseException:
        unseal(output, names)
        raise
    return form


def unseal(output: Storage, names: Names) -> None:
    """Take away the indexes that `Stage.finish` wrote."""
    for path in output.list():
        if path.rsplit("/", 1)[-1] == INDEX and path in names:
            output.remove(path)


def _clear(job: Job[Any], names: Names, planned: set[str], markers: Sequence[Marker]) -> None:
    """Remove what an earlier plan left: the folder must equal a clean run's."""
    output = job.output
    present = _require_whole(job, markers)
    names.add(planned | (read_claims(output, present) or set()))
    if foreign := [path for path in present if path not in names and not is_litter(path)]:
        raise _visited(job, foreign)
    stray = [path for path in present if path not in planned and path in names]
    for path in stray:
        output.remove(path)
    folders = output.sweep_temporary() | {path.rpartition("/")[0] for path in stray} | output.folders(SCRATCH)
    output.remove_empty_folders(folders)


def _require_whole(job: Job[Any], markers: Sequence[Marker]) -> dict[str, int]:
    """Look again at what is to be published; returns the sizes of all files in the output."""
    sizes = job.output.sizes()
    lost = [entry.path for marker in markers for entry in marker.files if sizes.get(entry.path) != entry.bytes]
    if lost:
        raise StageStopped(
            f"{job.name}: {described(lost)} of finished units are gone or have another size, changed by somebody while the "
            f"stage ran; nothing was published. limbeck run {job.name} makes them again"
        )
    return sizes


def _visited(job: Job[Any], foreign: Sequence[str]) -> StageStopped:
    return StageStopped(
        f"{job.name}: {described(foreign)} appeared in {job.output.url} that no record of Limbeck names; nothing was removed "
        f"or published. Move them away, then: limbeck run {job.name}"
    )


def _entries(output: Storage, paths: Iterable[str]) -> list[dict[str, Any]]:
    sizes = output.sizes()
    named = sorted(path for path in paths if not is_litter(path) and not path.startswith(f"{LEDGER}/"))
    return [asdict(FileEntry(path, sizes[path], sha256_of(output, path))) for path in named]


def sealed(stage: Stage[Any], job: Job[Any], prepared: Prepared, verify: bool) -> dict[str, Any] | None:
    """The content of stage.json if the folder is finished for exactly this plan and these parameters, else None."""
    output = job.output
    if prepared.others and planning_code(output) != prepared.code:
        return None  # that they are kept is to be written down
    try:
        form = read_signed(output.read_bytes(STAGE_FILE))
        config = output.read_bytes(CONFIG_FILE)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    try:
        entries = [FileEntry(**entry) for entry in form["files"]]
        content = content_of([prepared.done[unit.name] for unit in prepared.plan.units])
        if form["plan"] != prepared.digest or form["version"] != stage.version or config != config_bytes(stage, job):
            return None
        if form.get("content") != content:
            return None
    except (KeyError, TypeError):
        return None
    sizes = output.sizes()
    for entry in entries:
        hashed = verify or entry.bytes <= ALWAYS_HASHED
        if sizes.get(entry.path) != entry.bytes or (hashed and sha256_of(output, entry.path) != entry.sha256):
            return None
    if any(path.startswith(f"{SCRATCH}/") for path in sizes):
        return None
    return dict(form)
