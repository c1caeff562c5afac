"""A 64-bit perceptual hash: images that look alike differ in few bits. From pixels, a few dozen microseconds.

Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2, in the form that
duplicate finders share: grey, 32 x 32, DCT-II, the 8 x 8 lowest frequencies against their median.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.images.colour import Pixels

_SIDE, _LOW = 32, 8
_FREQUENCY = np.arange(_LOW, dtype=np.float64)[:, None]
_BASIS = np.cos(np.pi * _FREQUENCY * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE))
_BASIS_T = np.ascontiguousarray(_BASIS.T)


def phash(pixels: Pixels) -> str:
    """The hash of uint8 (H, W, 3) RGB as 16 hex digits, rows of the frequency block first, highest bit first.

    The picture is averaged (AREA) down to 32 x 32 before anything else, so size hardly matters. Coefficients are
    rounded before they are compared, which keeps a plain image's hash free of floating-point noise.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = np.round(_BASIS @ small.astype(np.float64) @ _BASIS_T, 4)
    ordered = np.sort(low, axis=None)
    bits = low > (ordered[31] + ordered[32]) / 2  # the median of 64, without np.median's overhead
    return np.packbits(bits).tobytes().hex()


def distance(left: str, right: str) -> int:
    """Number of differing bits of two hashes, 0-64."""
    return (int(left, 16) ^ int(right, 16)).bit_count()
