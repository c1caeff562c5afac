"""`limbeck show`: one sample's rows wherever they are, and its members as files.

A sidecar may come from anywhere. Its keys, extensions and offsets are never trusted with a path or a length.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.commands.info import sidecars
from pipelines.commands.tables import View, add_row, new_table, styled
from pipelines.commands.views import SHOWN
from pipelines.errors import UserError
from pipelines.shards.checksum import member_checksum
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import Storage

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 120


def show_view(key: str, data: str, out: Path | None) -> View:
    """Every sample whose key begins with `key`, in every dataset of a data folder."""
    root = Storage(data)
    hits = list(_find(root, key))
    if not hits:
        raise UserError(f"no sample with a key that begins with {key!r} in the sidecars under {root.url}")
    table = new_table(f"{key}: {len(hits)} found", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    samples = []
    for folder, sidecar, row in hits[:SHOWN]:
        shard = f"{folder}/shards/{sidecar.removesuffix('.parquet')}.tar".lstrip("/")
        add_row(table, styled("sample", "bold"), styled(f"{row['key']} in {folder or '.'}", "bold"))
        for name, value in row.items():
            if name not in ("key", "members") and value not in (None, "", []):
                add_row(table, name, value)
        for span in row["members"] or []:
            add_row(table, f".{span['ext']}", f"{shard}, {span['size']:,} bytes at {span['offset']:,}")
            if out is not None:
                _write(out.expanduser(), file_name(f"{row['key']}.{span['ext']}"), _member(root, shard, span))
        table.add_section()
        samples.append({"dataset": folder, "shard": shard, "row": row})
    return View({"data": root.url, "found": len(hits), "samples": samples}, [table])


def file_name(wanted: str) -> str:
    """A plain name inside a folder: `wanted` where it is one, else made of it and of a hash that tells it from others."""
    plain = _UNSAFE.sub("_", wanted).lstrip(".")[:_LONGEST_NAME]
    if plain == wanted:
        return wanted
    mark = hashlib.sha256(wanted.encode(errors="surrogatepass")).hexdigest()[:8]
    stem, dot, ext = plain.rpartition(".")
    return f"{stem}-{mark}.{ext}" if dot else f"{plain}-{mark}"


def _member(root: Storage, shard: str, span: dict[str, Any]) -> bytes:
    offset, size = span["offset"], span["size"]
    try:
        end = root.size(shard)
    except FileNotFoundError:
        raise UserError(f"no shard {shard} in {root.url}; limbeck lint says what is wrong") from None
    if offset is None or size is None or offset < 0 or size < 0 or offset + size > end:
        raise UserError(
            f"{root.url}/{shard} has {end:,} bytes, and its sidecar names {size} at {offset}; limbeck lint says what is wrong"
        )
    body = root.pread(shard, offset, size)
    if span["xxh3"] is not None and span["xxh3"] != member_checksum(body):
        raise UserError(
            f"the .{span['ext']} at {offset} in {root.url}/{shard} is not what was written there; limbeck lint tells more"
        )
    return body


def _write(out: Path, name: str, body: bytes) -> None:
    """Write one file into the folder, not through a link that lies there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise UserError(f"cannot write {out / name}: {error.strerror}; choose another folder with --out") from None
    with os.fdopen(handle, "wb") as file:
        file.write(body)


def _find(root: Storage, key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(dataset folder, name of the sidecar, row)."""
    for path in sidecars(root):
        folder, _, name = path.rpartition("meta/")
        keys = read_sidecar(root, path, ["key"])["key"].to_pylist()
        if any(str(value).startswith(key) for value in keys):
            for row in read_sidecar(root, path).to_pylist():
                if str(row["key"]).startswith(key):
                    yield folder.rstrip("/"), name, row
