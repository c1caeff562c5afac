"""Walks over the entries of a tar archive of any origin and trusts none of it.

Old v7, ustar, GNU (long names, base-256 sizes, sparse members) and pax archives are understood. Checksums are verified,
an archive without its end marker is damaged, and nothing is ever unpacked: a name is a label and no path.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from pipelines.errors import UserError
from pipelines.shards.tar import BLOCK

#: `link` is a symbolic link; `sparse` members are files of which only the parts that are not zero are stored.
MemberKind = Literal["file", "directory", "link", "hardlink", "device", "sparse", "other"]

_KINDS: dict[bytes, MemberKind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "device",
    b"S": "sparse",
}
#: Entries that say something about the next one: GNU's long names, pax headers and Solaris' form of them.
_ABOUT_NEXT = (b"L", b"K", b"x", b"X", b"g")
_ZERO_BLOCK = bytes(BLOCK)
_CHUNK = 1 << 20
#: Longest name or pax header believed; anything larger is damage or an attack on memory.
_MAX_EXTENSION = 1 << 20
#: Sizes no file has; what a seek could not express lies beyond.
_MAX_SIZE = 1 << 62
#: Archives are filled up with zeros to a whole record, which is 10 KiB mostly and hardly ever more than this.
_MAX_RECORD = 4 << 20
_FOREIGN_STARTS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "zstd -d"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\x04\x22\x4d\x18": ("LZ4", "lz4 -d"),
}


class TarDamage(UserError):
    """The bytes at `offset` are not a sound tar archive; `reason` says why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"damaged tar at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class TarMember(NamedTuple):
    """One entry: name as stored, offset and size of its data in bytes, what sort of entry it is, where a link leads."""

    name: str
    offset: int
    size: int
    kind: MemberKind
    target: str = ""


class TarWalker:
    """Iterates over the entries of a tar stream; `read` gives the data of the entry last yielded, `digest` their hash.

    Data that is not read is skipped, by seeking where the stream can. Raises `TarDamage`, and never yields a member
    whose data a stream that can seek does not hold.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._length = _length(stream)
        self._position = 0
        self._unread = 0  # data bytes of the current entry not consumed
        self._padding = 0
        self._ahead = b""  # a header block read already
        #: Zero bytes after the end marker, known when `next_archive` has said no.
        self.tail = 0

    def read(self) -> bytes:
        """All data of the current entry; may be called once."""
        data = self._take(self._unread, "the data of a member")
        self._unread = 0
        return data

    def digest(self) -> bytes:
        """The SHA-256 of all data of the current entry, which is never in memory as a whole; in place of `read`."""
        sha256 = hashlib.sha256()
        while self._unread:
            piece = self._take(min(self._unread, _CHUNK), "the data of a member")
            self._unread -= len(piece)
            sha256.update(piece)
        return sha256.digest()

    def __iter__(self) -> Iterator[TarMember]:
        extended: dict[str, str] = {}
        while True:
            self._skip()
            start = self._position - len(self._ahead)
            header, self._ahead = self._ahead or self._take(BLOCK, "a header"), b""
            if header == _ZERO_BLOCK:
                if self._take(BLOCK, "the second block of the end marker") != _ZERO_BLOCK:
                    raise TarDamage(start, "a lone zero block")
                return
            size = _check_header(header, start)
            flag = header[156:157]
            if flag in _ABOUT_NEXT:
                extended |= self._about_next(flag, size, start)
                continue
            member = self._member(header, flag, extended, size, start)
            extended = {}
            yield member

    def next_archive(self) -> bool:
        """Whether another archive follows, as after `cat a.tar b.tar`: iterate again then. Call it after an end marker."""
        zeros = 0
        while block := self._take_some(BLOCK):
            if len(block) < BLOCK or block != _ZERO_BLOCK:
                break
            zeros += BLOCK
        start = self._position - len(block)
        if block.count(0) == len(block):
            self.tail = zeros + len(block)
            if self.tail > _MAX_RECORD:
                raise TarDamage(
                    start - zeros, f"{self.tail} zero bytes follow the end marker, as where a copy broke off"
                )
            return False
        if len(block) < BLOCK:
            raise TarDamage(start, f"{len(block)} bytes that are no tar follow the end marker")
        try:
            _check_header(block, start)
        except TarDamage:
            raise TarDamage(start, "bytes that are no tar follow the end marker") from None
        self._ahead = block
        return True

    def _about_next(self, flag: bytes, size: int, start: int) -> dict[str, str]:
        """What an extension header says about the entry that follows it."""
        if size > _MAX_EXTENSION:
            raise TarDamage(start, f"an extension header claims {size} bytes")
        payload = self._take(size, "an extension header")
        self._padding = -size % BLOCK
        if flag == b"g":
            return {}  # what holds for all (a comment, times) changes nothing that is read here
        if flag in (b"L", b"K"):
            return {"path" if flag == b"L" else "linkpath": _text(payload.rstrip(b"\0"))}
        return _pax_records(payload, start)

    def _member(self, header: bytes, flag: bytes, extended: dict[str, str], size: int, start: int) -> TarMember:
        name = extended.get("path") or _stored_name(header)
        kind = _KINDS.get(flag, "other")
        if "size" in extended:
            size = _decimal(extended["size"], start)
        if kind in ("link", "hardlink", "device", "directory"):
            size = 0
        if kind == "sparse":
            self._skip_sparse_map(header)
        elif kind == "file" and any(keyword.startswith("GNU.sparse.") for keyword in extended):
            kind, name = "sparse", extended.get("GNU.sparse.name", name)
        elif kind == "file" and name.endswith("/"):
            kind = "directory"  # how v7 archives say it
            size = 0
        if size > _MAX_SIZE:
            raise TarDamage(start, f"{name!r} claims {size} bytes")
        if self._length is not None and self._position + size > self._length:
            raise TarDamage(self._length, f"the file ends inside the data of {name!r}")
        self._unread = size
        self._padding = -size % BLOCK
        target = extended.get("linkpath") or _text(header[157:257].partition(b"\0")[0]) if "link" in kind else ""
        return TarMember(name, self._position, size, kind, target)

    def _skip_sparse_map(self, header: bytes) -> None:
        """GNU's older form of sparse members has blocks of its map before the data."""
        more = header[482]
        while more:
            more = self._take(BLOCK, "the map of a sparse member")[504]

    def _take_some(self, count: int) -> bytes:
        """The next `count` bytes, or what is left of the stream."""
        # Read in pieces: a damaged header may claim any size, and one huge read would allocate it.
        data = self._stream.read(min(count, _CHUNK))
        if len(data) < count and data:
            pieces = [data]
            missing = count - len(data)
            while missing and (piece := self._stream.read(min(missing, _CHUNK))):
                pieces.append(piece)
                missing -= len(piece)
            data = b"".join(pieces)
        self._position += len(data)
        return data

    def _take(self, count: int, what: str) -> bytes:
        data = self._take_some(count) if count else b""
        if len(data) < count:
            raise TarDamage(self._position, f"the file ends inside {what}" if self._position else "the file is empty")
        return data

    def _skip(self) -> None:
        count, self._unread, self._padding = self._unread + self._padding, 0, 0
        if self._length is not None and count > BLOCK:
            # Seeking past the end goes unnoticed here; the next header is then missing.
            self._stream.seek(count, os.SEEK_CUR)
            self._position += count
            return
        while count:
            count -= len(self._take(min(count, _CHUNK), "a member or its padding"))


def _length(stream: BinaryIO) -> int | None:
    """Bytes of a stream that can seek and stands at its start; None for one that cannot, whatever it says of itself."""
    try:
        if not stream.seekable():
            return None
        length = stream.seek(0, os.SEEK_END)
        stream.seek(0)
    except (OSError, ValueError):
        return None
    return length


def _check_header(header: bytes, start: int) -> int:
    """Verify the checksum and return the size field."""
    around = header[:148] + header[156:]
    total = sum(around) + 8 * ord(" ")
    stored = _octal(header[148:156])
    # Some old tars summed signed bytes; that sum is slow and almost never needed.
    if stored is None or (stored != total and stored != total - 256 * sum(byte > 127 for byte in around)):
        raise TarDamage(start, _what_it_is(header) if start == 0 else "the header checksum does not match")
    field = header[124:136]
    size = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") if field[0] & 0x80 else _octal(field)
    if size is None or field[0] == 0xFF:  # GNU's base-256 can say numbers below zero
        raise TarDamage(start, f"{field!r} is not a size")
    return size


def _what_it_is(header: bytes) -> str:
    """The reason for the first block of a file that is no tar header."""
    for magic, (name, command) in _FOREIGN_STARTS.items():
        if header.startswith(magic):
            return f"it is compressed ({name}), and members are read by their offset; unpack it with `{command}`"
    if header.startswith(b"PK\x03\x04"):
        return "it is a zip; a zip of folders is read as `type: folder` with the path `zip://::FILE`"
    if header.lstrip()[:64].lower().startswith((b"<html", b"<!doctype", b"<?xml")):
        return "it is a web page, probably what a server answered instead of the file"
    return "the header checksum does not match"


def _octal(field: bytes) -> int | None:
    """An octal number between spaces and NULs; None for anything else (Python's int would take signs and underscores)."""
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if not digits.strip(b"01234567") else None


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
