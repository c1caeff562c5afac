"""Every seed of a run derives from names, never from a worker, a clock or an order of arrival."""

from __future__ import annotations

import hashlib

from pipelines.storage import canonical_json


def seed_for(run_seed: int, stage: str, key: str, purpose: str) -> int:
    """A 63-bit seed, a pure function of its arguments: SHA-256 of the four, first eight bytes, sign bit cleared."""
    digest = hashlib.sha256(canonical_json([run_seed, stage, key, purpose])).digest()
    return int.from_bytes(digest[:8], "big") >> 1
