"""AVIF (ISO 14496-12 boxes, AV1 inside): whether the boxes and the coded pictures are whole. Pillow reads and decodes.

An AV1 picture ends in a one and fewer than eight zeros (AV1 specification 5.3.4 and 8.2.4): data that ends in a row of
zero bytes was cut and filled up, which its decoder does not notice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipelines.images.formats.base import Damage

BRANDS = frozenset({b"avif", b"avis"})
_ZEROS = bytes(16)
_FULL = 4  # version and flags


def check(raw: bytes) -> None:
    """`Damage` when a box or a coded picture lies outside the file, or a coded picture ends in zeros."""
    boxes = {kind: (start, end) for kind, start, end in _boxes(raw, 0, len(raw))}
    try:
        places = [*_items(raw, *boxes[b"meta"])] if b"meta" in boxes else []
        places += _first_sample(raw, *boxes[b"moov"]) if b"moov" in boxes else []
    except (struct.error, IndexError, KeyError, StopIteration):
        raise Damage("corrupt", "the AVIF does not say where its pictures are") from None
    for start, length in places:
        if start + length > len(raw):
            raise Damage("truncated", "a picture of the AVIF lies outside the file")
        if length > len(_ZEROS) and raw[start + length - len(_ZEROS) : start + length] == _ZEROS:
            raise Damage("truncated", "a picture of the AVIF ends in zeros")


def _boxes(raw: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the content of each box in a range; the first of a type counts."""
    while position + 8 <= end:
        size, kind = struct.unpack_from(">I4s", raw, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", raw, start)
            start += 8
        stop = end if size == 0 else position + size
        if stop > end or stop < start:
            raise Damage("truncated", "a box of the AVIF lies outside the file")
        yield kind, start, stop
        position = stop


def _inside(raw: bytes, start: int, end: int, *path: bytes) -> tuple[int, int]:
    """The range of the first box of each type in `path`, one inside the other; StopIteration where there is none."""
    for wanted in path:
        start, end = next((begin, stop) for kind, begin, stop in _boxes(raw, start, end) if kind == wanted)
    return start, end


def _items(raw: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, length) of the last extent of every AV1 item (14496-12 section 8.11)."""
    begin, stop = _inside(raw, start + _FULL, end, b"iinf")
    version = raw[begin]
    coded = set()
    for kind, at, _ in _boxes(raw, begin + (6 if version == 0 else 8), stop):
        if kind == b"infe" and raw[at] >= 2:
            wide = raw[at] == 3
            (item,) = struct.unpack_from(">I" if wide else ">H", raw, at + 4)
            name = at + 4 + (4 if wide else 2) + 2
            if raw[name : name + 4] == b"av01":
                coded.add(item)
    at, _ = _inside(raw, start + _FULL, end, b"iloc")
    version, sizes, bases = raw[at], raw[at + 4], raw[at + 5]
    wide = version == 2
    (count,) = struct.unpack_from(">I" if wide else ">H", raw, at + 6)
    at += 6 + (4 if wide else 2)
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if wide else ">H", raw, at)
        at += 4 if wide else 2
        method = 0
        if version:
            method, at = raw[at + 1] & 15, at + 2
        at += 2
        base, at = _number(raw, at, bases >> 4)
        (extents,) = struct.unpack_from(">H", raw, at)
        at += 2
        place = length = 0
        for _ in range(extents):
            if version:
                _, at = _number(raw, at, bases & 15)
            place, at = _number(raw, at, sizes >> 4)
            length, at = _number(raw, at, sizes & 15)
        if item in coded and method == 0 and extents:
            yield base + place, length


def _number(raw: bytes, at: int, width: int) -> tuple[int, int]:
    if at + width > len(raw):
        raise IndexError(at)
    return int.from_bytes(raw[at : at + width], "big"), at + width


def _first_sample(raw: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """(start, length) of the first frame of a sequence's first track."""
    table = _inside(raw, start, end, b"trak", b"mdia", b"minf", b"stbl")
    kinds = {kind: begin for kind, begin, _ in _boxes(raw, *table)}
    at = kinds[b"stsz"]
    common, count = struct.unpack_from(">II", raw, at + 4)
    length = common or struct.unpack_from(">I", raw, at + 12)[0]
    if b"co64" in kinds:
        (place,) = struct.unpack_from(">Q", raw, kinds[b"co64"] + 8)
    else:
        (place,) = struct.unpack_from(">I", raw, kinds[b"stco"] + 8)
    return [(place, length)] if count else []
