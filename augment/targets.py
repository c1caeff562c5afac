"""Boxes, masks and points through the same warp as their image.

Boxes are x1, y1, x2, y2 of pixel edges (COCO's and torchvision's: a box round pixel 0 is 0, 0, 1, 1); points are pixel centres,
as images are warped. A frame or a crop in the middle of a policy cuts boxes off too: what left it does not come back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from augment import frames
from augment.errors import PolicyError
from augment.program import Warp, WarpStep
from augment.warp import apply_warp

_SLACK = 1e-6


def warp_masks(masks: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Masks (n, M, H, W) of any dtype: the nearest pixel's value, 0 beyond the frame."""
    return apply_warp(masks, replace(warp, interpolation="nearest", antialias=False, fill=0.0))


def warp_points(points: np.ndarray, warp: Warp, sample: int) -> np.ndarray:
    """Points (k, 3) x, y, visibility; what leaves a frame or a crop gets visibility 0 and keeps its coordinates."""
    position, seen = points[:, :2].astype(float), points[:, 2].astype(float)
    size = warp.size_in
    for step in warp.steps:
        left, top, right, bottom = _cut(step, sample, size)
        inside = (position >= [left, top]) & (position <= [right, bottom])
        seen = np.where(inside.all(1), seen, 0.0)
        position = _mapped(step, sample, position)
        size = step.size
    inside = (position >= -0.5) & (position <= [size[1] - 0.5, size[0] - 0.5])
    return np.concatenate([position, np.where(inside.all(1), seen, 0.0)[:, None]], 1)


def warp_boxes(
    boxes: np.ndarray, warp: Warp, sample: int, min_visible: float = 0.5, min_side: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (k, 4) through a warp: boxes (m, 4), their places (m,) among those given, and what share of each is visible (m,).

    A box that turns becomes the upright hull of what is left of it. Dropped are those with less than `min_visible` of their
    area inside, or a side under `min_side` pixels after clipping (gen2det.md 5.3; their order: transform, clip, drop).
    """
    if any(step.roll is not None for step in warp.steps):
        raise PolicyError("a roll cuts boxes in two: leave roll out of a policy for boxes")
    upright = bool(frames.axis_aligned(frames.take(warp, np.array([sample])))[0])
    cut = _cut_upright(boxes, warp, sample) if upright else [_cut_polygon(box, warp, sample) for box in boxes]
    found, visible = (np.array([row[:4] for row in cut]).reshape(-1, 4), np.array([row[4] for row in cut]))
    big = (found[:, 2] - found[:, 0] >= min_side) & (found[:, 3] - found[:, 1] >= min_side)
    kept = np.flatnonzero((visible >= min_visible - _SLACK) & big)
    return found[kept], kept, visible[kept]


def _cut(step: WarpStep, sample: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what a step reads of its input, edges of pixels in coordinates of centres."""
    left, top, right, bottom = (-0.5, -0.5, size[1] - 0.5, size[0] - 0.5)
    if step.clamp is not None:
        box = step.clamp[sample]
        left, top = max(left, box[0] - 0.5), max(top, box[1] - 0.5)
        right, bottom = min(right, box[2] + 0.5), min(bottom, box[3] + 0.5)
    return left, top, right, bottom


def _mapped(step: WarpStep, sample: int, points: np.ndarray) -> np.ndarray:
    there = np.concatenate([points, np.ones((len(points), 1))], 1) @ step.matrix[sample].T
    moved = there[:, :2] / there[:, 2:]
    if step.roll is not None:
        moved = (moved + step.roll[sample][::-1]) % [step.size[1], step.size[0]]
    return moved


def _cut_upright(boxes: np.ndarray, warp: Warp, sample: int) -> np.ndarray:
    """(k, 5): boxes that stay upright, and what share of each is left."""
    corners = boxes.reshape(-1, 2, 2) - 0.5
    whole = corners
    size = warp.size_in
    for step in warp.steps:
        left, top, right, bottom = _cut(step, sample, size)
        corners = corners.clip([left, top], [right, bottom])
        corners, whole = (
            np.sort(_mapped(step, sample, ends.reshape(-1, 2)).reshape(-1, 2, 2), 1) for ends in (corners, whole)
        )
        size = step.size
    corners = corners.clip(-0.5, [size[1] - 0.5, size[0] - 0.5])
    share = np.diff(corners, axis=1).prod((1, 2)) / np.diff(whole, axis=1).prod((1, 2))
    return np.concatenate([(corners + 0.5).reshape(-1, 4), share[:, None]], 1)


def _cut_polygon(box: np.ndarray, warp: Warp, sample: int) -> np.ndarray:
    """(5,): the hull of what is left of a box that turns, and its share of the area."""
    x1, y1, x2, y2 = box - 0.5
    polygon = whole = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    size = warp.size_in
    for step in warp.steps:
        polygon = _clip(polygon, *_cut(step, sample, size))
        if not len(polygon):
            return np.zeros(5)
        polygon, whole = _mapped(step, sample, polygon), _mapped(step, sample, whole)
        size = step.size
    polygon = _clip(polygon, -0.5, -0.5, size[1] - 0.5, size[0] - 0.5)
    if not len(polygon):
        return np.zeros(5)
    return np.array([*(polygon.min(0) + 0.5), *(polygon.max(0) + 0.5), _area(polygon) / _area(whole)])


def _clip(polygon: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A convex polygon (k, 2) cut to a rectangle (Sutherland and Hodgman 1974)."""
    for axis, bound, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        depth = (polygon[:, axis] - bound) * sign
        if (depth >= 0).all():
            continue
        kept = []
        for place in range(len(polygon)):
            before = place - 1
            if (depth[place] >= 0) != (depth[before] >= 0):
                share = depth[before] / (depth[before] - depth[place])
                kept.append(polygon[before] + share * (polygon[place] - polygon[before]))
            if depth[place] >= 0:
                kept.append(polygon[place])
        polygon = np.array(kept).reshape(-1, 2)
        if not len(polygon):
            break
    return polygon


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
