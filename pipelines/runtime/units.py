"""The unit of work: what it is, what it is called by content, and how its files are committed.

A unit writes its files (one shard and its sidecar, or one small table) and then its marker; the marker is the commit.
Markers hold no time and no host, so that a folder made in one go and one made in ten are equal byte for byte.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.outcomes import Outcome
from pipelines.redaction import redacted
from pipelines.runtime.rows import read_rows
from pipelines.shards.checksum import read_signed, signed_bytes
from pipelines.shards.sample import Sample
from pipelines.shards.sidecar import Sidecar
from pipelines.shards.tar import ShardWriter
from pipelines.storage import Storage, canonical_json

#: Folder of the markers inside a stage's output.
LEDGER = "ledger"
#: Folder of the units' own resumable state; there while the stage is unfinished only.
SCRATCH = ".partial"
#: Names of files that units are about to publish; see `ownership`.
CLAIMS = f"{SCRATCH}/claims"
#: The first line of every list of names, by which it is told from somebody else's text.
HEAD = "# The files that Limbeck wrote in this folder, one a line. It replaces and removes these and no others."


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of a stage's plan. `payload` is JSON and, with the stage's parameters and the unit's rows, decides every byte written.

    `kind` says which of a stage's sorts of work it is, where there are several; nothing is read out of a name. A unit may read what
    units of an earlier `wave` of the same stage committed: waves run one after another. Its payload names whatever decides
    those files, so the wave is no part of its identity.
    """

    name: str
    payload: dict[str, Any]
    wave: int = 0
    kind: str = ""

    def recipe(self, stage: str, version: int, params: dict[str, Any], rows: str = "") -> str:
        """32 hex characters over all that decides the unit's output but the code; `rows` is the digest of its rows.

        The name is in it: files are called by it, and a unit may write it into them.
        """
        form = {"stage": stage, "version": version, "params": params, "name": self.name, "payload": self.payload}
        form |= {name: value for name, value in (("kind", self.kind), ("rows", rows)) if value}
        return hashlib.sha256(canonical_json(form)).hexdigest()[:32]


def identity_of(recipe: str, code: str) -> str:
    """The content address of a unit's output, 32 hex characters: what it is made of, and by which code (see `code`)."""
    return hashlib.sha256(canonical_json([recipe, code])).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A committed file of a unit; `path` is relative to the stage's output."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Marker:
    """What a finished unit left: its identity, its files and the counts of its outcomes.

    `code` is the digest of the code that made it; empty in what earlier releases left, which did not record it.
    """

    name: str
    identity: str
    files: tuple[FileEntry, ...]
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    code: str = ""

    @property
    def path(self) -> str:
        return marker_path(self.name)

    def to_json(self) -> bytes:
        form = {
            "unit": self.name,
            "kind": self.kind,
            "id": self.identity,
            "code": self.code,
            "files": [{"path": f.path, "bytes": f.bytes, "sha256": f.sha256} for f in self.files],
            "counts": self.counts,
            "reasons": self.reasons,
            "summary": self.summary,
        }
        return signed_bytes(form)

    @classmethod
    def from_json(cls, raw: bytes) -> Marker:
        """Read what `to_json` wrote; ValueError, KeyError, TypeError or AttributeError if it is something else."""
        form = read_signed(raw)
        files = tuple(FileEntry(f["path"], int(f["bytes"]), f["sha256"]) for f in form["files"])
        counts = {str(name): int(count) for name, count in form["counts"].items()}
        reasons = {str(name): int(count) for name, count in form["reasons"].items()}
        said = {name: str(form.get(name, "")) for name in ("kind", "code")}
        return cls(str(form["unit"]), form["id"], files, counts, reasons, form["summary"], **said)


def marker_path(unit_name: str) -> str:
    return f"{LEDGER}/{unit_name}.json"


def implied_files(unit_name: str) -> tuple[str, str]:
    """The shard and the sidecar that a unit's name stands for, when it writes them."""
    part, slash, stem = unit_name.rpartition("/")
    return f"{part}{slash}shards/{stem}.tar", f"{part}{slash}meta/{stem}.parquet"


def scratch_path(unit_name: str, identity: str) -> str:
    """The folder of a unit's resumable state."""
    return f"{SCRATCH}/{unit_name}-{identity}"


#: Called as `tick(done, total, note)` by long units; cheap and safe to call often.
Tick = Callable[[float, float, str], None]


def no_tick(_done: float, _total: float, _note: str = "") -> None:
    """For units whose progress nobody watches."""


class UnitOutput:
    """What a running unit writes to. Nothing is visible under a final name before `commit`."""

    def __init__(self, storage: Storage, unit: Unit, identity: str, tick: Tick = no_tick, code: str = "") -> None:
        self.storage = storage
        self.unit = unit
        self.identity = identity
        self.tick = tick
        self.code = code
        self.summary: dict[str, Any] = {}
        self._pending: list[tuple[Path, str, str, int]] = []
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def rows(self) -> list[dict[str, Any]]:
        """The rows that the plan gives this unit."""
        return read_rows(self.storage, self.unit.name)

    def count(self, outcome: Outcome) -> None:
        """Add one attempted sample to the marker's histogram."""
        self._counts[outcome.status] += 1
        if outcome.status != "kept":
            label = f"{outcome.error_class}:{outcome.reason}" if outcome.status == "failed" else outcome.reason
            self._reasons[f"{outcome.status}:{label}"] += 1

    @contextmanager
    def file(self, path: str) -> Iterator[Path]:
        """Build a file under a temporary name; it is published by `commit`, in the order the files were begun."""
        temporary = self.storage.temp_file(path)
        try:
            yield temporary
            digest, size = _hash_file(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._pending.append((temporary, path, digest, size))

    def write(self, path: str, data: bytes) -> None:
        with self.file(path) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def shard(self, part: str = "") -> Iterator[ShardOutput]:
        """One tar and its sidecar, named after the unit, in the dataset folder `part` of the output."""
        stem = self.unit.name.rsplit("/", 1)[-1]
        prefix = f"{part}/" if part else ""
        tar_path, sidecar_path = f"{prefix}shards/{stem}.tar", f"{prefix}meta/{stem}.parquet"
        temporary = self.storage.temp_file(tar_path)
        try:
            with ShardWriter(temporary) as writer:
                output = ShardOutput(writer, self)
                yield output
                info = writer.close()
            self._pending.append((temporary, tar_path, info.sha256, info.bytes))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        with self.file(sidecar_path) as path:
            output.sidecar.write(path)

    def scratch(self) -> Storage:
        """A folder for the unit's own resumable state (checkpoints); removed when the stage finishes.

        It belongs to the unit's identity: with other parameters or inputs the unit starts afresh.
        """
        return self.storage.child(scratch_path(self.unit.name, self.identity))

    def commit(self) -> Marker:
        """Publish the files, then the marker.

        An older marker goes first: it must not vouch for a mixture of its files and ours if we are killed in between.
        """
        files = []
        claim = self._claim()
        if self.storage.exists(marker_path(self.unit.name)):
            self.storage.remove(marker_path(self.unit.name))
        for temporary, path, digest, size in self._pending:
            self.storage.publish(temporary, path)
            files.append(FileEntry(path, size, digest))
        self._pending.clear()
        marker = Marker(
            self.unit.name,
            self.identity,
            tuple(files),
            dict(sorted(self._counts.items())),
            dict(sorted(self._reasons.items())),
            self.summary,
            self.unit.kind,
            self.code,
        )
        self.storage.write_bytes(marker.path, marker.to_json())
        if claim:
            self.storage.remove(claim)  # the marker names them now
        return marker

    def _claim(self) -> str:
        """Name the files that no plan implies before they appear, so that a kill leaves none that nobody owns."""
        names = [path for _, path, *_ in self._pending if path not in implied_files(self.unit.name)]
        if not names:
            return ""
        claim = f"{CLAIMS}/{self.unit.name}.txt"
        self.storage.write_bytes(claim, "\n".join([HEAD, *names, ""]).encode())
        return claim

    def abandon(self) -> None:
        """Remove what was built but not committed."""
        for temporary, *_ in self._pending:
            temporary.unlink(missing_ok=True)
        self._pending.clear()


class ShardOutput:
    """A shard under construction: every attempted sample gets a sidecar row, kept ones get members in the tar."""

    def __init__(self, writer: ShardWriter, output: UnitOutput) -> None:
        self.sidecar = Sidecar()
        self._writer = writer
        self._output = output

    def keep(self, sample: Sample) -> None:
        """Write the members and the row."""
        spans = self._writer.add(sample.key, sample.members)
        self._row({**sample.row, "key": sample.key, "outcome": "kept", "members": spans})
        self._output.count(Outcome("kept"))

    def reject(self, outcome: Outcome, row: dict[str, Any]) -> None:
        """Write only the row, with the reason."""
        decision = {"outcome": outcome.status, "reason": outcome.reason, "detail": outcome.detail}
        self._row({**row, **decision, "error_class": outcome.error_class})
        self._output.count(outcome)

    def _row(self, row: dict[str, Any]) -> None:
        texts = {name: redacted(row[name]) for name in ("source", "detail") if row.get(name)}
        self.sidecar.add(row | texts)


def _hash_file(path: Path) -> tuple[str, int]:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return digest, path.stat().st_size
