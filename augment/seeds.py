"""Random numbers that belong to a sample: a pure function of (run seed, key, operation), whatever the batch, order or worker.

Keys are hashed once (SHA-256 of a string; an integer is taken as it is), and everything after that is arithmetic on arrays:
the finaliser of SplitMix64 (Steele, Lea and Flood 2014) mixes in the operation's name, and its sequence gives the numbers.
No generator has a state, so nothing here can be advanced by somebody else's draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)

Keys = Sequence[str] | Sequence[int] | np.ndarray


def seed_for(run_seed: int, key: str | int, operation: str) -> int:
    """The 64-bit seed of one operation on one sample."""
    return int(operation_seeds(sample_seeds(run_seed, np.array([_key(key)], np.uint64)), [operation])[0, 0])


def sample_seeds(run_seed: int, keys: Keys, epoch: int = 0, view: int = 0) -> np.ndarray:
    """(n,) uint64, one per key; another epoch or another view of the same image gives others."""
    run = _word(f"{run_seed}/{epoch}/{view}")
    if isinstance(keys, np.ndarray):
        words = keys.astype(np.uint64)
    else:
        words = np.array([_key(key) for key in keys], np.uint64)
    return _mix(_mix(words + _GOLDEN) ^ np.uint64(run))


def operation_seeds(seeds: np.ndarray, operations: Sequence[str]) -> np.ndarray:
    """(n, operations) uint64, one for each sample and operation, from `sample_seeds`."""
    return _mix(seeds[:, None] ^ _words(tuple(operations)))


def uniforms(seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) of the same shape as `seeds`: the number at place `steps`, from 1, of each seed's sequence."""
    return (_mix(seeds + steps * _GOLDEN) >> _11) * 2.0**-53


def _key(key: str | int) -> int:
    return _word(key) if isinstance(key, str) else key & 0xFFFFFFFFFFFFFFFF


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> _30)) * _FIRST
    words = (words ^ (words >> _27)) * _SECOND
    return words ^ (words >> _31)


@lru_cache(maxsize=65536)
def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@lru_cache(maxsize=256)
def _words(texts: tuple[str, ...]) -> np.ndarray:
    return np.array([_word(text) for text in texts], np.uint64)
