"""Masks, points and boxes through the same warp as the pixels, frame by frame: what a crop cut off stays cut off.

Boxes are in pixel edges, as COCO has them (the left edge of the first pixel is 0), points and matrices in pixel centres (its
middle is 0): half a pixel apart. Numpy but for the masks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from augment.errors import PolicyError
from augment.homography import sizes
from augment.program import Warp, WarpStep
from augment.warp import apply_warp

_SLACK = 1e-6  # what half of a box may lack through rounding

Visible = tuple[np.ndarray, np.ndarray, np.ndarray]


def warp_masks(masks: torch.Tensor, warp: Warp) -> torch.Tensor:
    """(n, C, H, W) of any dtype to (n, C, h, w): the nearest pixel's label, 0 beyond the frame."""
    return apply_warp(masks, replace(warp, interpolation="nearest", fill=0.0))


def warp_points(points: np.ndarray, warp: Warp, sample: int) -> np.ndarray:
    """Points (k, 2) x, y or (k, 3) x, y, visibility, in pixels, an integer being a pixel's centre; of one sample, float64.

    The visibility of a point that leaves a frame or a crop on the way becomes 0. A point that a roll carries over the border
    comes in on the other side. Without visibility points are mapped all the same, in or out.
    """
    found = np.array(points, np.float64)
    if not warp.on[sample] or not len(found):
        return found
    at, inside = found[:, :2], np.ones(len(found), bool)
    for step, frame in zip(warp.steps, sizes(warp), strict=False):
        inside &= _within(at, *_window(step, frame, sample))
        at = _mapped(at, step, sample)
        if step.roll is not None:
            side = np.array(frame[::-1])
            at = (at + step.roll[sample, ::-1] + 0.5) % side - 0.5
    inside &= _within(at, *_frame(warp.size))
    found[:, :2] = at
    if found.shape[1] == 3:
        found[:, 2] = np.where(inside, found[:, 2], 0)
    return found


def warp_boxes(boxes: np.ndarray, warp: Warp, sample: int, min_visible: float = 0.5, min_side: float = 1.0) -> Visible:
    """Boxes (k, 4) x1, y1, x2, y2 in pixel edges of one sample, to those that are left, their places and visible fractions.

    Returns boxes (m, 4) float64, index (m,) int64 into the boxes given, visible (m,). In the order of Gen2Det's box rules:
    transform (hull of the four corners under the composed matrix), clip to the frame, drop what is visible by less than
    `min_visible` or has a side under `min_side` pixels. Visible is the area of the clipped box over that of the hull.
    A frame or crop on the way cuts, too: what it cut off does not come back when a later step shrinks. Areas are the caller's
    to recompute from the boxes. Raises `PolicyError` where a roll would cut boxes in two.
    """
    if any(step.roll is not None for step in warp.steps):
        raise PolicyError("a roll cuts boxes in two: leave roll out of a policy for boxes")
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    clipped, visible = given.copy(), np.ones(len(given))
    if warp.on[sample] and len(given):
        clipped, visible = _clipped(given - 0.5, warp, sample)
    sides = clipped[:, 2:] - clipped[:, :2]
    kept = np.flatnonzero((visible >= min_visible - _SLACK) & (sides >= min_side).all(1) & (sides > 0).all(1))
    return clipped[kept], kept, visible[kept]


def _clipped(boxes: np.ndarray, warp: Warp, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """(k, 4) boxes in pixel centres to clipped boxes in edges and their visible fractions.

    Once all that follows is axis-aligned, a window is a rectangle of the output and cuts the hull; before that it cuts the
    box's own outline, which is only carried along where a window did cut it.
    """
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    low, high = np.full((len(boxes), 2), -np.inf), np.full((len(boxes), 2), np.inf)
    outlines: dict[int, np.ndarray] = {}
    straight = [_straight(step, sample) for step in warp.steps]
    for place, (step, frame) in enumerate(zip(warp.steps, sizes(warp), strict=False)):
        start, end = _window(step, frame, sample)
        if all(straight[place:]):
            low, high = np.maximum(low, start), np.minimum(high, end)
        else:
            _cut(corners, outlines, start, end)
        corners = _mapped(corners, step, sample)
        outlines = {box: _mapped(outline, step, sample) for box, outline in outlines.items()}
        if all(straight[place:]):
            low, high = _mapped(low, step, sample), _mapped(high, step, sample)
            low, high = np.minimum(low, high), np.maximum(low, high)
    hull_low, hull_high = corners.min(1), corners.max(1)
    found_low, found_high = hull_low.copy(), hull_high.copy()
    for box, outline in outlines.items():
        found_low[box], found_high[box] = (outline.min(0), outline.max(0)) if len(outline) else (np.inf, np.inf)
    start, end = _frame(warp.size)
    low, high = np.maximum(low, start), np.minimum(high, end)
    found_low, found_high = np.clip(found_low, low, high), np.clip(found_high, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        visible = (found_high - found_low).clip(0).prod(1) / (hull_high - hull_low).prod(1)
    return np.concatenate([found_low, found_high], 1) + 0.5, np.nan_to_num(visible, nan=0.0)


def _frame(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Edges of a frame in pixel centres: x, y of its beginning and its end."""
    return np.array([-0.5, -0.5]), np.array([size[1] - 0.5, size[0] - 0.5])


def _window(step: WarpStep, size: tuple[int, int], sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of what a step reads: its frame, or the part of it that is cut out."""
    start, end = _frame(size)
    if step.clamp is None:
        return start, end
    return np.maximum(start, step.clamp[sample, :2] - 0.5), np.minimum(end, step.clamp[sample, 2:] + 0.5)


def _within(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return np.all((points >= start) & (points <= end), axis=-1)


def _straight(step: WarpStep, sample: int) -> bool:
    return not step.matrix[sample][[0, 1, 2, 2], [1, 0, 0, 1]].any()


def _mapped(points: np.ndarray, step: WarpStep, sample: int) -> np.ndarray:
    """Points (..., 2) after a step; not a number where they lie behind the viewer."""
    matrix = step.matrix[sample]
    if _straight(step, sample):  # no product of infinity and zero
        return (points * np.diag(matrix)[:2] + matrix[:2, 2]) / matrix[2, 2]
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    depth = moved[..., 2:]
    return moved[..., :2] / np.where(depth > 1e-9, depth, np.nan)


def _cut(corners: np.ndarray, outlines: dict[int, np.ndarray], start: np.ndarray, end: np.ndarray) -> None:
    """Clip the outlines that stick out of a window; the others are the boxes' corners still."""
    for box in np.flatnonzero(~_within(corners, start, end).all(1) | np.isin(np.arange(len(corners)), list(outlines))):
        outline = outlines.get(int(box), corners[box])
        for axis in (0, 1):
            for sign, bound in ((1, start[axis]), (-1, end[axis])):
                outline = _half(outline, sign * (outline[:, axis] - bound))
        outlines[int(box)] = outline


def _half(outline: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The part of a convex outline (m, 2) where `depth` (m,) is not negative (Sutherland and Hodgman 1974)."""
    found = []
    for here in range(len(outline)):
        after = (here + 1) % len(outline)
        if depth[here] >= 0:
            found.append(outline[here])
        if (depth[here] >= 0) != (depth[after] >= 0):
            share = depth[here] / (depth[here] - depth[after])
            found.append(outline[here] + share * (outline[after] - outline[here]))
    return np.array(found).reshape(-1, 2)
