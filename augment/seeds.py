"""Random numbers that belong to a sample: a pure function of (run seed, key, operation), whatever the batch, order or worker.

Keys are hashed once (SHA-256 of a string; an integer is taken as it is), and everything after that is arithmetic on arrays:
the finaliser of SplitMix64 (Steele, Lea and Flood 2014) mixes in the operation's name, and its sequence gives the
numbers. No generator has a state, so nothing here can be advanced by somebody else's draw.

A key is a string or a number, and a number is its value: 3, 3.0, np.int64(3), np.float32(3), a tensor's 3 and True for 1 are the
same sample, whatever holds them (a table hands out an id as float as soon as one is missing). The string "3" is another
sample. NaN is no key, nor are infinity, None and bytes.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from augment.errors import PolicyError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ALL = (1 << 64) - 1
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)

Keys = Sequence[str] | Sequence[int] | Sequence[float] | Sequence[str | int | float] | np.ndarray


def operation_seed(run_seed: int, key: str | int | float, operation: str) -> int:
    """Derive the 64-bit seed of one operation on one sample, as `operation_seeds` does for many."""
    return int(operation_seeds(sample_seeds(run_seed, np.array([_key(_name(key))], np.uint64)), [operation])[0, 0])


def sample_seeds(run_seed: int, keys: Keys, epoch: int = 0, view: int = 0) -> np.ndarray:
    """Derive one seed per key, (n,) uint64; another epoch or another view of the same image gives others."""
    run = _word(f"{_whole('seed', run_seed)}/{_whole('epoch', epoch)}/{_whole('view', view)}")
    if isinstance(keys, np.ndarray) and keys.dtype.kind in "biu" and keys.ndim == 1:
        words = keys.astype(np.uint64)
    else:
        names = key_names(keys)
        if len(names) == 1:
            return np.array([_mix_one(_mix_one(_key(names[0]) + int(_GOLDEN)) ^ run)], np.uint64)
        words = np.array([_key(key) for key in names], np.uint64)
    return _mix(_mix(words + _GOLDEN) ^ np.uint64(run))


def key_names(keys: Keys) -> tuple[str | int | float, ...]:
    """List keys as plain strings and numbers, which JSON holds; a whole number is an int. `PolicyError` for what is no key."""
    if isinstance(keys, (str, bytes)):
        raise PolicyError(f"keys take one key for each image, got the text {keys!r}")
    if type(keys) is tuple and all(type(key) is str or type(key) is int for key in keys):
        return keys  # named before
    plain = keys.tolist() if hasattr(keys, "tolist") else keys
    return tuple(map(_name, plain)) if isinstance(plain, Iterable) else _no_key(plain)


def _name(key: Any) -> str | int | float:
    """One key as a plain string or number."""
    if type(key) is str or type(key) is int:
        return key
    if isinstance(key, str):
        return str(key)
    if hasattr(key, "tolist"):  # a number of numpy's, or a tensor of one element
        key = key.tolist()
    if isinstance(key, str):
        return key
    if not isinstance(key, (int, float)) or not math.isfinite(key):
        _no_key(key)
    return int(key) if key == int(key) else float(key)


def _no_key(key: Any) -> NoReturn:
    """Refuse what is no key."""
    raise PolicyError(f"a key is a string or a finite number, got {key!r}")


def _whole(name: str, value: Any) -> int:
    """Read a whole number, 1.0 and a tensor's as well as 1: the same number means the same draw."""
    try:
        return operator.index(value)
    except TypeError:
        pass
    if isinstance(value, (float, np.floating)) and math.isfinite(value) and value == math.floor(value):
        return int(value)
    raise PolicyError(f"{name} takes a whole number, got {value!r}")


def operation_seeds(seeds: np.ndarray, operations: Sequence[str]) -> np.ndarray:
    """Derive (n, operations) uint64, a seed for each sample and operation, from `sample_seeds` (n,)."""
    return _mix(seeds[:, None] ^ _words(tuple(operations)))


def uniforms(seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Read the number at place `steps`, from 1, of each seed's sequence: float64 in [0, 1), of the shape of `seeds`."""
    return (_mix(seeds + steps * _GOLDEN) >> _11) * 2.0**-53


def _key(key: str | int | float) -> int:
    """The 64 bits of a key: a hash of a string, an integer's own where it fits."""
    if isinstance(key, str):
        return _word(key)
    if isinstance(key, int) and -(1 << 63) <= key < 1 << 64:
        return key & 0xFFFFFFFFFFFFFFFF
    return _word(f"number {key!r}")


def _mix_one(word: int) -> int:
    """Do what `_mix` does to one number, without arrays."""
    word &= _ALL
    word = (word ^ (word >> 30)) * int(_FIRST) & _ALL
    word = (word ^ (word >> 27)) * int(_SECOND) & _ALL
    return word ^ (word >> 31)


def _mix(words: np.ndarray) -> np.ndarray:
    """Finalise words (any shape) uint64 as SplitMix64 does: every bit of the input changes half of the output's."""
    words = (words ^ (words >> _30)) * _FIRST
    words = (words ^ (words >> _27)) * _SECOND
    return words ^ (words >> _31)


@lru_cache(maxsize=65536)
def _word(text: str) -> int:
    """The first 64 bits of a text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@lru_cache(maxsize=256)
def _words(texts: tuple[str, ...]) -> np.ndarray:
    """The first 64 bits of each text's SHA-256, (texts,) uint64."""
    return np.array([_word(text) for text in texts], np.uint64)
