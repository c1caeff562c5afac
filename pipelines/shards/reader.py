"""Reads tar shards, ours and other people's: in sequence from any stream, or by offset from a storage."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipelines.errors import UserError
from pipelines.shards.checksum import member_checksum
from pipelines.shards.members import split_name
from pipelines.shards.sample import MemberSpan
from pipelines.shards.tar import BLOCK
from pipelines.shards.walker import TarDamage, TarWalker
from pipelines.storage import Storage

#: Members of one sample are fetched with one read as long as the bytes between them stay below this.
_MAX_GAP = 1 << 16


def iterate_tar(source: BinaryIO | str | Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a tar in file order as (key, {extension: bytes}); one sample in memory at a time.

    Members of a sample must follow one another. Directories, links, devices and names without extension are passed
    over. Raises `TarDamage`, also for an archive without its end marker: a cut shard would lose samples silently.
    """
    if isinstance(source, str | Path):
        with Path(source).open("rb") as stream:
            yield from iterate_tar(stream)
        return
    key, members = "", dict[str, bytes]()
    walker = TarWalker(source)
    for member in walker:
        if member.kind == "sparse":
            raise TarDamage(member.offset - BLOCK, f"{member.name!r} is stored with holes, which no reader fills")
        named = split_name(member.name) if member.kind == "file" else None
        if named is None:
            continue
        if named[0] != key and members:
            yield key, members
            members = {}
        key, ext = named
        if ext in members:
            raise TarDamage(member.offset - BLOCK, f"two members are called {member.name!r}")
        members[ext] = walker.read()
    if members:
        yield key, members


class ShardReader:
    """Reads members of one shard by offset. Safe to share between threads; survives pickling and forking."""

    def __init__(self, storage: Storage, path: str) -> None:
        self.storage = storage
        self.path = path
        self._handle = -1
        local = storage.local_path(path)
        if local is not None:
            try:
                self._handle = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise UserError(
                    f"no shard {path} in {storage.url}; `limbeck lint {storage.url}` lists what is wrong"
                ) from error

    def __reduce__(self) -> tuple[type[ShardReader], tuple[Storage, str]]:
        return ShardReader, (self.storage, self.path)

    def __del__(self) -> None:
        # Closing waits for the last reference, so no thread can read through a descriptor that was given away.
        if getattr(self, "_handle", -1) >= 0:
            os.close(self._handle)

    def pread(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; raises `TarDamage` when the shard is shorter."""
        if self._handle >= 0:
            data = os.pread(self._handle, size, offset)
            while len(data) < size and (more := os.pread(self._handle, size - len(data), offset + len(data))):
                data += more
        else:
            data = self.storage.pread(self.path, offset, size)
        if len(data) != size:
            raise TarDamage(offset, f"the file ends before byte {offset + size}")
        return data

    def read(self, members: Iterable[MemberSpan], exts: Iterable[str] | None = None) -> dict[str, bytes]:
        """{extension: bytes} of one sample, all members or those in `exts`, with one read if they lie together.

        Raises `TarDamage` when a member's bytes have another checksum than its span.
        """
        wanted = list(members) if exts is None else [span for span in members if span[0] in exts]
        if not wanted:
            return {}
        if len(wanted) == 1:
            return {wanted[0].ext: self.checked(wanted[0], self.pread(wanted[0].offset, wanted[0].size))}
        first = min(span.offset for span in wanted)
        length = max(span.offset + span.size for span in wanted) - first
        if length - sum(span.size for span in wanted) > _MAX_GAP:
            return {span.ext: self.checked(span, self.pread(span.offset, span.size)) for span in wanted}
        block = self.pread(first, length)
        return {
            span.ext: self.checked(span, block[span.offset - first : span.offset - first + span.size])
            for span in wanted
        }

    @staticmethod
    def checked(span: MemberSpan, data: bytes) -> bytes:
        """The data, if it is what was written there."""
        if span.xxh3 is not None and member_checksum(data) != span.xxh3:
            raise TarDamage(span.offset, f"its {span.ext} is not what was written there")
        return data

    def scan(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """All samples in sequence; see `iterate_tar`."""
        with self.storage.open(self.path) as stream:
            yield from iterate_tar(stream)
