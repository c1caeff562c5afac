"""Writes tar shards whose bytes depend on nothing but the members: ustar, owner 0, mtime 0, mode 0644.

Only what WebDataset needs is written, from a header template into which name, size and checksum are patched. Headers
and images go to the kernel as one gather write per mebibyte, so no byte of an image is copied in Python; headers and
small members are glued together first, since every piece costs a call. Each batch is hashed just before it is written.
`tests/bench/shards.py` measures this against stdlib `tarfile` and `webdataset`. Atomicity and fsync belong to
`Storage.publish`: the writer builds a temporary file. Reading is in `reader`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from pipelines.errors import UserError
from pipelines.shards.checksum import member_checksum
from pipelines.shards.sample import MemberSpan

BLOCK = 512
#: Two zero blocks close an archive. No padding to 10 KiB records: no reader asks for it.
END_OF_ARCHIVE = bytes(2 * BLOCK)

_NAME_BYTES = 100
_MAX_SIZE = 8 << 30  # eleven octal digits
_PADDING = [bytes(count) for count in range(BLOCK)]
_MODE_OWNER = b"0000644\0" + b"0000000\0" * 2
_MTIME = b"%011o\0" % 0
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"\0" * 16 + bytes(155 + 12)
# The checksum counts its own eight bytes as spaces, so the constant part can be summed once.
_CONSTANT_SUM = sum(_MODE_OWNER) + sum(_MTIME) + sum(_TAIL) + 8 * ord(" ")

_BATCH_BYTES = 1 << 20
_MAX_GATHER = 1024  # pieces the kernel takes per gather write
_SMALL = 4096  # copying fewer bytes than this is cheaper than a piece of their own


class ShardInfo(NamedTuple):
    """What a finished shard is: sample count, file size in bytes, SHA-256 of the file as hex."""

    samples: int
    bytes: int
    sha256: str


def ustar_header(name: str, size: int) -> bytes:
    """The 512-byte header of a regular file; equal to what stdlib `tarfile` writes in USTAR format.

    Raises `UserError` for names over 100 bytes and sizes from 8 GiB on: both would need extensions to ustar.
    """
    raw = name.encode()
    if not 0 < len(raw) <= _NAME_BYTES:
        raise UserError(f"member name {name!r} has {len(raw)} bytes; a shard takes 1 to {_NAME_BYTES}")
    if size >= _MAX_SIZE:
        raise UserError(f"member {name!r} has {size} bytes; a shard takes less than 8 GiB per member")
    octal = b"%011o\0" % size
    checksum = b"%06o\0 " % (_CONSTANT_SUM + sum(raw) + sum(octal))
    return b"".join((raw, _PADDING[_NAME_BYTES - len(raw)], _MODE_OWNER, octal, _MTIME, checksum, _TAIL))


class ShardWriter:
    """Writes one shard to a local path, samples in the order of `add`; use as a context manager.

    Leaving the block by an exception removes the file; leaving it normally closes the shard, after which `info` is set.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: ShardInfo | None = None
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._digest = hashlib.sha256()
        self._keys: set[str] = set()
        self._parts: list[bytes] = []  # what goes out next
        self._glue: list[bytes] = []  # small pieces behind `_parts`, not joined yet
        self._flushed = 0  # bytes handed to the kernel
        self._end = 0  # bytes added so far, flushed or not, without the padding that is still owed
        self._owed = b""  # padding of the last member; goes out in front of the next header

    def add(self, sample_key: str, members: Iterable[tuple[str, bytes]]) -> list[MemberSpan]:
        """Append a sample; returns where each member's data will lie. The bytes must not change afterwards."""
        assert sample_key not in self._keys, f"{sample_key} is already in this shard"
        self._keys.add(sample_key)
        spans, glue = [], self._glue
        for ext, data in members:
            size = len(data)
            glue += self._owed, ustar_header(f"{sample_key}.{ext}", size)
            if size < _SMALL:
                glue.append(data)
            else:
                self._parts += b"".join(glue), data
                glue.clear()
            offset = self._end + len(self._owed) + BLOCK
            self._end = offset + size
            self._owed = _PADDING[-size % BLOCK]
            spans.append(MemberSpan(ext, offset, size, member_checksum(data)))
        if self._end - self._flushed >= _BATCH_BYTES:
            self._flush()
        return spans

    @property
    def bytes_written(self) -> int:
        """Size of the shard if it were closed now; what a stage compares with its target size."""
        return self._end + len(self._owed) + len(END_OF_ARCHIVE)

    def close(self) -> ShardInfo:
        """Write the end of the archive and close the file."""
        assert self.info is None, f"{self.path} is closed"
        self._glue += self._owed, END_OF_ARCHIVE
        self._end = self.bytes_written
        self._flush()
        self._release()
        self.info = ShardInfo(len(self._keys), self._end, self._digest.hexdigest())
        return self.info

    def _flush(self) -> None:
        self._parts.append(b"".join(self._glue))
        self._glue.clear()
        update = self._digest.update
        for part in self._parts:
            update(part)
        _write_all(self._handle, self._parts)
        self._parts.clear()
        self._flushed = self._end

    def _release(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.info is None:
                self.close()
        finally:
            self._release()
            if kind is not None or self.info is None:
                self.path.unlink(missing_ok=True)


def _write_all(handle: int, parts: list[bytes]) -> None:
    """Gather-write every part; the kernel may take less than it is given (signals, 2 GiB per call)."""
    for start in range(0, len(parts), _MAX_GATHER):
        batch = parts[start : start + _MAX_GATHER]
        missing = sum(map(len, batch)) - os.writev(handle, batch)
        if missing:
            rest = memoryview(b"".join(batch))[-missing:]
            while rest:
                rest = rest[os.write(handle, rest) :]
