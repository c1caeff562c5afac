"""What the reading commands show: plans, status, datasets, samples. Reads files only; starts nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipelines.errors import UserError
from pipelines.images.isolation import Decoders
from pipelines.images.params import HARD_CAPS, STORED_CAPS, ImageParams
from pipelines.report.words import human_bytes
from pipelines.runtime.execute import prepare
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import PLAN_FOLDER, STAGE_FILE, all_markers
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
    table = Table(title=f"{job.name}: {len(pending)} of {len(prepared.plan.units)} units to run -> {job.output.url}")
    for name in ("unit", "id", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("payload", overflow="ellipsis", no_wrap=True, max_width=44)
    for unit in list(prepared.plan.units)[:SHOWN]:
        payload = ", ".join(f"{key}={value}" for key, value in unit.payload.items())
        state = "[yellow]to run[/]" if unit.name in pending else "[green]done[/]"
        table.add_row(unit.name, prepared.identities[unit.name][:8], state, escape(payload[:200]))
    if len(prepared.plan.units) > SHOWN:
        table.caption = f"and {len(prepared.plan.units) - SHOWN} more"
    return table


def status_table(data: str) -> Table:
    """Every stage under a data folder."""
    table = Table(title=f"stages under {data}")
    for name in ("stage", "state", "units", "outcomes", "size", "last run"):
        table.add_column(name)
    for stage in STAGES:
        for name in _items(data, stage) or [stage]:
            output = Storage(f"{data}/{name.replace('@', '/')}")
            table.add_row(name, *_status_row(output, Storage(f"{data}/.limbeck"), name))
    return table


def _items(data: str, stage: str) -> list[str]:
    """STAGE@ITEM for every item that was begun."""
    ending = f"/{PLAN_FOLDER}/units.json"
    paths = [path.removesuffix(ending) for path in Storage(f"{data}/{stage}").list() if path.endswith(ending)]
    return [f"{stage}@{path}" for path in paths if path and "/" not in path]


def _status_row(output: Storage, logs: Storage, stage: str) -> tuple[str, str, str, str, str]:
    if not output.exists(f"{PLAN_FOLDER}/units.json"):
        return "not started", "", "", "", ""
    planned = json.loads(output.read_bytes(f"{PLAN_FOLDER}/units.json"))["units"]
    identities = {unit["id"] for unit in planned}
    markers = [marker for marker in all_markers(output) if marker.identity in identities]
    counts: Counter[str] = Counter()
    for marker in markers:
        counts.update(marker.counts)
    finished = output.exists(STAGE_FILE)
    state = "[green]done[/]" if finished else f"[yellow]unfinished[/]: limbeck run {stage}"
    size = sum(entry.bytes for marker in markers for entry in marker.files)
    log = json.loads(logs.read_bytes(f"{stage}.json")) if logs.exists(f"{stage}.json") else {}
    last = f"{log['started']}, {log['seconds']} s" if log else ""
    outcomes = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    return state, f"{len(markers)}/{len(planned)}", outcomes, human_bytes(size), last


def lint_table(url: str, decode: bool) -> tuple[Table, bool]:
    """Findings of `lint` and whether the dataset is sound. Other people's images are decoded where they can do no harm."""
    if decode:
        with Decoders(ImageParams(limits=STORED_CAPS), 1) as ours, Decoders(ImageParams(limits=HARD_CAPS), 1) as others:
            report = lint_all(url, lambda data, is_ours: _decode(data, ours if is_ours else others))
    else:
        report = lint_all(url, None)
    table = Table(title=f"{url}: {report.samples:,} samples, {human_bytes(report.bytes)}")
    for name in ("severity", "code", "where", "message"):
        table.add_column(name)
    for finding in report.findings[:SHOWN]:
        colour = "red" if finding.severity == "error" else "yellow"
        table.add_row(f"[{colour}]{finding.severity}[/]", finding.code, escape(finding.where), escape(finding.message))
    more = len(report.findings) - SHOWN
    table.caption = f"and {more} more" if more > 0 else ("no findings" if not report.findings else None)
    return table, report.ok


def _decode(data: bytes, decoders: Decoders) -> None:
    if (outcome := decoders.check(data)) is not None:
        raise ValueError(f"{outcome.reason}: {outcome.detail}")


def info_tables(url: str, data: str, failed: bool) -> Iterator[Table]:
    """What one dataset (or every dataset of a stage) holds."""
    root = Storage(f"{data}/{url}" if url in STAGES else url)
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
    stats = json.loads(dataset.file("stats.json"))
    table = Table(title=title)
    table.add_column("what")
    table.add_column("value")
    table.add_row("samples", f"{len(dataset):,} in {len(dataset.shards)} shards")
    table.add_row("bytes", human_bytes(sum(shard.bytes for shard in dataset.shards)))
    table.add_row("classes", f"{len(dataset.classes)}: {escape(', '.join(dataset.classes[:12]))}")
    for name, value in stats.items():
        if isinstance(value, dict) and name != "histograms":
            table.add_row(
                name, escape(", ".join(f"{key or 'none'} {count:,}" for key, count in list(value.items())[:12]))
            )
    return table


def _failed_table(root: Storage) -> Table:
    """Sidecar rows that are not kept; works on unfinished outputs too."""
    table = Table(title=f"samples lost under {root.url}")
    names = ["source", "outcome", "error_class", "reason", "detail"]
    for name in names:
        table.add_column(name)
    lost = 0
    for path in (path for path in root.list() if "/meta/" in f"/{path}" and path.endswith(".parquet")):
        for row in read_sidecar(root, path, ["key", *names]).to_pylist():
            if row["outcome"] != "kept":
                lost += 1
                if lost <= SHOWN:
                    table.add_row(*(escape(str(row[name] or "")) for name in names))
    table.caption = f"{lost} in all" + (f", {SHOWN} shown" if lost > SHOWN else "")
    return table


def show_key(key: str, data: str, out: Path | None) -> Table:
    """Every sample whose key begins with `key`, in every dataset of a data folder."""
    root = Storage(data)
    hits = list(_find(root, key))
    if not hits:
        raise UserError(f"no sample with a key that begins with {key!r} in the sidecars under {root.url}")
    table = Table(title=f"{key}: {len(hits)} found", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for folder, sidecar, row in hits[:SHOWN]:
        shard = sidecar.replace("meta/", "shards/").replace(".parquet", ".tar")
        table.add_row("[bold]sample[/]", f"[bold]{row['key']}[/] in {escape(folder or '.')}")
        for name, value in row.items():
            if name not in ("key", "members") and value not in (None, "", []):
                table.add_row(name, escape(str(value)))
        for span in row["members"] or []:
            table.add_row(f".{span['ext']}", escape(f"{shard}, {span['size']:,} bytes at {span['offset']:,}"))
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                body = root.pread(f"{folder}/{shard}".lstrip("/"), span["offset"], span["size"])
                (out / f"{row['key']}.{span['ext']}").write_bytes(body)
        table.add_section()
    return table


def _find(root: Storage, key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in (path for path in root.list() if "/meta/" in f"/{path}" and path.endswith(".parquet")):
        folder, _, name = path.rpartition("meta/")
        folder = folder.rstrip("/")
        keys = read_sidecar(root, path, ["key"])["key"].to_pylist()
        if any(str(value).startswith(key) for value in keys):
            for row in read_sidecar(root, path).to_pylist():
                if row["key"].startswith(key):
                    yield folder, f"meta/{name}", row
