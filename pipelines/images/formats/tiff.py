"""TIFF 6.0 and BigTIFF: the first directory, read without a library, and whether its strips or tiles are whole.

Pillow decodes. It is asked only when the directory makes sense: its own reading of a hostile one would copy the file once
for every tag, and libtiff reserves a tile as large as it is said to be.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import simplejpeg

from pipelines.images.formats.base import Damage, HeaderError, Probe
from pipelines.images.formats.foreign import camera_raw

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Bytes of a value by its type (TIFF 6.0 section 2; 13 and 16 to 18 of BigTIFF).
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_TAGS = 4096
#: What tags may hold besides the places of strips; EXIF thumbnails and maker notes are far below.
_ROOM = 1 << 16

_NEW_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_SUB_IFDS, _JPEG_TABLES, _DNG_VERSION = 330, 347, 50_706
_PLAIN, _JPEG, _ADOBE_DEFLATE, _DEFLATE, _PACK_BITS = 1, 7, 8, 32_946, 32_773
_CFA, _LINEAR_RAW = 32_803, 34_892


@dataclass(slots=True)
class _Directory:
    """The first directory: whole numbers by tag, and the raw bytes of what is no number."""

    numbers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    blobs: dict[int, bytes] = field(default_factory=dict)
    tags: set[int] = field(default_factory=set)

    def one(self, tag: int, default: int) -> int:
        values = self.numbers.get(tag)
        return values[0] if values else default


def header(raw: bytes) -> Probe:
    """Size, bits and the largest strip or tile, from the first directory. Camera raw files are refused by their name."""
    directory = _read(raw)
    width, height = directory.one(_WIDTH, 0), directory.one(_HEIGHT, 0)
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise HeaderError(f"the TIFF says {width}x{height} pixels")
    if raw[8:10] == b"CR":
        raise HeaderError(camera_raw("CR2"))
    if _DNG_VERSION in directory.tags:
        raise HeaderError(camera_raw("DNG"))
    reduced = directory.one(_NEW_SUBFILE, 0) & 1 and _SUB_IFDS in directory.tags
    if reduced or directory.one(_PHOTOMETRIC, 0) in (_CFA, _LINEAR_RAW):
        raise HeaderError(camera_raw("NEF, ARW or another in a TIFF's form"))
    _, unit = _units(directory)
    bits = max(directory.numbers.get(_BITS, (1,)))
    # Pillow turns a TIFF by itself while loading it, so its orientation is not left to us.
    return Probe("tiff", width, height, min(bits, 8), "other", icc=b"", packed=unit)


def check(raw: bytes) -> None:
    """`Damage` when a strip or tile lies outside the file or does not hold what it is to hold.

    libtiff itself is strict with LZW; with CCITT fax codes nobody is.
    """
    directory = _read(raw)
    packing = directory.one(_COMPRESSION, _PLAIN)
    pieces, unit = _units(directory)
    tiled = _TILES in directory.numbers
    starts = directory.numbers.get(_TILES if tiled else _STRIPS, ())
    lengths = directory.numbers.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    if len(starts) < pieces or (len(lengths) < pieces and not (packing == _PLAIN and not lengths)):
        raise Damage("corrupt", "the TIFF does not say where all of its pixels are")
    rows = min(directory.one(_ROWS, 1 << 31), directory.one(_HEIGHT, 0))
    for place in range(pieces):
        size = unit
        if not tiled:
            stripes = -(-directory.one(_HEIGHT, 0) // rows)
            left = directory.one(_HEIGHT, 0) - (place % stripes) * rows
            size = unit // rows * min(rows, left)
        start = starts[place]
        length = lengths[place] if lengths else size
        if start + length > len(raw) or (packing == _PLAIN and length < size):
            raise Damage("truncated", "pixels of the TIFF lie outside the file")
        _check_piece(raw[start : start + length], packing, size, directory) if packing != _PLAIN else None


def _check_piece(data: bytes, packing: int, size: int, directory: _Directory) -> None:
    if packing in (_ADOBE_DEFLATE, _DEFLATE):
        _check_deflate(data, size)
    elif packing == _PACK_BITS:
        _check_pack_bits(data, size)
    elif packing == _JPEG:
        _check_jpeg(data, directory.blobs.get(_JPEG_TABLES, b""))


def _check_deflate(data: bytes, size: int) -> None:
    stream, length, rest = zlib.decompressobj(), 0, data
    try:
        while not stream.eof and length <= 2 * size:  # the last strip may be as long as the others
            step = len(stream.decompress(rest, 1 << 20))
            rest, length = stream.unconsumed_tail, length + step
            if not step and not rest:
                break
    except zlib.error:
        raise Damage("corrupt", "pixels of the TIFF cannot be inflated") from None
    if length < size or not stream.eof:
        raise Damage("truncated", "pixels of the TIFF break off")


def _check_pack_bits(data: bytes, size: int) -> None:
    """A run is a count and one byte, a literal a count and as many bytes (TIFF 6.0 section 9)."""
    place = length = 0
    while place < len(data) and length < size:
        count = data[place]
        if count < 128:
            length, place = length + count + 1, place + count + 2
        else:
            length, place = length + (257 - count if count > 128 else 0), place + (2 if count > 128 else 1)
    if length != size or place > len(data):
        raise Damage("corrupt", "packed pixels of the TIFF do not fill their rows")
    if len(data) - place > 1:
        raise Damage("corrupt", "packed pixels of the TIFF go on behind their rows")


def _check_jpeg(data: bytes, tables: bytes) -> None:
    whole = tables[:-2] + data[2:] if tables[:2] == b"\xff\xd8" and tables[-2:] == b"\xff\xd9" else data
    for space in ("RGB", "CMYK"):
        try:
            simplejpeg.decode_jpeg(whole, colorspace=space)
        except ValueError as error:
            if "Premature" in str(error) or "Corrupt" in str(error):
                reason = "truncated" if "end of JPEG" in str(error) else "corrupt"
                raise Damage(reason, "the JPEG data of the TIFF is damaged") from None


def _units(directory: _Directory) -> tuple[int, int]:
    """(number of strips or tiles, bytes of the largest when unpacked)."""
    width, height = directory.one(_WIDTH, 0), directory.one(_HEIGHT, 0)
    samples, bits = directory.one(_SAMPLES, 1), max(directory.numbers.get(_BITS, (1,)))
    separate = directory.one(_PLANAR, 1) == 2
    together = 1 if separate else samples
    if not (1 <= samples <= 64 and 1 <= bits <= 64):
        raise HeaderError(f"the TIFF says {samples} samples of {bits} bits a pixel")
    if _TILES in directory.numbers:
        across, down = directory.one(_TILE_WIDTH, 0), directory.one(_TILE_HEIGHT, 0)
        if not (across and down):
            raise HeaderError("the TIFF says tiles of no size")
        count = -(-width // across) * -(-height // down)
        unit = down * -(-across * together * bits // 8)
    else:
        rows = min(max(directory.one(_ROWS, 1 << 31), 1), height)
        count, unit = -(-height // rows), rows * -(-width * together * bits // 8)
    return count * (samples if separate else 1), unit


def _read(raw: bytes) -> _Directory:
    """The first directory. HeaderError when its tags claim more than the file can hold."""
    order = "<" if raw[:1] == b"I" else ">"
    big = raw[2:4] in (b"+\0", b"\0+")
    if big:
        (start,) = struct.unpack_from(order + "Q", raw, 8)
        (count,) = struct.unpack_from(order + "Q", raw, start) if start + 8 <= len(raw) else (0,)
        first, step, form, inline = start + 8, 20, order + "HHQ8s", 8
    else:
        (start,) = struct.unpack_from(order + "I", raw, 4)
        (count,) = struct.unpack_from(order + "H", raw, start) if start + 2 <= len(raw) else (0,)
        first, step, form, inline = start + 2, 12, order + "HHI4s", 4
    if start + 2 > len(raw):
        raise Damage("truncated", "the TIFF ends before its directory")
    if not 0 < count <= _MOST_TAGS:
        raise HeaderError(f"the TIFF says {count} tags")
    directory, outside = _Directory(), 0
    for entry in range(first, first + step * count, step):
        tag, kind, number, value = struct.unpack_from(form, raw, entry)
        width = _WIDTHS.get(kind, 0) * number
        if width > inline:
            (place,) = struct.unpack(order + ("Q" if big else "I"), value)
            outside += width
            if outside > len(raw) + _ROOM:
                raise HeaderError("the tags of the TIFF claim more than the file holds")
            data = raw[place : place + width]
        else:
            data = value[:width]
        directory.tags.add(tag)
        if kind in _WHOLE and len(data) == width and (tag < 340 or number < 64):
            directory.numbers.setdefault(tag, struct.unpack(f"{order}{number}{_WHOLE[kind]}", data))
        elif tag == _JPEG_TABLES:
            directory.blobs[tag] = data
    return directory
