"""PNG (ISO 15948): the header from its chunks, and the check of every checksum, of the order and of what is inflated.

Chunks that decide pixels must be whole. The others (text, time, a profile, EXIF) may be damaged: the decoders then get
the same picture without them, which is also how no decoder inflates a text of gigabytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

from pipelines.images.exif import Orientation
from pipelines.images.formats.base import (
    BAD_CHUNK,
    BAD_EXIF,
    BAD_PROFILE,
    BYTES_AFTER_END,
    MAX_PROFILE,
    Colour,
    Damage,
    HeaderError,
    Notes,
    Probe,
    Sound,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS: dict[int, Colour] = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: The seven passes of an interlaced PNG: first column, first row, and the steps between.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Chunks that decide pixels. The header and the end are looked at by name.
_DECIDING = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})
#: Chunks that a decoder can be given as they are; others (text above all) are not worth a risk.
_HARMLESS = frozenset({b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"sBIT", b"bKGD", b"hIST", b"tIME", b"cICP"})
_APPLE = b"CgBI"
_PIECE = 1 << 20


def header(raw: bytes) -> Probe:
    """Size and kind from IHDR, transparency, animation, profile and EXIF from other chunks; nothing is checked yet."""
    if raw[12:16] == _APPLE:
        raise HeaderError(
            "it is an iPhone's private form of PNG (CgBI); convert it with pngcrush -revert-iphone-optimizations"
        )
    width, height, bits, kind, squeezed, filtered, laced = struct.unpack_from(">IIBBBBB", raw, 16)
    sound = (
        raw[8:16] == b"\0\0\0\x0dIHDR" and bits in _DEPTHS.get(kind, ()) and not (squeezed or filtered) and laced <= 1
    )
    if not sound or not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise HeaderError("the PNG does not begin with a sound IHDR chunk")
    probe = Probe("png", width, height, bits, _COLOURS[kind], alpha=kind >= 4)
    orientation, notes = Orientation(), Notes()
    for name, start, stop, end in _chunks(raw):
        if name == b"tRNS":
            probe = replace(probe, alpha=True)
        elif name == b"acTL" and stop - start >= 4:
            probe = replace(probe, animated=struct.unpack_from(">I", raw, start)[0] > 1)
        elif name == b"iCCP":
            probe = replace(probe, icc=b"")
        elif name == b"eXIf" and stop <= len(raw):
            if zlib.crc32(raw[start - 4 : stop]).to_bytes(4, "big") == raw[stop:end]:
                orientation.read(raw[start:stop])
            else:
                notes.add(BAD_EXIF)
        elif name == b"IEND":
            probe = replace(probe, end=end)
            if end < len(raw):
                notes.add(BYTES_AFTER_END)
    if orientation.damaged:
        notes.add(BAD_EXIF)
    return replace(probe, orientation=orientation.value, notes=notes.sorted())


def check(raw: bytes, inflate: bool) -> Sound:
    """The PNG that a decoder may have; `Damage` when what decides its pixels is not whole.

    With `inflate` the image data is inflated once to see that it holds all rows: for decoders that do not mind if not.
    """
    notes, icc = Notes(), None
    chunks: list[bytes | memoryview] = [SIGNATURE]
    order: list[bytes] = []
    data: list[memoryview] = []
    view, tampered, end = memoryview(raw), False, len(raw)
    for name, start, stop, end in _chunks(raw):
        if end > len(raw):
            raise Damage("truncated", "the PNG ends inside a chunk")
        if not name.isalpha():
            empty = not raw[start - 8 :].strip(b"\0")
            raise Damage("truncated" if empty else "corrupt", "a chunk of the PNG has no name")
        whole = zlib.crc32(view[start - 4 : stop]) == int.from_bytes(raw[stop:end], "big")
        if name in _DECIDING:
            if not whole:
                raise Damage("corrupt", f"the checksum of an {name.decode()} chunk is wrong")
            _check_order(name, order)
            chunks.append(view[start - 8 : end])
            if name == b"IDAT":
                data.append(view[start:stop])
            order.append(name)
            if name == b"IEND":
                break
        elif not name[0] & 0x20:
            raise Damage("unsupported_mode", f"the PNG has the critical chunk {name.decode()}, which no reader knows")
        elif name == b"iCCP" and icc is None:
            icc = _profile(raw[start:stop]) if whole else None
            if icc is None:
                notes.add(BAD_PROFILE)
        elif not whole:
            notes.add(BAD_CHUNK)
        tampered |= name not in _DECIDING and (not whole or name not in _HARMLESS)
    if not order or order[-1] != b"IEND":
        raise Damage("truncated", "the PNG ends before its IEND chunk")
    if b"IDAT" not in order or (raw[25] == 3 and b"PLTE" not in order):
        raise Damage("corrupt", "the PNG has no image data or no palette")
    if inflate:
        _inflate(raw, data)
    if end < len(raw):
        notes.add(BYTES_AFTER_END)
    if not tampered:
        return Sound(raw, notes.sorted(), icc)
    return Sound(b"".join(chunks), notes.sorted(), icc, repaired=bool({BAD_CHUNK, BAD_PROFILE} & notes.found))


def _chunks(raw: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """(name, start of the content, its end, end of the chunk) of every chunk up to IEND; the last may lie outside."""
    position = 8
    while position + 8 <= len(raw):
        length, name = struct.unpack_from(">I4s", raw, position)
        yield name, position + 8, position + 8 + length, position + 12 + length
        if name == b"IEND":
            return
        position += 12 + length
    if position < len(raw):
        yield b"", position + 8, position + 8, len(raw) + 1


def _check_order(name: bytes, before: list[bytes]) -> None:
    """IHDR first and once, PLTE and tRNS once and ahead of the data, the data in one run."""
    wrong = name != b"IDAT" and name in before
    wrong |= (name == b"IHDR") != (not before)
    wrong |= name in (b"PLTE", b"tRNS") and b"IDAT" in before
    wrong |= name == b"IDAT" and b"IDAT" in before and before[-1] != b"IDAT"
    if wrong:
        raise Damage("corrupt", f"a {name.decode()} chunk of the PNG stands where it cannot be")


def _profile(body: bytes) -> bytes | None:
    """The bytes of an iCCP chunk's profile; None when it is damaged or larger than any profile in use."""
    name, nul, rest = body.partition(b"\0")
    if not nul or not 1 <= len(name) <= 79 or rest[:1] != b"\0":
        return None
    try:
        stream = zlib.decompressobj()
        profile = stream.decompress(rest[1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if stream.eof and profile else None


def _inflate(raw: bytes, data: list[memoryview]) -> None:
    """Inflate the image data and throw it away; `Damage` when it is not whole or shorter than the rows it is to hold."""
    wanted, size = _row_bytes(raw), 0
    stream = zlib.decompressobj()
    try:
        for chunk in data:
            piece: bytes | memoryview = chunk
            while piece and not stream.eof and size <= wanted:
                size += len(stream.decompress(piece, _PIECE))
                piece = stream.unconsumed_tail
        while not stream.eof and size < wanted and (more := stream.decompress(stream.unconsumed_tail, _PIECE)):
            size += len(more)
    except zlib.error:
        raise Damage("corrupt", "the image data of the PNG cannot be inflated") from None
    if size < wanted:
        raise Damage("truncated", "the image data of the PNG ends before its last row")
    if not stream.eof and size == wanted:
        raise Damage("truncated", "the image data of the PNG ends before its checksum")


def _row_bytes(raw: bytes) -> int:
    """How many bytes the rows of a PNG take, each with its filter byte."""
    width, height, bits, kind, _, _, laced = struct.unpack_from(">IIBBBBB", raw, 16)
    depth = bits * _CHANNELS[kind]
    if not laced:
        return int(height * (1 + -(-width * depth // 8)))
    total = 0
    for left, top, across, down in _PASSES:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * depth // 8))
    return total


def grey_key(raw: bytes) -> int | None:
    """The grey value that is transparent (tRNS of a greyscale PNG), or None."""
    if raw[25] != 0:
        return None
    for name, start, stop, _ in _chunks(raw):
        if name == b"tRNS" and stop - start == 2:
            return int.from_bytes(raw[start:stop], "big")
    return None
