"""The hash chain of a finished folder: what is hashed, how, and what is said when the bytes are others.

A document (`index.json`, `stage.json`, a marker) holds a SHA-256 of itself and of every file it names; the sidecar, one of
those files, holds an XXH3 of every member. So whoever has read the documents can tell of any byte it reads whether it is
the one that was written. XXH3 because it is checked for every sample of every epoch: ten times cheaper than CRC-32 and
thirty times cheaper than SHA-256 (`tests/bench/checksums.py`); it finds accidents, not forgeries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from xxhash import xxh3_64_intdigest

from pipelines.storage import Storage, canonical_json, pretty_json

__all__ = ["CHECKSUM", "FileSum", "file_sum", "member_checksum", "read_signed", "remedy", "signed_bytes", "sum_of"]

#: The key under which a document holds the SHA-256 of its own canonical JSON without that key.
CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True)
class FileSum:
    """Size in bytes and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str


def member_checksum(data: bytes) -> int:
    """XXH3 (64 bits, seed 0) of a member's bytes, as a sidecar holds it."""
    return xxh3_64_intdigest(data)


def sum_of(data: bytes) -> FileSum:
    """Size and SHA-256 of a file's content."""
    return FileSum(len(data), hashlib.sha256(data).hexdigest())


def remedy(made_by: str = "STAGE") -> str:
    """What to do about bytes that are not those that were written; `made_by` is STAGE or STAGE@ITEM where it is known."""
    return f"restore it, or make it again: limbeck run {made_by} --verify"


def file_sum(storage: Storage, path: str) -> FileSum:
    """Size and SHA-256 of a file as it lies there."""
    with storage.open(path) as handle:
        digest = hashlib.file_digest(cast(Any, handle), "sha256").hexdigest()
    return FileSum(storage.size(path), digest)


def signed_bytes(form: Mapping[str, Any]) -> bytes:
    """The document as it is written, with its checksum."""
    return pretty_json({**form, CHECKSUM: _digest(form)})


def read_signed(raw: bytes) -> dict[str, Any]:
    """The document without its checksum. `ValueError` when it is no JSON object or not what was signed."""
    form = json.loads(raw)
    if not isinstance(form, dict):
        raise ValueError("it is not a JSON object")
    said = form.pop(CHECKSUM, None)
    if said is None:
        raise ValueError("it has no checksum of itself, as those of earlier releases")
    if said != _digest(form):
        raise ValueError("its checksum is another one, so it was changed after it was written")
    return form


def _digest(form: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(form)).hexdigest()
