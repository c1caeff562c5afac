"""Seals a folder that a test filled by hand, as the driver seals the output of a stage."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipelines.runtime.ledger import CONFIG_FILE, STAGE_FILE, all_markers, content_of
from pipelines.runtime.units import LEDGER, FileEntry
from pipelines.shards.checksum import file_sum, read_signed, signed_bytes
from pipelines.storage import Storage


def seal(folder: Path | Storage, stage: str, **said: Any) -> None:
    """Write `stage.json` over all that lies in the folder now, once more if it was there; `said` is put into it."""
    storage = folder if isinstance(folder, Storage) else Storage(folder)
    if not storage.exists(CONFIG_FILE):
        storage.write_bytes(CONFIG_FILE, signed_bytes({"stage": stage, stage: {}}))
    markers = all_markers(storage)
    of_units = {file.path for marker in markers for file in marker.files}
    files = [
        {"path": path, **asdict(file_sum(storage, path))}
        for path in storage.list()
        if path not in of_units | {STAGE_FILE, CONFIG_FILE} and not path.startswith(f"{LEDGER}/")
    ]
    form = {"stage": stage, "version": 1, "plan": "0" * 32, "units": len(markers), "facts": {}, "files": files}
    form["content"] = content_of(markers)
    storage.write_bytes(STAGE_FILE, signed_bytes(form | said))


def remark(folder: Path, path: str) -> None:
    """Let the marker of the unit that wrote a file vouch for what lies there now."""
    storage = Storage(folder)
    for marker in all_markers(storage):
        files = tuple(
            FileEntry(f.path, **asdict(file_sum(storage, f.path))) if f.path == path else f for f in marker.files
        )
        storage.write_bytes(marker.path, replace(marker, files=files).to_json())
    form = read_signed(storage.read_bytes(STAGE_FILE))
    storage.write_bytes(STAGE_FILE, signed_bytes(form | {"content": content_of(all_markers(storage))}))
