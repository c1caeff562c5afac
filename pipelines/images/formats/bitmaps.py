"""BMP and PNM: pixels as they are. What their headers claim can be held against the length of the file at once."""

from __future__ import annotations

import re
import struct

from pipelines.images.formats.base import BYTES_AFTER_END, Colour, HeaderError, Probe

_PNM_HEADER = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:(?:\s|#[^\n]*\n)+(\d{1,5}))?")
#: BMP compressions whose rows have a fixed length: none, and bit fields.
_PLAIN = (0, 3, 6)


def bmp_header(raw: bytes) -> Probe:
    """A BMP's size; a negative height means rows from the top."""
    old = struct.unpack_from("<I", raw, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", raw, 18)
    if width <= 0 or height == 0:
        raise HeaderError(f"the BMP says {width}x{height} pixels")
    height = abs(height)
    if len(raw) < 34:
        return Probe("bmp", width, height, end=34)
    (offset,) = struct.unpack_from("<I", raw, 10)
    (depth,) = struct.unpack_from("<H", raw, 24 if old else 28)
    (packing,) = (0,) if old else struct.unpack_from("<I", raw, 30)
    # The last row may lack the bytes that fill it up to a multiple of four.
    need = offset + (height - 1) * (-(-width * depth // 32) * 4) + -(-width * depth // 8) if packing in _PLAIN else None
    return Probe("bmp", width, height, end=need)


def pnm_header(raw: bytes) -> Probe:
    """PBM, PGM and PPM, plain and binary; the largest value says 8 or 16 bits."""
    match = _PNM_HEADER.match(raw[:1024])
    if match is None:
        raise HeaderError("the PNM header has no width and height")
    width, height = int(match[1]), int(match[2])
    kind = raw[1] - ord("0")
    top = 1 if kind in (1, 4) else int(match[3] or 0)
    if not (width and height and 1 <= top <= 65_535):
        raise HeaderError(f"the PNM says {width}x{height} pixels up to {top}")
    # Only plain 8-bit binary files are 'grey' or 'rgb' here; odd ranges need Pillow's scaling.
    colour: Colour = "other" if top != 255 or kind < 5 else ("grey" if kind == 5 else "rgb")
    channels = 3 if kind in (3, 6) else 1
    start = match.end(2 if kind in (1, 4) else 3)
    if kind == 4:
        end = start + 1 + height * -(-width // 8)
    elif kind >= 5:
        end = start + 1 + height * width * channels * (2 if top > 255 else 1)
    else:  # text: a digit a value, and what parts it from the next where values can have more than one
        end = start + height * width * channels * (1 if kind == 1 else 2)
    notes = (BYTES_AFTER_END,) if kind >= 4 and len(raw) > end else ()
    return Probe("pnm", width, height, 16 if top > 255 else 8, colour, end=end, notes=notes)
