"""Colour: embedded profiles to sRGB, transparency onto a background, CMYK and deep values to 8-bit RGB.

Arrays are uint8 (H, W, 3) RGB unless said otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from pipelines.images.formats.base import MAX_PROFILE

Pixels = npt.NDArray[np.uint8]

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_BAND = 1 << 20
_SAME_LEVELS = 2  # a profile that moves no probe colour by more than this is sRGB under another name


@dataclass(frozen=True, slots=True)
class Profiled:
    """What an embedded profile asks for: a `transform` to sRGB, None where the pixels are sRGB already or taken for it;
    `damaged` when the profile cannot be read or is one for other pixels."""

    transform: Any | None = None
    damaged: bool = False


@lru_cache(maxsize=16)
def _srgb_transform(profile: bytes, mode: str) -> Profiled:
    """The transform of `mode` pixels to sRGB.

    Whether it is sRGB is decided by what it does to a 9-level colour grid, because profile names cannot be trusted. A
    damaged profile is common and says nothing about the pixels: they are taken as sRGB.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(source.profile.xcolor_space.strip()) != mode:
            return Profiled(damaged=True)
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return Profiled(damaged=True)
    if mode == "CMYK":
        return Profiled(transform)
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        grid = Image.fromarray(steps[None, :])
        plain = np.repeat(steps[None, :, None], 3, axis=2)
    else:
        plain = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        grid = Image.fromarray(plain)
    moved = np.asarray(ImageCms.applyTransform(grid, transform)).astype(np.int16)
    return Profiled(transform if np.abs(moved - plain).max() > _SAME_LEVELS else None)


def profiled(profile: bytes | None, mode: str) -> Profiled:
    """What `profile` asks of L, RGB or CMYK pixels; nothing when there is none."""
    if not profile:
        return Profiled()
    if len(profile) > MAX_PROFILE:
        return Profiled(damaged=True)
    return _srgb_transform(profile, mode)


def to_srgb(image: Image.Image, transform: Any | None) -> Image.Image:
    """An RGB image of an L, RGB or CMYK one.

    CMYK without a usable profile is converted the plain way (ink subtracts from white); Pillow has by then undone
    Adobe's inversion.
    """
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is for in-place use
    return converted


def bands(height: int, width: int) -> Iterator[slice]:
    """Rows of an image in pieces of about a million pixels, so that what is made on the way stays small."""
    step = max(1, _BAND // max(width, 1))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def array_to_srgb(pixels: Pixels, wanted: Profiled, grey: bool) -> Pixels:
    """Decoded RGB pixels through a transform, in place; `grey` says that the three channels are one."""
    if wanted.transform is not None:
        for rows in bands(*pixels.shape[:2]):
            part = pixels[rows, :, 0] if grey else pixels[rows]
            pixels[rows] = np.asarray(to_srgb(Image.fromarray(np.ascontiguousarray(part)), wanted.transform))
    return pixels


def composite(pixels: Pixels, alpha: Pixels, background: tuple[int, int, int], into: Pixels | None = None) -> Pixels:
    """Put `pixels` with coverage `alpha` (H, W) in 0..255 over a plain background, rounding to nearest."""
    shown = np.empty_like(pixels) if into is None else into
    for rows in bands(*alpha.shape):
        cover = alpha[rows, :, None].astype(np.uint32)
        blend = pixels[rows] * cover + np.asarray(background, np.uint32) * (255 - cover)
        shown[rows] = (blend + 127) // 255
    return shown


def deep_to_8_bit(values: npt.NDArray[Any]) -> Pixels:
    """16-bit values (0..65535) to 8 bits by dividing by 257 and rounding, so that white stays white."""
    shown = np.empty(values.shape, np.uint8)
    for rows in bands(*values.shape[:2]):
        shown[rows] = (values[rows].astype(np.uint32) + 128) // 257
    return shown
