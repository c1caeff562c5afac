"""What the reading commands show: plans, status, datasets. Reads files only; starts nothing, and trips over no damaged file.

Samples are looked up in `samples`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from pipelines.commands.tables import add_row, new_table, styled
from pipelines.errors import UserError
from pipelines.images.isolation import Decoders
from pipelines.images.params import HARD_CAPS, STORED_CAPS, ImageParams
from pipelines.report.words import human_bytes
from pipelines.runtime.execute import prepare
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import PLAN_FOLDER, STAGE_FILE, all_markers
from pipelines.runtime.ownership import UNITS_FILE, read_units
from pipelines.runtime.tally import Tally
from pipelines.shards.account import Account
from pipelines.shards.dataset import Dataset
from pipelines.shards.index import INDEX
from pipelines.shards.sidecar import read_sidecar
from pipelines.stages import STAGES, get_stage
from pipelines.stages.linting import lint_all
from pipelines.storage import Storage

#: Rows a table shows before it says how many more there are.
SHOWN = 40


def plan_table(job: Job[Any]) -> Table:
    """The units of a stage with what would run."""
    prepared = prepare(get_stage(job.stage), job)
    pending = {unit.name for unit, _ in prepared.pending}
    title = f"{job.name}: {len(pending)} of {len(prepared.plan.units)} units to run -> {job.output.url}"
    table = new_table(title)
    for name in ("unit", "id", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("payload", overflow="ellipsis", no_wrap=True, max_width=44)
    for unit in list(prepared.plan.units)[:SHOWN]:
        payload = ", ".join(f"{key}={value}" for key, value in unit.payload.items())
        if failures := prepared.again.get(unit.name):
            state = styled(f"again: {failures:,} failed for a time", "yellow")
        else:
            state = styled("to run", "yellow") if unit.name in pending else styled("done", "green")
        add_row(table, unit.name, prepared.identities[unit.name][:8], state, payload[:200])
    if len(prepared.plan.units) > SHOWN:
        table.caption = f"and {len(prepared.plan.units) - SHOWN} more"
    return table


def status_table(data: str) -> Table:
    """Every stage under a data folder."""
    root = Storage(data)
    if root.is_local and root.exists() and not root.root.is_dir():
        raise UserError(f"{root.url} is a file; --data takes the folder that holds every stage's output")
    table = new_table(f"stages under {root.url}")
    for name in ("stage", "state", "units", "outcomes", "size", "last run"):
        table.add_column(name)
    for stage in STAGES:
        for name in _items(root, stage) or [stage]:
            add_row(table, name, *_status_row(root.child(name.replace("@", "/")), root.child(".limbeck"), name))
    return table


def _items(root: Storage, stage: str) -> list[str]:
    """STAGE@ITEM for every item that was begun."""
    folder = root.child(stage)
    if folder.exists(PLAN_FOLDER):
        return []
    return [f"{stage}@{item}" for item in folder.subfolders() if folder.exists(f"{item}/{UNITS_FILE}")]


def _status_row(output: Storage, logs: Storage, stage: str) -> tuple[Any, ...]:
    if not output.exists(UNITS_FILE):
        begun = output.exists() and output.list()
        return ("not started" if not begun else "files that are not Limbeck's", "", "", "", "")
    planned = read_units(output)
    if planned is None:
        return styled(f"damaged plan: limbeck run {stage}", "red"), "", "", "", _last_run(logs, stage)
    identities = {unit["id"] for unit in planned}
    markers = [marker for marker in all_markers(output) if marker.identity in identities]
    tally = Tally()
    for marker in markers:
        tally.add(marker)
    state = styled("done", "green")
    if not output.exists(STAGE_FILE):
        state = styled(f"unfinished: limbeck run {stage}", "yellow")
    elif tally.transient:
        state = styled(f"done, {tally.transient:,} failed for a time: limbeck run {stage}", "yellow")
    size = sum(entry.bytes for marker in markers for entry in marker.files)
    outcomes = ", ".join(f"{name} {count:,}" for name, count in sorted(tally.counts.items()))
    return state, f"{len(markers)}/{len(planned)}", outcomes, human_bytes(size), _last_run(logs, stage)


def _last_run(logs: Storage, stage: str) -> str:
    """When and how long, from the run's log; nothing of a log that is absent or damaged."""
    try:
        log = json.loads(logs.read_bytes(f"{stage}.json"))
        return f"{log['started']}, {log['seconds']} s"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def lint_table(url: str, decode: bool) -> tuple[Table, bool]:
    """Findings of `lint` and whether the dataset is sound. Other people's images are decoded where they can do no harm."""
    if decode:
        with Decoders(ImageParams(limits=STORED_CAPS), 1) as ours, Decoders(ImageParams(limits=HARD_CAPS), 1) as others:
            report = lint_all(url, lambda data, is_ours: _decode(data, ours if is_ours else others))
    else:
        report = lint_all(url, None)
    table = new_table(f"{url}: {report.samples:,} samples, {human_bytes(report.bytes)}")
    for name in ("severity", "code", "where", "message"):
        table.add_column(name)
    for finding in report.findings[:SHOWN]:
        colour = "red" if finding.severity == "error" else "yellow"
        add_row(table, styled(finding.severity, colour), finding.code, finding.where, finding.message)
    more = len(report.findings) - SHOWN
    table.caption = f"and {more} more" if more > 0 else ("no findings" if not report.findings else None)
    return table, report.ok


def _decode(data: bytes, decoders: Decoders) -> None:
    if (outcome := decoders.check(data)) is not None:
        raise ValueError(f"{outcome.reason}: {outcome.detail}")


def info_tables(url: str, data: str, failed: bool) -> Iterator[Table]:
    """What one dataset (or every dataset of a stage) holds."""
    root = Storage(data).child(url) if url in STAGES else Storage(url)
    folders = sorted({path[: -len(INDEX)].rstrip("/") for path in root.list() if path.rsplit("/", 1)[-1] == INDEX})
    if not folders and not failed:
        hint = f"run: limbeck run {url}" if url in STAGES else "is it a dataset folder? limbeck lint checks plain tars"
        raise UserError(f"no {INDEX} under {root.url}: unfinished or not a dataset; {hint}")
    if failed:
        yield _failed_table(root)
        return
    for folder in folders:
        yield _info_table(Dataset.open(root.child(folder)), f"{root.url}/{folder}".rstrip("/"))


def _info_table(dataset: Dataset, title: str) -> Table:
    try:
        stats = json.loads(dataset.file("stats.json"))
        counted = {
            name: dict(value) for name, value in stats.items() if isinstance(value, dict) and name != "histograms"
        }
    except (FileNotFoundError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{dataset.storage.url}/stats.json cannot be read ({error}); run its stage again") from None
    table = new_table(title)
    table.add_column("what")
    table.add_column("value")
    add_row(table, "samples", f"{len(dataset):,} in {len(dataset.shards)} shards")
    add_row(table, "account", _accounted(dataset.account))
    add_row(table, "bytes", human_bytes(sum(shard.bytes for shard in dataset.shards)))
    add_row(table, "classes", f"{len(dataset.classes)}: {', '.join(dataset.classes[:12])}")
    for name, value in counted.items():
        add_row(table, name, ", ".join(f"{key or 'none'} {count}" for key, count in list(value.items())[:12]))
    return table


def _accounted(account: Account) -> str:
    """`24 seen = 20 rows + 4 hidden`."""
    others = [f"{count:,} {reason}" for reason, count in sorted(account.passed_over.items())]
    return f"{account.seen:,} seen = " + " + ".join([f"{account.rows:,} rows", *others])


def _failed_table(root: Storage) -> Table:
    """Sidecar rows that are not kept; works on unfinished outputs too."""
    table = new_table(f"samples lost under {root.url}")
    names = ["source", "outcome", "error_class", "reason", "detail"]
    for name in names:
        table.add_column(name)
    lost = 0
    for path in sidecars(root):
        for row in read_sidecar(root, path, ["key", *names]).to_pylist():
            if row["outcome"] != "kept":
                lost += 1
                if lost <= SHOWN:
                    add_row(table, *(row[name] or "" for name in names))
    table.caption = f"{lost} in all" + (f", {SHOWN} shown" if lost > SHOWN else "")
    return table


def sidecars(root: Storage) -> list[str]:
    """Paths of the sidecars of every dataset below."""
    return [path for path in root.list() if "/meta/" in f"/{path}" and path.endswith(".parquet")]
