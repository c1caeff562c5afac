"""`limbeck info`: what a dataset holds, or a stage that makes none, by any name that Limbeck prints."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from pipelines.commands.tables import View, add_row, new_table
from pipelines.commands.views import SHOWN
from pipelines.errors import UserError
from pipelines.report.words import human_bytes
from pipelines.runtime.finished import Finished
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.shards.account import Account
from pipelines.shards.dataset import Dataset
from pipelines.shards.index import INDEX
from pipelines.shards.sidecar import read_sidecar
from pipelines.stages import STAGES
from pipelines.storage import Storage

#: Columns of the rows that were not kept.
LOST = ("source", "outcome", "error_class", "reason", "detail")


def info_view(name: str, data: str, failed: bool) -> View:
    """What lies at STAGE, STAGE@ITEM, STAGE/PART, STAGE@ITEM/PART, a path or a URL.

    A stage's name means its output in the data folder `data`; where there is none, a path of that name. Of a stage without
    a dataset its files and facts are shown. `failed` lists the samples that were lost instead, of unfinished outputs too.
    """
    root, stage = place_of(name, data)
    if failed:
        return _lost_view(root)
    present = root.list()
    folders = sorted({path[: -len(INDEX)].rstrip("/") for path in present if path.rsplit("/", 1)[-1] == INDEX})
    stages = sorted({path[: -len(STAGE_FILE)].rstrip("/") for path in present if f"/{path}".endswith(f"/{STAGE_FILE}")})
    alone = [folder for folder in stages if not any(_within(one, folder) for one in folders)]
    if not folders and not alone:
        run = stage.partition("/")[0]
        hint = f"run: limbeck run {run}" if run else "is it a dataset folder? limbeck lint checks plain tars"
        raise UserError(f"no {INDEX} under {root.url}: unfinished or not a dataset; {hint}")
    datasets = [_dataset_form(Dataset.open(root.child(folder)), _joined(root, folder)) for folder in folders]
    others = [
        _stage_form(root.child(folder), _joined(root, folder), "@".join(filter(None, (stage, folder))))
        for folder in alone
    ]
    form = {"url": root.url, "datasets": datasets, "stages": others}
    return View(form, [*map(_dataset_table, datasets), *map(_stage_table, others)])


def place_of(name: str, data: str) -> tuple[Storage, str]:
    """The folder of a name, and STAGE or STAGE@ITEM if it is one of a stage."""
    head, slash, part = name.partition("/")
    stage, _, item = head.partition("@")
    if stage in STAGES:
        folder = Storage(data).child("/".join(filter(None, (stage, item, part))))
        if folder.exists() or not slash or item:
            return folder, head if not part else f"{head}/{part}"
    return Storage(name), ""


def _joined(root: Storage, folder: str) -> str:
    return f"{root.url}/{folder}".rstrip("/")


def _within(folder: str, outer: str) -> bool:
    return not outer or folder == outer or folder.startswith(f"{outer}/")


def _dataset_form(dataset: Dataset, url: str) -> dict[str, Any]:
    try:
        stats = json.loads(dataset.file("stats.json"))
        counted = {
            name: dict(value) for name, value in stats.items() if isinstance(value, dict) and name != "histograms"
        }
    except (FileNotFoundError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{dataset.storage.url}/stats.json cannot be read ({error}); run its stage again") from None
    return {
        "url": url,
        "samples": len(dataset),
        "shards": len(dataset.shards),
        "bytes": sum(shard.bytes for shard in dataset.shards),
        "account": dataset.account.to_json(),
        "classes": dataset.classes,
        "counts": counted,
    }


def _dataset_table(form: dict[str, Any]) -> Table:
    table = _two_columns(form["url"])
    classes = form["classes"]
    add_row(table, "samples", f"{form['samples']:,} in {form['shards']} shards")
    add_row(table, "account", _accounted(Account.from_json(form["account"])))
    add_row(table, "bytes", human_bytes(form["bytes"]))
    add_row(table, "classes", f"{len(classes)}: {', '.join(classes[:12])}")
    for name, value in form["counts"].items():
        add_row(table, name, ", ".join(f"{key or 'none'} {count}" for key, count in list(value.items())[:12]))
    return table


def _accounted(account: Account) -> str:
    """`24 seen = 20 rows + 4 hidden`."""
    others = [f"{count:,} {reason}" for reason, count in sorted(account.passed_over.items())]
    return f"{account.seen:,} seen = " + " + ".join([f"{account.rows:,} rows", *others])


def _stage_form(folder: Storage, url: str, stage: str) -> dict[str, Any]:
    """A finished stage that leaves no dataset: its files, and what it says of itself."""
    finished = Finished(folder, stage)
    sizes = {path: entry.bytes for path, entry in finished.sealed.items()}
    sizes |= {file.path: file.bytes for marker in finished.markers for file in marker.files}
    files = [{"path": path, "bytes": size} for path, size in sorted(sizes.items()) if not path.startswith("plan/")]
    form = finished.form
    return {"url": url, "units": form["units"], "version": form["version"], "facts": form["facts"], "files": files}


def _stage_table(form: dict[str, Any]) -> Table:
    table = _two_columns(form["url"])
    add_row(table, "datasets", "none; a finished stage")
    add_row(table, "units", f"{form['units']:,}")
    for name, value in form["facts"].items():
        add_row(table, name, json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value)
    for file in form["files"][:SHOWN]:
        add_row(table, file["path"], human_bytes(file["bytes"]))
    if len(form["files"]) > SHOWN:
        table.caption = f"and {len(form['files']) - SHOWN} more files"
    return table


def _two_columns(title: str) -> Table:
    table = new_table(title)
    table.add_column("what")
    table.add_column("value", overflow="fold")
    return table


def _lost_view(root: Storage) -> View:
    """Sidecar rows that are not kept."""
    lost = [
        {name: row[name] or "" for name in ("key", *LOST)}
        for path in sidecars(root)
        for row in read_sidecar(root, path, ["key", *LOST]).to_pylist()
        if row["outcome"] != "kept"
    ]
    table = new_table(f"samples lost under {root.url}")
    for name in LOST:
        table.add_column(name)
    for row in lost[:SHOWN]:
        add_row(table, *(row[name] for name in LOST))
    table.caption = f"{len(lost)} in all" + (f", {SHOWN} shown" if len(lost) > SHOWN else "")
    return View({"url": root.url, "lost": lost}, [table])


def sidecars(root: Storage) -> list[str]:
    """Paths of the sidecars of every dataset below."""
    return [path for path in root.list() if "/meta/" in f"/{path}" and path.endswith(".parquet")]
