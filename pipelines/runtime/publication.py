"""From markers to published datasets: which committed files form the shards of which dataset folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.runtime.units import Marker
from pipelines.shards.account import Met
from pipelines.shards.index import ShardEntry
from pipelines.shards.publish import publish
from pipelines.storage import Storage


def shard_entries(markers: Sequence[Marker], part: str = "") -> list[ShardEntry]:
    """The shards of dataset folder `part`, in plan order, with paths relative to that folder."""
    prefix = f"{part}/" if part else ""
    entries = []
    for marker in markers:
        files = {entry.path: entry for entry in marker.files}
        stem = marker.name.rsplit("/", 1)[-1]
        tar = files.get(f"{prefix}shards/{stem}.tar")
        if tar is None:
            continue
        kept = marker.counts.get("kept", 0)
        path, sidecar = tar.path[len(prefix) :], f"meta/{stem}.parquet"
        rows = files[f"{prefix}{sidecar}"]
        entries.append(ShardEntry(f"{stem}.tar", path, sidecar, kept, tar.bytes, tar.sha256, rows.bytes, rows.sha256))
    return entries


def publish_datasets(
    storage: Storage,
    markers: Sequence[Marker],
    classes: Sequence[str],
    extra: Mapping[str, Any],
    parts: Sequence[str] = ("",),
    met: Mapping[str, Met] | None = None,
) -> dict[str, Any]:
    """Write the indexes of every part, last of all their files; returns samples and bytes per part.

    `met` says by part what the stage met (see `account`); without it, everything has a row.
    """
    facts: dict[str, Any] = {}
    for part in parts:
        entries = shard_entries(markers, part)
        publish(storage.child(part), entries, list(classes), dict(extra), (met or {}).get(part))
        size = {"samples": sum(e.samples for e in entries), "bytes": sum(e.bytes for e in entries)}
        facts[part or "dataset"] = size | {"shards": len(entries)}
    return facts
