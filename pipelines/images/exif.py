"""The orientation tag of an EXIF block, and nothing else of it: no library is needed for one number.

Where a file holds several blocks, the first that states an orientation counts. Pillow and libvips look at the first
block only, so they agree wherever that one has the tag; browsers take the first too. A later block is usually a copy
that an editor left behind, and whoever honours it turns the picture twice.
"""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
#: Field types that hold an orientation: SHORT, as EXIF has it, and LONG, as some writers do.
_KINDS = {3: "H", 4: "I"}


class ExifDamage(ValueError):
    """A block that breaks off or is none. Says nothing about the pixels."""


def stated_orientation(tiff: bytes) -> int | None:
    """Orientation of an EXIF block given from its TIFF header on; None where it states none, 1 where it is out of range.

    Only the first directory is read (TIFF 6.0 section 2): that is where EXIF keeps the main image's orientation.
    `ExifDamage` when the block cannot be read that far.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        raise ExifDamage("no TIFF header")
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHI4s", tiff, entry)
            if tag == _ORIENTATION:
                form = _KINDS.get(kind)
                orientation = struct.unpack_from(order + form, value)[0] if form else 1
                return orientation if 1 <= orientation <= 8 else 1
    except struct.error:
        raise ExifDamage("the block breaks off") from None
    return None


class Orientation:
    """The orientation of a file, from its EXIF blocks in the order in which they stand; `damaged` if one cannot be read."""

    def __init__(self) -> None:
        self._stated: int | None = None
        self.damaged = False

    def read(self, tiff: bytes) -> None:
        """Take in the next block."""
        if self._stated is not None:
            return
        try:
            self._stated = stated_orientation(tiff)
        except ExifDamage:
            self.damaged = True

    @property
    def value(self) -> int:
        return self._stated or 1
