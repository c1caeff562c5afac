"""Reads tar shards, ours and other people's: in sequence from any stream, or by offset from a storage.

The sequential reader takes ustar, old v7, GNU (long names, base-256 sizes) and pax archives and trusts none of them:
checksums are verified, an archive without its end marker is damaged, and nothing is ever unpacked to disk. A member's
name becomes a key and an extension at the first dot of its last component, as WebDataset does it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from pipelines.errors import UserError
from pipelines.shards.sample import MemberSpan
from pipelines.shards.tar import BLOCK
from pipelines.storage import Storage

MemberKind = Literal["file", "directory", "link", "device"]

_KINDS: dict[bytes, MemberKind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "device",
}
_ZERO_BLOCK = bytes(BLOCK)
_CHUNK = 1 << 20
#: Longest name or pax header believed; anything larger is damage or an attack on memory.
_MAX_EXTENSION = 1 << 20
#: Members of one sample are fetched with one read as long as the bytes between them stay below this.
_MAX_GAP = 1 << 16
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:\Z|/)")


class TarDamage(UserError):
    """The bytes at `offset` are not a sound tar archive; `reason` says why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"damaged tar at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class TarMember(NamedTuple):
    """One entry: name as stored, offset and size of its data in bytes, and what sort of entry it is."""

    name: str
    offset: int
    size: int
    kind: MemberKind


class TarWalker:
    """Iterates over the entries of a tar stream; `read` gives the data of the entry last yielded.

    Data that is not read is skipped, by seeking where the stream can. Raises `TarDamage`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._seekable = stream.seekable()
        self._position = 0
        self._unread = 0  # data bytes of the current entry not consumed
        self._padding = 0

    def read(self) -> bytes:
        """All data of the current entry; may be called once."""
        data = self._take(self._unread, "the data of a member")
        self._unread = 0
        return data

    def __iter__(self) -> Iterator[TarMember]:
        extended: dict[str, str] = {}
        while True:
            self._skip()
            start = self._position
            header = self._take(BLOCK, "a header")
            if header == _ZERO_BLOCK:
                if self._take(BLOCK, "the second block of the end marker") != _ZERO_BLOCK:
                    raise TarDamage(start, "a lone zero block")
                return
            size = _check_header(header, start)
            flag = header[156:157]
            if flag in (b"L", b"K", b"x", b"g"):
                if size > _MAX_EXTENSION:
                    raise TarDamage(start, f"an extension header claims {size} bytes")
                payload = self._take(size, "an extension header")
                self._padding = -size % BLOCK
                # Long link targets and global headers cannot change what we read.
                if flag == b"L":
                    extended["path"] = _text(payload.rstrip(b"\0"))
                elif flag == b"x":
                    extended.update(_pax_records(payload, start))
                    if any(keyword.startswith("GNU.sparse") for keyword in extended):
                        raise TarDamage(start, "sparse members are not supported")
                continue
            if flag not in _KINDS:
                raise TarDamage(start, f"unsupported entry type {flag!r}")
            name = extended.get("path") or _stored_name(header)
            if "size" in extended:
                size = _decimal(extended["size"], start)
            extended = {}
            kind = _KINDS[flag]
            if kind == "file" and name.endswith("/"):
                kind = "directory"  # how v7 archives say it
            self._unread = size if kind == "file" else 0
            self._padding = -self._unread % BLOCK
            yield TarMember(name, self._position, self._unread, kind)

    def _take(self, count: int, what: str) -> bytes:
        # Read in pieces: a damaged header may claim any size, and one huge read would allocate it.
        if count <= _CHUNK:
            data = self._stream.read(count)
            if len(data) < count:
                data += self._more(count - len(data))
        else:
            data = self._more(count)
        self._position += len(data)
        if len(data) < count:
            raise TarDamage(self._position, f"the file ends inside {what}")
        return data

    def _more(self, count: int) -> bytes:
        pieces = []
        while count > 0 and (piece := self._stream.read(min(count, _CHUNK))):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _skip(self) -> None:
        count, self._unread, self._padding = self._unread + self._padding, 0, 0
        if self._seekable and count > BLOCK:
            # Seeking past the end goes unnoticed here; the next header is then missing.
            self._stream.seek(count, os.SEEK_CUR)
            self._position += count
            return
        while count:
            count -= len(self._take(min(count, _CHUNK), "a member or its padding"))


def split_name(name: str) -> tuple[str, str] | None:
    """(key, lower-case extension) of a member name, or None where WebDataset would skip the member."""
    match = _NAME.fullmatch(name)
    if match is None or _META.match(name):
        return None
    return match[1], match[2].lower()


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
            raise TarDamage(offset, f"{self.path} ends before {size} bytes")
        return data

    def read(self, members: Iterable[MemberSpan], exts: Iterable[str] | None = None) -> dict[str, bytes]:
        """{extension: bytes} of one sample, all members or those in `exts`, with one read if they lie together."""
        wanted = list(members) if exts is None else [span for span in members if span[0] in exts]
        if not wanted:
            return {}
        if len(wanted) == 1:
            ext, offset, size = wanted[0]
            return {ext: self.pread(offset, size)}
        first = min(span[1] for span in wanted)
        length = max(span[1] + span[2] for span in wanted) - first
        if length - sum(span[2] for span in wanted) > _MAX_GAP:
            return {ext: self.pread(offset, size) for ext, offset, size in wanted}
        block = self.pread(first, length)
        return {ext: block[offset - first : offset - first + size] for ext, offset, size in wanted}

    def scan(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """All samples in sequence; see `iterate_tar`."""
        with self.storage.open(self.path) as stream:
            yield from iterate_tar(stream)


def _check_header(header: bytes, start: int) -> int:
    """Verify the checksum and return the size field."""
    stored = _number(header[148:156], start)
    around = header[:148] + header[156:]
    total = sum(around) + 8 * ord(" ")
    # Some old tars summed signed bytes; that sum is slow and almost never needed.
    if stored != total and stored != total - 256 * sum(byte > 127 for byte in around):
        raise TarDamage(start, "the header checksum does not match")
    return _number(header[124:136], start)


def _number(field: bytes, start: int) -> int:
    if field[0] == 0x80:  # GNU base-256
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.rstrip(b" \0").lstrip() or b"0", 8)
    except ValueError:
        raise TarDamage(start, f"{field!r} is not an octal number") from None


def _decimal(text: str, start: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TarDamage(start, f"{text!r} is not a size")
    return int(text)


def _text(raw: bytes) -> str:
    # Undecodable names stay distinguishable and cannot raise.
    return raw.decode("utf-8", "surrogateescape")


def _stored_name(header: bytes) -> str:
    name = _text(header[:100].partition(b"\0")[0])
    if header[257:263] == b"ustar\0":  # GNU headers keep other things where POSIX has the prefix
        prefix = _text(header[345:500].partition(b"\0")[0])
        return f"{prefix}/{name}" if prefix else name
    return name


def _pax_records(payload: bytes, start: int) -> dict[str, str]:
    """Records `LENGTH KEYWORD=VALUE\\n` of a pax header."""
    records = {}
    while payload:
        digits, _, _ = payload.partition(b" ")
        length = _decimal(_text(digits), start)
        record = payload[len(digits) + 1 : length]
        keyword, equals, value = record.partition(b"=")
        if length <= len(digits) or length > len(payload) or not equals or not value.endswith(b"\n"):
            raise TarDamage(start, "a pax record is malformed")
        records[_text(keyword)] = _text(value[:-1])
        payload = payload[length:]
    return records
