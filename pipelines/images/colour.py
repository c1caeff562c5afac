"""Colour: embedded profiles to sRGB, transparency onto a background, CMYK and deep values to 8-bit RGB.

Arrays are uint8 (H, W, 3) RGB unless said otherwise.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Pixels = npt.NDArray[np.uint8]

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SAME_LEVELS = 2  # a profile that moves no probe colour by more than this is sRGB under another name


@lru_cache(maxsize=64)
def _srgb_transform(profile: bytes, mode: str) -> Any | None:
    """The transform of `mode` pixels to sRGB, or None when the profile is broken, for another mode, or sRGB itself.

    Whether it is sRGB is decided by what it does to a 9-level colour grid, because profile names cannot be trusted.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # a damaged profile is common and says nothing about the pixels: they are taken as sRGB
    if mode == "CMYK":
        return transform
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        grid = Image.fromarray(steps[None, :])
        plain = np.repeat(steps[None, :, None], 3, axis=2)
    else:
        plain = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        grid = Image.fromarray(plain)
    moved = np.asarray(ImageCms.applyTransform(grid, transform)).astype(np.int16)
    return transform if np.abs(moved - plain).max() > _SAME_LEVELS else None


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bool]:
    """An RGB image of an L, RGB or CMYK one, through `profile` when it is sound and not sRGB; and whether it was used.

    CMYK without a usable profile is converted the plain way (ink subtracts from white); Pillow has by then undone
    Adobe's inversion.
    """
    transform = _srgb_transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB"), False
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is for in-place use
    return converted, True


def array_to_srgb(pixels: Pixels, profile: bytes | None, grey: bool) -> tuple[Pixels, bool]:
    """`to_srgb` for decoded RGB pixels; `grey` says that the three channels are one, so a grey profile applies."""
    if not profile or _srgb_transform(profile, "L" if grey else "RGB") is None:
        return pixels, False
    image, changed = to_srgb(Image.fromarray(pixels[:, :, 0] if grey else pixels), profile)
    return np.array(image), changed


def composite(pixels: Pixels, alpha: Pixels, background: tuple[int, int, int]) -> Pixels:
    """Put `pixels` with coverage `alpha` (H, W) in 0..255 over a plain background, rounding to nearest."""
    cover = alpha[:, :, None].astype(np.uint32)
    blend = pixels * cover + np.asarray(background, np.uint32) * (255 - cover)
    return ((blend + 127) // 255).astype(np.uint8)


def deep_to_8_bit(values: npt.NDArray[Any]) -> Pixels:
    """16-bit values (0..65535) to 8 bits by dividing by 257 and rounding, so that white stays white."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
