"""`index.json`: the list of shards that makes a folder a finished dataset. It is written last and read first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.errors import UserError
from pipelines.storage import Storage

INDEX = "index.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard: name, paths of tar and sidecar inside the folder, kept samples, bytes and SHA-256 (hex) of the tar."""

    name: str
    path: str
    sidecar: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Index:
    """What `index.json` says. `extra` is whatever the stage wanted recorded (its name, a hash of its parameters)."""

    shards: tuple[ShardEntry, ...]
    extra: dict[str, Any]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """The document that `read_index` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "shards": [asdict(shard) for shard in self.shards],
            "samples": self.samples,
            "bytes": self.bytes,
            "extra": self.extra,
        }


def read_index(storage: Storage) -> Index:
    """Read and check `index.json`. Raises `UserError` when the folder is unfinished or the file is not an index."""
    where = f"{storage.url}/{INDEX}"
    try:
        raw = storage.read_bytes(INDEX)
    except (FileNotFoundError, NotADirectoryError):
        state = "an unfinished dataset" if storage.exists() else "not there"
        raise UserError(
            f"{storage.url} is {state}: it has no {INDEX}; `limbeck status` shows what is missing "
            "and `limbeck run STAGE` finishes it"
        ) from None
    try:
        document = json.loads(raw)
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(f"{where} has schema version {version!r}; this release reads {SCHEMA_VERSION}")
        index = Index(tuple(_entry(shard) for shard in document["shards"]), dict(document["extra"]))
        totals = (document["samples"], document["bytes"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where} is damaged: {type(error).__name__}: {error}") from error
    if totals != (index.samples, index.bytes):
        raise UserError(f"{where} is damaged: its totals {totals} are not the sums {(index.samples, index.bytes)}")
    return index


def _entry(shard: dict[str, Any]) -> ShardEntry:
    entry = ShardEntry(**shard)
    for text in (entry.name, entry.path, entry.sidecar, entry.sha256):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is not a string")
    for count in (entry.samples, entry.bytes):
        if not isinstance(count, int) or count < 0:
            raise TypeError(f"{count!r} is not a count")
    for path in (entry.path, entry.sidecar):
        if escapes(path):
            raise ValueError(f"the path {path!r} leaves the folder")
    return entry


def escapes(path: str) -> bool:
    """Whether a path from data could point outside the folder it is meant to lie in."""
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or not pure.parts
