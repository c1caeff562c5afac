"""Turning and resizing pixels. Sizes are decided first (`plan`), from the header alone, so that decoding can be scaled.

Arrays are uint8 (H, W, 3); sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines.images.colour import Pixels
from pipelines.images.params import ImageParams

Size = tuple[int, int]
Boxes = np.ndarray[Any, np.dtype[np.float64]]

_TURNS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
_FLIPS = {2: 1, 4: 0}


@dataclass(frozen=True, slots=True)
class Plan:
    """Resize to `resized`, then cut or pad, centred, to `final`. Sizes are equal where a step has nothing to do."""

    resized: Size
    final: Size


def plan(size: Size, params: ImageParams) -> Plan | None:
    """What becomes of an upright image of `size`; None when it is too small for a mode that promises a size."""
    height, width = size
    target = params.size
    if params.resize == "none" or target is None:
        return Plan(size, size)
    square = (target, target)
    if params.resize in ("exact", "center_crop") and min(size) < target and not params.upscale:
        return None
    if params.resize == "exact":
        return Plan(square, square)
    side = max(size) if params.resize in ("longer", "pad") else min(size)
    ratio = target / side if params.upscale else min(1.0, target / side)
    resized = (max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5)))
    if params.resize in ("center_crop", "pad"):
        return Plan(resized, square)
    return Plan(resized, resized)


def move_boxes(boxes: Boxes, size: Size, plan: Plan) -> Boxes:
    """Boxes (k, 4) x1, y1, x2, y2 of an upright picture of `size`, where they lie after `plan`; they may reach outside."""
    moved = boxes.copy()
    for axis, (before, resized, final) in enumerate(zip(size, plan.resized, plan.final, strict=True)):
        # Whole pixels are cut or added, as `fit` does it: rounded down at the top and on the left.
        shift = (final - resized) // 2 if final > resized else -((resized - final) // 2)
        moved[:, 1 - axis :: 2] = boxes[:, 1 - axis :: 2] * (resized / before) + shift
    return moved


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (CIPA DC-008, tag 0x0112): 1 is upright, 3 upside down, 6 to be turned clockwise."""
    if orientation in _TURNS:
        return np.asarray(cv2.rotate(pixels, _TURNS[orientation]), np.uint8)
    if orientation in _FLIPS:
        return np.asarray(cv2.flip(pixels, _FLIPS[orientation]), np.uint8)
    if orientation == 5:
        return np.asarray(cv2.transpose(pixels), np.uint8)
    if orientation == 7:
        return np.asarray(cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180), np.uint8)
    return pixels


def resize(pixels: Pixels, size: Size, interpolation: str) -> Pixels:
    """Resize to `size`. Sides that shrink are averaged (antialiased); sides that grow get a bicubic, after that."""
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    if interpolation == "lanczos":
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS))
    smaller = (min(size[0], height), min(size[1], width))
    if smaller != (height, width):
        pixels = np.asarray(cv2.resize(pixels, (smaller[1], smaller[0]), interpolation=cv2.INTER_AREA), np.uint8)
    if smaller != size:
        pixels = np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_CUBIC), np.uint8)
    return pixels


def fit(pixels: Pixels, size: Size, pad_value: tuple[int, int, int]) -> Pixels:
    """Centre on `size`: cut what is too much, fill what is missing; an odd pixel goes below or right."""
    for axis in (0, 1):
        surplus = pixels.shape[axis] - size[axis]
        if surplus > 0:
            middle = slice(surplus // 2, surplus // 2 + size[axis])
            pixels = pixels[middle] if axis == 0 else pixels[:, middle]
    if pixels.shape[:2] != size:
        canvas = np.empty((*size, 3), np.uint8)
        canvas[:] = pad_value
        top, left = (size[0] - pixels.shape[0]) // 2, (size[1] - pixels.shape[1]) // 2
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = canvas
    return np.ascontiguousarray(pixels)
