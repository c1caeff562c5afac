"""`index.json`: the list of shards that makes a folder a finished dataset. It is written last and read first.

It holds size and hash of every file of the dataset, and a checksum of itself, so that nothing can be changed, added or taken
away unseen: see `checksum`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipelines.errors import UserError
from pipelines.shards.account import Account
from pipelines.shards.checksum import FileSum, read_signed, remedy
from pipelines.storage import Storage

INDEX = "index.json"
SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard: name, paths of tar and sidecar inside the folder, kept samples, bytes and SHA-256 (hex) of both files."""

    name: str
    path: str
    sidecar: str
    samples: int
    bytes: int
    sha256: str
    sidecar_bytes: int
    sidecar_sha256: str

    @property
    def sums(self) -> dict[str, FileSum]:
        """What the index says of the two files."""
        return {
            self.path: FileSum(self.bytes, self.sha256),
            self.sidecar: FileSum(self.sidecar_bytes, self.sidecar_sha256),
        }


@dataclass(frozen=True, slots=True)
class Index:
    """What `index.json` says. `extra` is whatever the stage wanted recorded (its name, a hash of its parameters).

    `files` are the describing files of the dataset by path, such as `classes.json`.
    """

    shards: tuple[ShardEntry, ...]
    extra: Mapping[str, Any]
    account: Account
    files: Mapping[str, FileSum] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def sums(self) -> dict[str, FileSum]:
        """Size and hash of every file of the dataset but the index."""
        return {path: recorded for shard in self.shards for path, recorded in shard.sums.items()} | dict(self.files)

    def to_json(self) -> dict[str, Any]:
        """The document that `read_index` reads, without its checksum."""
        return {
            "schema_version": SCHEMA_VERSION,
            "shards": [asdict(shard) for shard in self.shards],
            "files": {path: asdict(recorded) for path, recorded in self.files.items()},
            "samples": self.samples,
            "bytes": self.bytes,
            "account": self.account.to_json(),
            "extra": dict(self.extra),
        }


def read_index(storage: Storage, signed: bool = True, made_by: str = "STAGE") -> Index:
    """Read and check `index.json`. Raises `UserError` when the folder is unfinished or the file is not an index.

    Without `signed`, an index that was changed after it was written is read all the same: for `lint`.
    """
    where = f"{storage.url}/{INDEX}"
    try:
        raw = storage.read_bytes(INDEX)
    except (FileNotFoundError, NotADirectoryError):
        state = "an unfinished dataset" if storage.exists() else "not there"
        raise UserError(
            f"{storage.url} is {state}: it has no {INDEX}; `limbeck status` shows what is missing "
            f"and `limbeck run {made_by}` finishes it"
        ) from None
    try:
        version = json.loads(raw)["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{where} has schema version {version!r}, this release reads {SCHEMA_VERSION}; make the dataset anew with "
                f"the command that made it: limbeck run {made_by}"
            )
        document = read_signed(raw) if signed else json.loads(raw)
        shards = tuple(_entry(shard) for shard in document["shards"])
        files = {str(path): _sum(recorded) for path, recorded in document["files"].items()}
        index = Index(shards, dict(document["extra"]), Account.from_json(document["account"]), files)
        totals = (document["samples"], document["bytes"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where} is damaged: {_said(error)}; {remedy(made_by)}") from error
    if totals != (index.samples, index.bytes):
        raise UserError(f"{where} is damaged: its totals {totals} are not the sums {(index.samples, index.bytes)}")
    return index


def _said(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _entry(shard: dict[str, Any]) -> ShardEntry:
    entry = ShardEntry(**shard)
    for text in (entry.name, entry.path, entry.sidecar, entry.sha256, entry.sidecar_sha256):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is not a string")
    for count in (entry.samples, entry.bytes, entry.sidecar_bytes):
        if not isinstance(count, int) or count < 0:
            raise TypeError(f"{count!r} is not a count")
    for path in (entry.path, entry.sidecar):
        if escapes(path):
            raise ValueError(f"the path {path!r} leaves the folder")
    return entry


def _sum(form: dict[str, Any]) -> FileSum:
    recorded = FileSum(**form)
    if not isinstance(recorded.bytes, int) or not isinstance(recorded.sha256, str):
        raise TypeError(f"{form!r} is no size and hash")
    return recorded


def escapes(path: str) -> bool:
    """Whether a path from data could point outside the folder it is meant to lie in."""
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or not pure.parts
