"""WebP (RFC 9649): the header, the chunks, and whether the picture's data runs out in zeros."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipelines.images.exif import Orientation
from pipelines.images.formats.base import BAD_EXIF, BYTES_AFTER_END, Damage, HeaderError, Notes, Probe

#: Zeros at the end of coded data that are nothing to wonder at; no encoder leaves as many bytes that a decoder would not miss.
_SPARE = 16


def header(raw: bytes) -> Probe:
    """The first chunk says lossy (VP8), lossless (VP8L) or extended (VP8X)."""
    notes = Notes()
    end = 8 + int.from_bytes(raw[4:8], "little")
    if end < len(raw):
        notes.add(BYTES_AFTER_END)
    chunk = raw[12:16]
    if chunk == b"VP8X":
        flags = raw[20]
        width = 1 + int.from_bytes(raw[24:27], "little")
        height = 1 + int.from_bytes(raw[27:30], "little")
        struct.unpack_from("<B", raw, 29)
        orientation = Orientation()
        for name, start, stop in _chunks(raw):
            if name == b"EXIF" and flags & 0x08:
                orientation.read(raw[start:stop].removeprefix(b"Exif\0\0"))
        if orientation.damaged:
            notes.add(BAD_EXIF)
        icc = b"" if flags & 0x20 else None
        alpha, animated = bool(flags & 0x10), bool(flags & 0x02)
        return Probe(
            "webp", width, height, 8, "rgb", alpha, animated, orientation.value, icc, end=end, notes=notes.sorted()
        )
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", raw, 26)
        if raw[23:26] != b"\x9d\x01\x2a" or not (width & 0x3FFF and height & 0x3FFF):
            raise HeaderError("the WebP's first frame is not a key frame")
        return Probe("webp", width & 0x3FFF, height & 0x3FFF, end=end, notes=notes.sorted())
    if chunk == b"VP8L":
        signature, packed = struct.unpack_from("<BI", raw, 20)
        if signature != 0x2F:
            raise HeaderError("the lossless WebP has no signature byte")
        width, height, alpha = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF), bool(packed >> 28 & 1)
        return Probe("webp", width, height, alpha=alpha, end=end, notes=notes.sorted())
    raise HeaderError("the WebP begins with a chunk of an unknown name")


def check(raw: bytes, probe: Probe) -> bytes | None:
    """`Damage` when the file ends before its picture does. Where its data ends in many zeros, the file with fewer; or None.

    Coded data that goes on as zeros looks sound to libwebp, since zeros code something too. But then its decoder finishes
    before the zeros do: if the shortened file decodes as well, its data is damaged. A flat picture may end in zeros that
    are all needed.
    """
    if probe.end is not None and probe.end > len(raw):
        raise Damage("truncated", "the WebP ends before the length that it states")
    for name, start, stop in _chunks(raw):
        inner = stop
        if name == b"ANMF":
            start, inner, name = _inside(raw, start + 16, stop)
        if name in (b"VP8 ", b"VP8L"):
            zeros = inner - start - len(raw[start:inner].rstrip(b"\0"))
            if zeros < _SPARE:
                return None
            return _shortened(raw, start, inner, _SPARE)
    raise Damage("truncated", "the WebP has no image data")


def _chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the content of every chunk that begins in the file."""
    position = 12
    while position + 8 <= len(raw):
        name, length = struct.unpack_from("<4sI", raw, position)
        yield name, position + 8, min(position + 8 + length, len(raw))
        position += 8 + length + (length & 1)


def _inside(raw: bytes, position: int, end: int) -> tuple[int, int, bytes]:
    """(start, end, name) of the image data of an animation's frame."""
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", raw, position)
        if name in (b"VP8 ", b"VP8L"):
            return position + 8, min(position + 8 + length, end), name
        position += 8 + length + (length & 1)
    return position, position, b""


def _shortened(raw: bytes, start: int, end: int, less: int) -> bytes:
    """A still of the one frame whose data is raw[start:end], without the last `less` bytes of it."""
    data = raw[start : end - less]
    body = raw[start - 8 : start - 4] + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
