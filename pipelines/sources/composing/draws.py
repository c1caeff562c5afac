"""Random numbers by name: each is a hash of what it is for, so no draw can move another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from pipelines.storage import canonical_json

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[np.float64]]


class Draws:
    """Numbers that belong to `path`, for instance (seed, domain, index), by plain names. Has no state."""

    def __init__(self, *path: str | int) -> None:
        self._path = path
        self._head = canonical_json(path)[:-1]

    def child(self, *names: str | int) -> Draws:
        """Draws of a part, such as one item of a scene."""
        return Draws(*self._path, *names)

    def unit(self, name: str) -> float:
        """A number in [0, 1), a multiple of 2^-53."""
        return (self._word(name) >> 11) * 2.0**-53

    def between(self, name: str, low: float, high: float) -> float:
        return low + (high - low) * self.unit(name)

    def whole(self, name: str, count: int) -> int:
        """An integer in 0..count-1."""
        return (self._word(name) * count) >> 64

    def chance(self, name: str, probability: float) -> bool:
        return self.unit(name) < probability

    def choice(self, name: str, items: Sequence[T]) -> T:
        return items[self.whole(name, len(items))]

    def grid(self, name: str, height: int, width: int) -> Array:
        """(height, width) numbers in [0, 1): bytes of SHA-256 in counter mode, 16 bits to a number."""
        size, head = 2 * height * width, canonical_json([*self._path, name])
        blocks = (hashlib.sha256(head + block.to_bytes(4, "big")).digest() for block in range(-(-size // 32)))
        return (np.frombuffer(b"".join(blocks)[:size], ">u2") / 65536.0).reshape(height, width)

    def _word(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(b'%s,"%s"]' % (self._head, name.encode())).digest()[:8], "big")
