"""Images of low quality, made of good ones while they are read: what a profile of `split` records of a key, carried out.

Kinds and the growth of their severities follow Hendrycks and Dietterich 2019 (ImageNet-C); blurs are a share of the image's side, so
that 32 pixels suffer what 224 do. Nothing is stored but kind, severity and seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import simplejpeg

Kind = Literal["noise", "blur", "dark", "contrast", "pixelate", "jpeg"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: The strongest severity; the weakest is 1.
WORST = 5

Image = np.ndarray[Any, np.dtype[np.uint8]]

#: By kind what each severity means: deviation of the noise, sigma of the blur as a share of the shorter side, how much of the brightness
#: is taken, what is left of the contrast, what is left of each side, JPEG quality.
_AMOUNTS: dict[Kind, tuple[float, ...]] = {
    "noise": (0.04, 0.08, 0.12, 0.18, 0.26),
    "blur": (0.008, 0.015, 0.025, 0.035, 0.05),
    "dark": (0.2, 0.35, 0.5, 0.65, 0.8),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg": (25, 18, 15, 10, 7),
}


@dataclass(frozen=True)
class Corruption:
    """What is done to one image: `severity` from 1 to 5; `seed` decides the noise."""

    kind: Kind
    severity: int
    seed: int

    def __call__(self, image: Image) -> Image:
        """(3, H, W) uint8, spoilt: another array of the same shape."""
        amount = _AMOUNTS[self.kind][self.severity - 1]
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        return np.ascontiguousarray(_CARRIED_OUT[self.kind](pixels, amount, self.seed).transpose(2, 0, 1))


def _noise(pixels: Image, amount: float, seed: int) -> Image:
    drawn = np.random.Generator(np.random.PCG64(seed)).normal(0, 255 * amount, pixels.shape)
    return _levels(pixels + drawn)


def _blur(pixels: Image, amount: float, seed: int) -> Image:
    sigma = max(amount * min(pixels.shape[:2]), 0.3)
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def _dark(pixels: Image, amount: float, seed: int) -> Image:
    return _levels(pixels * (1 - amount))


def _contrast(pixels: Image, amount: float, seed: int) -> Image:
    mean = pixels.mean((0, 1), keepdims=True)
    return _levels(mean + (pixels - mean) * amount)


def _pixelate(pixels: Image, amount: float, seed: int) -> Image:
    height, width = pixels.shape[:2]
    small = (max(round(width * amount), 1), max(round(height * amount), 1))
    coarse = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _jpeg(pixels: Image, amount: float, seed: int) -> Image:
    packed = simplejpeg.encode_jpeg(pixels, quality=int(amount), colorspace="RGB", colorsubsampling="420")
    return np.asarray(simplejpeg.decode_jpeg(packed, colorspace="RGB"), np.uint8)


def _levels(values: np.ndarray[Any, Any]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_CARRIED_OUT: dict[Kind, Callable[[Image, float, int], Image]] = {
    "noise": _noise,
    "blur": _blur,
    "dark": _dark,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
