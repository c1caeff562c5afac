"""The orientation tag of an EXIF block, and nothing else of it: no library is needed for one number."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112


def orientation_of(tiff: bytes) -> int:
    """Orientation 1-8 of an EXIF block given from its TIFF header on; 1 where it is absent, damaged or out of range.

    Only the first directory is read (TIFF 6.0 section 2): that is where EXIF keeps the main image's orientation.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, entry)
        if tag == _ORIENTATION:
            (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
            return value if 1 <= value <= 8 else 1
    return 1
