"""Finds keys that more than one shard of a dataset holds, in 8 bytes a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipelines.shards.findings import Findings
from pipelines.shards.members import split_name
from pipelines.shards.walker import TarDamage, TarWalker
from pipelines.storage import Storage


class KeyHashes:
    """64-bit hashes of the keys of every shard: 8 bytes a sample, whatever the keys look like."""

    def __init__(self) -> None:
        self._shards: list[tuple[str, bytearray]] = []

    def begin(self, path: str) -> None:
        self._shards.append((path, bytearray()))

    def add(self, key: str) -> None:
        self._shards[-1][1].extend(_key_hash(key))

    def repeated(self) -> set[bytes]:
        """Hashes that occur twice or more, be it in one shard (`ShardCheck` has reported those) or in several."""
        joined = np.concatenate([np.zeros(0, np.uint64), *(self._array(raw) for _, raw in self._shards)])
        joined.sort()
        again = np.unique(joined[1:][joined[1:] == joined[:-1]])
        return {value.tobytes() for value in again}

    def shards_with(self, hashes: set[bytes]) -> Iterable[str]:
        wanted = np.frombuffer(b"".join(hashes), np.uint64)
        return [path for path, raw in self._shards if wanted.size and np.isin(self._array(raw), wanted).any()]

    @staticmethod
    def _array(raw: bytearray) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.frombuffer(bytes(raw), np.uint64)


def report_repeated(storage: Storage, keys: KeyHashes, findings: Findings) -> None:
    """Name the keys that more than one shard holds, by reading the headers of those shards again."""
    repeated = keys.repeated()
    holders: dict[str, list[str]] = {}
    for path in keys.shards_with(repeated):
        for key in _keys_of(storage, path):
            if _key_hash(key) in repeated and path not in holders.setdefault(key, []):
                holders[key].append(path)
    for key, paths in sorted(holders.items()):
        if len(paths) > 1:
            findings.error("duplicate_key", paths[1], f"also in {paths[0]}", key)


def _key_hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _keys_of(storage: Storage, path: str) -> Iterable[str]:
    """Keys of a tar from its headers, as far as they can be read."""
    keys = []
    with storage.open(path) as stream:
        try:
            for member in TarWalker(stream):
                named = split_name(member.name) if member.kind == "file" else None
                if named is not None:
                    keys.append(named[0])
        except TarDamage:
            return keys  # reported when the shard was checked
    return keys
