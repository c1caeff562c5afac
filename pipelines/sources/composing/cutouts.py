"""An image of one thing on a plain ground becomes a cut-out: what is it, how light, how much of each pixel it covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from pipelines.images.colour import Pixels
from pipelines.sources.composing.draws import Array

#: A pixel belongs to a box when an item covers at least this much of it.
PAINTED = 0.25
#: Samples per side of an output pixel, and by how much a cut-out is enlarged before it is sampled: powers of two.
_SAMPLES, _FINER = 4, 4
#: Share of the inner level from which a pixel of the rim counts as covered, and the least cover of one.
_RIM, _LEAST_RIM = 0.75, 0.3
#: Levels (of 255) above the ground that are an item; a hole or a speck of fewer pixels is noise.
_THRESHOLD, _HOLE, _SPECK = 12, 12, 6

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Cutout:
    """`light` and `cover` (h, w) of a thing in its own pixels, cut to its bounds: 0..255 and 0..1, both enlarged."""

    light: Array
    cover: Array
    middle: float

    @property
    def longer(self) -> float:
        """The longer side, in pixels of the image it was cut from."""
        return max(self.light.shape) / _FINER - 2.0


@dataclass(frozen=True)
class Patch:
    """A cut-out as it is painted: `light` (h, w) 0..255, `cover` (h, w) 0..1, `painted` where that is enough to count."""

    light: Array
    cover: Array
    painted: Mask

    def box(self, top: int = 0, left: int = 0) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 of the painted pixels when the patch lies at (top, left); exclusive at the far end."""
        rows, columns = np.flatnonzero(self.painted.any(axis=1)), np.flatnonzero(self.painted.any(axis=0))
        return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def cut(pixels: Pixels) -> Cutout | None:
    """The thing on `pixels` uint8 (H, W, 3), cut along its outline; None when there is nothing on the ground.

    The ground is the commonest level of the border. Small holes are filled and specks left out; large holes, such as
    that of a handle, stay open.
    """
    grey = (pixels.astype(np.int64) * np.array([77, 150, 29])).sum(axis=2) >> 8
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = int(np.bincount(border).argmax())
    mask = np.abs(grey - ground) > _THRESHOLD
    mask = _without_small(mask, _SPECK, 8)
    mask = ~_without_small(~np.pad(mask, 1), _HOLE, 4)[1:-1, 1:-1]
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside, levels = np.pad(mask[part], 1), np.pad(np.abs(grey - ground)[part], 1).astype(np.float64)
    middle = float(np.sort(levels[inside])[int(inside.sum()) // 2])
    near = _around(inside.astype(np.float64))
    core = inside & (near == 9)
    # Straps and handles have no inner pixels: there it is those as light as what is round them.
    core |= inside & (_around(core.astype(np.float64)) == 0) & (levels * near >= _around(levels * inside))
    inner = _spread(levels, core)
    # A pixel of the rim is darker because it is partly ground: what is missing of its inner level is cover, not shade.
    part_of = np.clip(levels / np.maximum(_RIM * inner, 1.0), _LEAST_RIM, 1.0)
    light = np.clip(_enlarged(np.where(inside, np.maximum(levels, inner), inner)), 0.0, 255.0)
    cover = np.clip(_enlarged(np.where(inside & ~core, part_of, inside)) * 1.6 - 0.3, 0.0, 1.0)
    return Cutout(light, cover, middle)


def paint(cutout: Cutout, longer: float, degrees: float, mirrored: bool) -> Patch:
    """The cut-out turned clockwise, its longer side `longer` pixels before the turn, each pixel the mean of 16 samples."""
    turn = math.radians(degrees)
    cosine, sine = round(math.cos(turn) * 65536) / 65536, round(math.sin(turn) * 65536) / 65536
    zoom = round(longer / cutout.longer * 4096) / 4096
    high, wide = (side / _FINER * zoom for side in cutout.light.shape)
    height = math.ceil(abs(cosine) * high + abs(sine) * wide) + 1
    width = math.ceil(abs(cosine) * wide + abs(sine) * high) + 1
    y = ((np.arange(height * _SAMPLES) + 0.5) / _SAMPLES - height / 2)[:, None]
    x = ((np.arange(width * _SAMPLES) + 0.5) / _SAMPLES - width / 2)[None, :]
    side = -1.0 if mirrored else 1.0
    across = (cosine * x + sine * y) * side / zoom * _FINER + cutout.light.shape[1] / 2 - 0.5
    down = (cosine * y - sine * x) / zoom * _FINER + cutout.light.shape[0] / 2 - 0.5
    light, cover = _sampled((cutout.light, cutout.cover), down, across)
    light, cover = _means(light * cover), _means(cover)
    light = light / np.maximum(cover, 1e-9)
    rows, columns = np.flatnonzero((cover > 0).any(axis=1)), np.flatnonzero((cover > 0).any(axis=0))
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return Patch(light[part], cover[part], cover[part] >= PAINTED)


def _without_small(mask: Mask, least: int, connectivity: int) -> Mask:
    """The mask without connected parts of fewer than `least` pixels."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    large = np.array([place > 0 and stats[place, cv2.CC_STAT_AREA] >= least for place in range(count)])
    return large[parts]


def _spread(levels: Array, inside: Mask) -> Array:
    """Levels with those of the nearest inside pixels carried three pixels outwards, so that no edge mixes with the ground."""
    inside_weight = inside.astype(np.float64)
    values = levels * inside_weight
    for _ in range(3):
        total, weight = _around(values), _around(inside_weight)
        fresh = (inside_weight == 0) & (weight > 0)
        values = np.where(fresh, total / np.maximum(weight, 1.0), values)
        inside_weight = np.where(fresh, 1.0, inside_weight)
    return values


def _around(values: Array) -> Array:
    """The sum of each pixel and its eight neighbours."""
    wide = _bordered(values)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def _bordered(values: Array) -> Array:
    wide = np.zeros((values.shape[0] + 2, values.shape[1] + 2))
    wide[1:-1, 1:-1] = values
    return wide


def _enlarged(values: Array) -> Array:
    """Catmull-Rom (Keys 1981, a = -1/2) by `_FINER` both ways; the weights are binary fractions, so the sums are exact."""
    return _along_rows(_along_rows(values).T).T


def _along_rows(values: Array) -> Array:
    total = np.zeros((values.shape[0] * _FINER, values.shape[1]))
    for rows, weight in _taps(values.shape[0]):
        total += weight * values[rows]
    return total


@lru_cache(maxsize=256)
def _taps(height: int) -> list[tuple[np.ndarray[Any, np.dtype[np.int64]], Array]]:
    """Rows and weights of the four terms of each enlarged row."""
    place = (np.arange(height * _FINER) + 0.5) / _FINER - 0.5
    base = np.floor(place)
    taps = []
    for step in (-1, 0, 1, 2):
        distance = np.abs(place - base - step)
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weight = np.where(distance <= 1, near, far)
        taps.append((np.clip(base + step, 0, height - 1).astype(np.int64), weight[:, None]))
    return taps


def _sampled(planes: tuple[Array, Array], down: Array, across: Array) -> list[Array]:
    """Bilinear samples of planes of one shape; nothing (0) outside."""
    height, width = planes[0].shape
    y = np.clip(down + 1, 0, height + 0.999)
    x = np.clip(across + 1, 0, width + 0.999)
    row, column = y.astype(np.int64), x.astype(np.int64)
    y, x = y - row, x - column
    upper = row * (width + 2) + column
    corners = (upper, upper + 1, upper + width + 2, upper + width + 3)
    over, beside = 1 - y, 1 - x
    weights = (over * beside, over * x, y * beside, y * x)
    sampled = []
    for plane in planes:
        flat = _bordered(plane).ravel()
        total = flat.take(corners[0]) * weights[0]
        for corner, weight in zip(corners[1:], weights[1:], strict=True):
            total += flat.take(corner) * weight
        sampled.append(total)
    return sampled


def _means(values: Array) -> Array:
    """The mean of each block of samples, added in a fixed order."""
    rows = values[0::_SAMPLES]
    for step in range(1, _SAMPLES):
        rows = rows + values[step::_SAMPLES]
    total = rows[:, 0::_SAMPLES]
    for step in range(1, _SAMPLES):
        total = total + rows[:, step::_SAMPLES]
    return total / _SAMPLES**2
