"""Makes small images of every kind for the tests, so that they need no shared data."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def picture(height: int = 60, width: int = 90, seed: int = 0) -> Pixels:
    """A smooth colour picture without symmetry, so that every turn of it differs."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Pixels | Image.Image, kind: str, **options: Any) -> bytes:
    """Bytes of `image` as Pillow writes them."""
    target = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(target, kind, **options)
    return target.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block with one tag, as Pillow's `exif=` wants it."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def unturned(upright: Pixels, orientation: int) -> Pixels:
    """The pixels a camera would store so that `orientation` makes them upright (inverse of CIPA DC-008's table)."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation].copy()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_bomb(side: int = 25_000) -> bytes:
    """A sound PNG of side x side black 1-channel pixels in a few dozen kilobytes."""
    row = zlib.compressobj(9)
    line = bytes(1 + side)
    data = b"".join(row.compress(line) for _ in range(side)) + row.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", head), png_chunk(b"IDAT", data), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_16(values: npt.NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG of (H, W) grey, (H, W, 3) colour or (H, W, 4) colour with alpha."""
    height, width = values.shape[:2]
    kind = {1: 0, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", head), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def closeness(left: Pixels, right: Pixels) -> float:
    """Mean absolute difference in levels; infinite for different shapes."""
    if left.shape != right.shape:
        return float("inf")
    return float(np.abs(left.astype(np.int16) - right.astype(np.int16)).mean())
