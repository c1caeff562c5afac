"""GIF89a: size, and whether there is a second frame. Pillow's decoder is strict about the rest."""

from __future__ import annotations

import struct

from pipelines.images.formats.base import HeaderError, Probe


def header(raw: bytes) -> Probe:
    """Size from the logical screen or, if it is larger, the first frame; animated when a second image descriptor follows."""
    width, height, flags = struct.unpack_from("<HHB", raw, 6)
    if not (width and height):
        raise HeaderError(f"the GIF says {width}x{height} pixels")
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    images = 0
    while images < 2 and position < len(raw) and raw[position] in (0x21, 0x2C):
        if raw[position] == 0x2C:
            images += 1
            if images == 1 and position + 9 < len(raw):
                left, top, across, down = struct.unpack_from("<HHHH", raw, position + 1)
                width, height = max(width, left + across), max(height, top + down)
            local = raw[position + 9] if position + 9 < len(raw) else 0
            position += 10 + (3 << (local & 7) + 1 if local & 0x80 else 0) + 1
        else:
            position += 2
        while position < len(raw) and raw[position]:
            position += 1 + raw[position]
        position += 1
    return Probe("gif", width, height, 8, "palette", alpha=True, animated=images > 1)
