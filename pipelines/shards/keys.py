"""Sample keys: what a sample is called, for ever, whatever shard it ends up in.

A key is 26 lower-case base32 characters (130 bits) of a SHA-256 over the source identity: the URL for samples that came
from URLs, the raw bytes for all others. It never holds a dot (WebDataset splits names at the first one) and never a
position (positions change with every reshard). What is derived from one parent keeps the parent's key as its prefix.
"""

from __future__ import annotations

import hashlib
import re

#: Characters of the digest that are kept: 26 x 5 = 130 bits.
KEY_LENGTH = 26
#: RFC 4648 in lower case, two characters at a time: the standard library's base32 takes as long as the digest itself.
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _BASE32 for second in _BASE32]
_SHIFTS = range(5 * (KEY_LENGTH - 2), -1, -10)

#: Words of lower-case letters, digits and underscores joined by single hyphens; 80 characters leave room for an
#: extension in the 100 bytes of a ustar name.
KEY_PATTERN = re.compile(r"(?=.{1,80}\Z)[a-z0-9_]+(?:-[a-z0-9_]+)*")

_OPERATION = re.compile(r"[a-z]{1,4}")
_STAGE = re.compile(r"[a-z0-9_]{1,24}")


def content_key(digest: bytes) -> str:
    """The key that belongs to a 32-byte SHA-256 digest."""
    assert len(digest) == 32, f"a SHA-256 digest has 32 bytes, not {len(digest)}"
    number = int.from_bytes(digest, "big") >> 256 - 5 * KEY_LENGTH
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def key_of_bytes(raw: bytes) -> str:
    """The key of a sample that is identified by its raw bytes."""
    return content_key(hashlib.sha256(raw).digest())


def key_of_url(url: str) -> str:
    """The key of a sample that is identified by its URL (as given, not normalised)."""
    return content_key(hashlib.sha256(url.encode()).digest())


def derived_key(parent: str, operation: str, ordinal: int, width: int = 4) -> str:
    """The key of the `ordinal`-th sample made from `parent`: `derived_key(k, "d", 3)` is `k-d0003`.

    `operation` is a tag of one to four letters; ordinals from 10**width on take more digits.
    """
    assert KEY_PATTERN.fullmatch(parent), f"not a key: {parent!r}"
    assert _OPERATION.fullmatch(operation), f"an operation tag is one to four lower-case letters, not {operation!r}"
    assert ordinal >= 0, f"ordinal {ordinal} is negative"
    return f"{parent}-{operation}{ordinal:0{width}d}"


def slot_key(stage: str, class_index: int, slot: int) -> str:
    """The key of a sample with several parents or none: `slot_key("cda", 3, 12)` is `cda-c00003-s00012`."""
    assert _STAGE.fullmatch(stage), f"a stage name is lower-case letters, digits and underscores, not {stage!r}"
    assert class_index >= 0 <= slot, f"class {class_index} and slot {slot} must not be negative"
    return f"{stage}-c{class_index:05d}-s{slot:05d}"
