"""Checks the output of a stage against its seal: every file is there, is the one that was left, and is named by somebody.

The datasets in it are checked by `pipelines.shards.lint`; what their indexes name is not read a second time here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from pipelines.errors import UserError
from pipelines.runtime.finished import Finished
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE, content_of, read_marker
from pipelines.runtime.units import LEDGER
from pipelines.shards.checksum import FileSum, file_sum
from pipelines.shards.findings import Findings
from pipelines.shards.index import INDEX, read_index
from pipelines.storage import Storage


def stage_roots(files: Iterable[str]) -> list[str]:
    """The folders among `files` that are outputs of stages, finished or not; with a slash at the end, or empty."""
    roots = set()
    for path in files:
        for mark in (f"{LEDGER}/", f"{PLAN_FOLDER}/units.json", STAGE_FILE):
            head, mark_at, _ = f"/{path}".partition(f"/{mark}")
            if mark_at:
                roots.add(f"{head[1:]}/" if head else "")
    return sorted(
        root for root in roots if not any(root != other and root.startswith(other) for other in roots if other)
    )


def check_stage(storage: Storage, files: list[str], findings: Findings) -> Finished | None:
    """Report what is wrong with the output of a stage; `files` are all paths in it. None when it is not finished."""
    if STAGE_FILE not in files:
        findings.error("unfinished", STAGE_FILE, "the stage is unfinished: see `limbeck status`")
        return None
    try:
        stage = Finished(storage, _name(storage))
    except UserError as error:
        findings.error("seal_damaged", STAGE_FILE, str(error))
        return None
    try:
        stage.config()
    except UserError as error:
        findings.error("config_damaged", CONFIG_FILE, str(error))
    named = dict(stage.sealed)
    markers = []
    of_datasets = _of_datasets(storage, stage.parts())
    for path in (path for path in files if path.startswith(f"{LEDGER}/")):
        marker = read_marker(storage, path)
        if marker is None:
            findings.error("marker_damaged", path, "it is not the marker that the unit left")
            continue
        named |= {file.path: FileSum(file.bytes, file.sha256) for file in marker.files}
        markers.append(marker)
    count = sum(path.startswith(f"{LEDGER}/") for path in files)
    if count != stage.form["units"]:
        findings.error("marker_count", LEDGER, f"{count} markers, the seal says {stage.form['units']} units")
    elif len(markers) == count and content_of(markers) != stage.form["content"]:
        findings.error("marker_content", LEDGER, "the markers are not those that were sealed")
    for path, recorded in sorted(named.items()):
        if path not in files:
            if path not in of_datasets:  # else a finding of the dataset
                findings.error("missing_file", path, "the stage left it but it is not there")
        elif (of_datasets.get(path) or file_sum(storage, path)) != recorded:
            findings.error("file_changed", path, "it is not the file that the stage left: its SHA-256 is another")
    _unnamed(files, named.keys() | of_datasets.keys() | {STAGE_FILE, CONFIG_FILE}, stage.parts(), findings)
    return stage


def _unnamed(files: list[str], named: set[str], parts: Iterable[str], findings: Findings) -> None:
    """What no record names, outside of the datasets, which are looked after by themselves."""
    prefixes = [f"{part}/" if part else "" for part in parts]
    inside = tuple(f"{prefix}{folder}/" for prefix in prefixes for folder in ("shards", "meta"))
    for path in files:
        if path in named or path.startswith((f"{LEDGER}/", *inside)):
            continue
        if f"/{path}".rpartition("/")[0].endswith(("/shards", "/meta")) and path.endswith((".tar", ".parquet")):
            findings.error("unnamed_shard", path, "no index names it, so no reader sees it")
        else:
            findings.warning("leftover_file", path, "no record of the stage names it")


def _name(storage: Storage) -> str:
    """What the stage is run as, for the sentences: STAGE, or STAGE@ITEM, from its seal and its folder."""
    parent, _, name = storage.url.rstrip("/").rpartition("/")
    try:
        stage = str(json.loads(storage.read_bytes(STAGE_FILE))["stage"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return name
    return f"{stage}@{name}" if parent.rpartition("/")[2] == stage else stage


def _of_datasets(storage: Storage, parts: Iterable[str]) -> dict[str, FileSum]:
    """What the indexes say of the files of their datasets; nothing of an index that cannot be read."""
    recorded: dict[str, FileSum] = {}
    for part in parts:
        try:
            index = read_index(storage.child(part))
        except UserError:
            continue
        prefix = f"{part}/" if part else ""
        recorded |= {f"{prefix}{path}": said for path, said in index.sums.items() if path != INDEX}
    return recorded
