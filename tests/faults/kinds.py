"""One sound picture of every kind that is read, with a reference of its pixels; and the ways in which files get damaged."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
from PIL import Image

from tests.images.making import encoded


@cache
def noisy(height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth picture with a little noise: no part of it is flat, so that no damage goes unseen."""
    rng = np.random.default_rng(3)
    soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    shaken = np.asarray(soft).astype(int) + rng.integers(-20, 21, (height, width, 3))
    return np.clip(shaken, 0, 255).astype(np.uint8)


@cache
def sound() -> dict[str, bytes]:
    """Encoded pictures by kind."""
    image = Image.fromarray(noisy())
    grey, cyan = image.convert("L"), image.convert("CMYK")
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1))))
    frames = [Image.fromarray(np.roll(noisy(), 9 * place, 1)) for place in range(3)]
    indexed = [frame.quantize(64) for frame in frames]
    made = {
        "jpeg": encoded(image, "JPEG", quality=90),
        "jpeg 420": encoded(image, "JPEG", subsampling=2),
        "jpeg grey": encoded(grey, "JPEG"),
        "jpeg progressive": encoded(image, "JPEG", progressive=True),
        "jpeg cmyk": encoded(cyan, "JPEG"),
        "jpeg restart": encoded(image, "JPEG", restart_marker_rows=1),
        "png": encoded(image, "PNG"),
        "png rgba": encoded(clear, "PNG"),
        "png palette": encoded(image.quantize(64), "PNG"),
        "png 1 bit": encoded(image.convert("1"), "PNG"),
        "png grey alpha": encoded(grey.convert("LA"), "PNG"),
        "png 16 bit": cv2.imencode(".png", noisy().astype(np.uint16) * 257)[1].tobytes(),
        "png grey": encoded(grey, "PNG"),
        "webp": encoded(image, "WEBP", quality=80),
        "webp lossless": encoded(image, "WEBP", lossless=True),
        "webp alpha": encoded(clear, "WEBP", quality=80),
        "webp lossless alpha": encoded(clear, "WEBP", lossless=True),
        "webp animated": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=50),
        "gif": encoded(indexed[0], "GIF"),
        "gif animated": encoded(indexed[0], "GIF", save_all=True, append_images=indexed[1:], duration=50),
        "bmp": encoded(image, "BMP"),
        "bmp palette": encoded(image.quantize(16), "BMP"),
        "ppm": encoded(image, "PPM"),
        "pgm": encoded(grey, "PPM"),
        "pbm": encoded(image.convert("1"), "PPM"),
        "ppm text": b"P3\n20 20\n255\n" + b" ".join(b"%d" % value for value in noisy()[:20, :20].reshape(-1)) + b"\n",
        "tiff": encoded(image, "TIFF"),
        "tiff 16 bit": encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "TIFF"),
        "tiff group4": encoded(image.convert("1"), "TIFF", compression="group4"),
        "tiff rgba lzw": encoded(clear, "TIFF", compression="tiff_lzw"),
        "bigtiff": encoded(image, "TIFF", big_tiff=True, compression="tiff_lzw"),
        "avif": encoded(image, "AVIF"),
        "avif alpha": encoded(clear, "AVIF"),
        "avif sequence": encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:]),
    }
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        made[f"tiff {packing.removeprefix('tiff_')}"] = encoded(image, "TIFF", compression=packing)
    return made


#: Plain values: nothing in the file could tell that some of them were lost, only that some are missing.
UNPACKED = frozenset({"bmp", "bmp palette", "ppm", "pgm", "pbm", "tiff", "tiff 16 bit"})
#: Every bit of the picture is under a checksum.
CHECKSUMMED = frozenset({"png", "png rgba", "png palette", "png 1 bit", "png grey alpha", "png 16 bit", "png grey"})


def cut(raw: bytes, share: float) -> bytes:
    return raw[: int(len(raw) * share)]


def zero_tailed(raw: bytes, share: float) -> bytes:
    """The length of a download that was announced, filled up with zeros."""
    kept = int(len(raw) * share)
    return raw[:kept] + bytes(len(raw) - kept)


def flipped(raw: bytes, places: list[int]) -> bytes:
    """One bit changed at each place."""
    damaged = bytearray(raw)
    for place in places:
        damaged[place // 8] ^= 1 << place % 8
    return bytes(damaged)


def opened(raw: bytes) -> np.ndarray:
    """What Pillow shows of a picture."""
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
