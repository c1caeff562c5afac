"""Every seed of a run derives from names, never from a worker, a clock or an order of arrival."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipelines.storage import canonical_json


def seed_for(run_seed: int, stage: str, key: str, purpose: str) -> int:
    """A 63-bit seed, a pure function of its arguments: SHA-256 of the four, first eight bytes, sign bit cleared."""
    digest = hashlib.sha256(canonical_json([run_seed, stage, key, purpose])).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def hash_ranks(names: Iterable[str], prefix: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Draw a number per name that orders names at random, for ever the same: the first eight bytes of SHA-256 of prefix and name.

    The order of some names does not depend on which others there are. Sort stably: equal names have equal numbers.
    """
    head = prefix.encode()
    digests = bytearray()  # of millions of names: eight bytes each, no object
    for name in names:
        digests += hashlib.sha256(head + name.encode()).digest()[:8]
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
