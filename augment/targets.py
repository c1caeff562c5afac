"""Masks, points and boxes through the same geometry as the pixels, frame by frame: what a crop cut off stays cut off.

Boxes are in pixel edges, as COCO has them (the left edge of the first pixel is 0), points and matrices in pixel centres (its
middle is 0): half a pixel apart. All boxes or points of a batch go at once, each by the matrices of its own image. Numpy but
for the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from augment.errors import PolicyError
from augment.homography import axis_aligned, frame_sizes, take
from augment.outlines import Outlines
from augment.program import Blend, Filter, Segment, Warp, WarpStep
from augment.warp import apply_warp

_SLACK = 1e-6  # what half of a box may lack through rounding

Size = tuple[int, int]
Boxes = Sequence[np.ndarray]
Visible = tuple[np.ndarray, np.ndarray, np.ndarray]


class Cover(NamedTuple):
    """A rectangle painted over each image before step `place`, for the samples that are `on` (n,) bool.

    `edges` (n, 4) float64 are x1, y1, x2, y2 in pixel edges.
    """

    place: int
    on: np.ndarray
    edges: np.ndarray


class Course(NamedTuple):
    """What a program does to targets: all its geometry as one warp, whatever colours and filters are in between, and what covers them."""

    warp: Warp
    covers: tuple[Cover, ...] = ()


def course_of(segments: Sequence[Segment], size: Size, count: int) -> Course:
    """Reduce a program on `count` images of `size` to what it does to targets.

    What is erased in a chain of augmix shows through, and covers nothing.
    """
    steps: list[WarpStep] = []
    covers = []
    on = np.zeros(count, bool)
    for segment in segments:
        assert not (isinstance(segment, Blend) and any(isinstance(inner, Warp) for inner in sum(segment.chains, ())))
        if isinstance(segment, Warp):
            steps.extend(segment.steps)
            on = on | segment.on
        elif isinstance(segment, Filter) and segment.name == "erase":
            left, top, width, height = (segment.values[side] for side in ("left", "top", "width", "height"))
            edges = np.stack([left, top, left + width, top + height], 1).astype(float)
            covers.append(Cover(len(steps), segment.on, edges))
    return Course(Warp(size, tuple(steps), on), tuple(covers))


def move_boxes(
    boxes: Boxes, course: Course, size: Size, count: int, min_visible: float, min_side: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Move boxes (k, 4) of `count` images of `size`; returns per image those that are left, and their places among its boxes.

    Edges are pixels, results float64 and int64. `PolicyError` where a box does not lie in its image.
    """
    flat, owner, starts = _flat("boxes", [np.asarray(each, np.float64).reshape(-1, 4) for each in boxes], count)
    check_boxes(flat, size, owner, starts)
    visible_boxes, index, _ = warp_boxes(flat, course.warp, owner, min_visible, min_side, course.covers)
    places = index - starts[owner[index]]
    ends = np.searchsorted(owner[index], np.arange(count + 1)).tolist()
    parts = list(pairwise(ends))
    return [visible_boxes[start:end] for start, end in parts], [places[start:end] for start, end in parts]


def move_masks(masks: torch.Tensor, course: Course, size: Size, count: int) -> torch.Tensor:
    """Move masks (n, M, H, W) of any dtype to (n, M, h, w). `PolicyError` where they are of another size than the images."""
    if masks.ndim != 4 or (len(masks), *masks.shape[2:]) != (count, *size):
        raise PolicyError(f"masks take ({count}, M, {size[0]}, {size[1]}), got {tuple(masks.shape)}")
    return warp_masks(masks, course.warp, course.covers)


def move_points(keypoints: Sequence[np.ndarray], course: Course, count: int) -> list[np.ndarray]:
    """Move points, (k, 2) or (k, 3) per image, to (k, 3) float64 per image: x, y and visibility, which begins as 1 for pairs."""
    each = []
    for sample, own in enumerate(keypoints):
        points = np.asarray(own, np.float64)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise PolicyError(f"keypoints of image {sample} take (k, 2) or (k, 3), got {points.shape}")
        each.append(points if points.shape[1] == 3 else np.pad(points, ((0, 0), (0, 1)), constant_values=1.0))
    points, owner, starts = _flat("keypoints", each, count)
    moved = warp_points(points, course.warp, owner, course.covers)
    return [moved[start:end] for start, end in pairwise(starts.tolist())]


def _flat(name: str, each: Sequence[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the rows of a batch: all rows, the image of each, and (n + 1,) where each image's begin."""
    if len(each) != count:
        raise PolicyError(f"{name} take one array for each image: {count} images, {len(each)} arrays")
    sizes = [len(one) for one in each]
    return np.concatenate(each), np.repeat(np.arange(count), sizes), np.concatenate([[0], np.cumsum(sizes)])


def check_boxes(boxes: np.ndarray, size: Size, owner: np.ndarray, starts: np.ndarray) -> None:
    """Refuse boxes (k, 4) that are inside out, not finite, or not in an image of `size`, by up to half a pixel."""
    high = np.array([size[1], size[0], size[1], size[0]]) + 0.5
    with np.errstate(invalid="ignore"):
        good = ((boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes >= -0.5).all(1)) & (boxes <= high).all(1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        sample = int(owner[first])
        raise PolicyError(
            f"box {first - starts[sample]} of image {sample}, {boxes[first].tolist()}, is not x1 < x2, y1 < y2 inside "
            f"{size[1]} x {size[0]} pixels"
        )


def warp_masks(masks: torch.Tensor, warp: Warp, covers: Sequence[Cover] = ()) -> torch.Tensor:
    """Warp (n, C, H, W) of any dtype to (n, C, h, w): the nearest pixel's label, 0 beyond the frame and where it is covered."""
    nearest = replace(warp, interpolation="nearest", fill=0.0)
    warped = apply_warp(masks, nearest)
    for cover in covers:
        rows = np.flatnonzero(cover.on)
        if len(rows):
            height, width = frame_sizes(warp)[cover.place]
            seen = torch.ones(len(rows), 1, height, width, dtype=torch.bool, device=masks.device)
            for plane, (left, top, right, bottom) in zip(seen, cover.edges[rows].astype(int).tolist(), strict=True):
                plane[:, top:bottom, left:right] = False
            seen = apply_warp(seen, take(nearest, rows, slice(cover.place, None)))
            index = torch.from_numpy(rows).to(masks.device)
            warped = warped.index_copy(0, index, warped[index].masked_fill(~seen, 0))
    return warped


def warp_points(points: np.ndarray, warp: Warp, sample: int | np.ndarray, covers: Sequence[Cover] = ()) -> np.ndarray:
    """Warp points (k, 2) x, y or (k, 3) x, y, visibility, to the same in float64.

    Coordinates are pixels, an integer being a pixel's centre; `sample` is the image of all points, or (k,) of each. The
    visibility of a point that is covered, or outside a frame or a crop on the way, becomes 0. A point that a roll carries over
    the border comes in on the other side. Without visibility points are mapped all the same, in or out.
    """
    warped = np.array(points, np.float64)
    owner = np.broadcast_to(sample, len(warped))
    at, inside = warped[:, :2], np.ones(len(warped), bool)
    for place, (step, frame) in enumerate(zip(warp.steps, frame_sizes(warp), strict=False)):
        inside &= ~_covered(at, covers, place, owner)
        acts = step.acts()[owner]
        inside &= _within(at, *_window(step, frame, owner)) | ~acts
        at = np.where(acts[:, None], _mapped(at, step.matrix[owner]), at)
        if step.roll is not None:
            side = np.array(frame[::-1])
            rolled = (at + step.roll[owner, ::-1] + 0.5) % side - 0.5
            at = np.where(acts[:, None], rolled, at)
    inside &= _within(at, *_frame(warp.size)) & ~_covered(at, covers, len(warp.steps), owner)
    warped[:, :2] = at
    if warped.shape[1] == 3:
        warped[:, 2] = np.where(inside, warped[:, 2], 0)
    return warped


def warp_boxes(
    boxes: np.ndarray,
    warp: Warp,
    sample: int | np.ndarray,
    min_visible: float = 0.5,
    min_side: float = 1.0,
    covers: Sequence[Cover] = (),
) -> Visible:
    """Warp boxes (k, 4), x1, y1, x2, y2 in pixel edges; returns those that are left, their places and their visible fractions.

    That is boxes (m, 4) float64, index (m,) int64 into `boxes`, and visible (m,) float64; `sample` is the image of all boxes,
    or (k,) of each. A box is moved (the hull of its four corners), clipped to the frame, and dropped where less than
    `min_visible` of it is visible or a side is under `min_side` pixels (docs/specs/augment.md, "Boxes"). Visible is the area of
    the clipped box over that of the hull, less the share of the box that was covered. These rules hold where nothing moves,
    too. A frame or crop on the way cuts as well: what it cut off does not come back when a later step shrinks. Areas are the
    caller's to recompute from the boxes. Raises `PolicyError` where a roll would cut boxes in two.
    """
    if any(step.roll is not None for step in warp.steps):
        raise PolicyError("a roll cuts boxes in two: leave roll out of a policy for boxes")
    edges = np.asarray(boxes, np.float64).reshape(-1, 4)
    owner = np.broadcast_to(sample, len(edges))
    clipped, visible = _clipped(edges, warp, owner, covers)
    sides = clipped[:, 2:] - clipped[:, :2]
    remaining = np.flatnonzero((visible >= min_visible - _SLACK) & (sides >= min_side).all(1) & (sides > 0).all(1))
    return clipped[remaining], remaining, visible[remaining]


def _clipped(
    edges: np.ndarray, warp: Warp, owner: np.ndarray, covers: Sequence[Cover]
) -> tuple[np.ndarray, np.ndarray]:
    """Move and clip boxes `edges` (k, 4); returns (k, 4) in edges too, and their visible fractions (k,).

    Once all that follows is axis-aligned, a window is a rectangle of the output and cuts the hull; before that it cuts the
    box's own outline, which is only carried along where a window did cut it.
    """
    count = len(edges)
    boxes = edges - 0.5  # from here on in pixel centres, as matrices are
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    low, high = np.full((count, 2), -np.inf), np.full((count, 2), np.inf)
    outlines, hidden = Outlines(), np.zeros(count)
    tails = _straight_tails(warp)
    moved = np.zeros(count, bool)
    for place, (step, frame) in enumerate(zip(warp.steps, frame_sizes(warp), strict=False)):
        hidden += _hidden(corners, frame, covers, place, owner)
        acts, tail = step.acts()[owner], tails[place][owner]
        if not acts.any():
            continue
        start, end = _window(step, frame, owner)
        straight, cut = (acts & tail)[:, None], acts & ~tail
        low, high = np.where(straight, np.maximum(low, start), low), np.where(straight, np.minimum(high, end), high)
        if cut.any():
            outside = ~_within(corners, start[:, None], end[:, None]).all(1)
            outlines.cut(corners, np.flatnonzero(cut & outside), np.flatnonzero(cut), start, end)
        matrix = step.matrix[owner]
        corners = np.where(acts[:, None, None], _mapped(corners, matrix), corners)
        outlines.points = np.where(
            acts[outlines.owner][:, None, None], _mapped(outlines.points, matrix[outlines.owner]), outlines.points
        )
        with np.errstate(invalid="ignore"):
            ends = np.stack([_mapped(low, matrix), _mapped(high, matrix)])
        low, high = np.where(straight, ends.min(0), low), np.where(straight, ends.max(0), high)
        moved |= acts
    hidden += _hidden(corners, warp.size, covers, len(warp.steps), owner)
    hull_low, hull_high = corners.min(1), corners.max(1)
    clipped_low, clipped_high = hull_low.copy(), hull_high.copy()
    clipped_low[outlines.owner], clipped_high[outlines.owner] = outlines.hulls()
    start, end = _frame(warp.size)
    low, high = np.maximum(low, start), np.minimum(high, end)
    clipped_low, clipped_high = np.clip(clipped_low, low, high), np.clip(clipped_high, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        visible = (clipped_high - clipped_low).clip(0).prod(1) / (hull_high - hull_low).prod(1)
    visible = np.nan_to_num(visible, nan=0.0) * (1 - hidden.clip(0, 1))
    clipped = np.concatenate([clipped_low, clipped_high], 1) + 0.5
    unmoved = np.clip(edges, 0, np.tile(warp.size[::-1], 2))
    return np.where(moved[:, None], clipped, unmoved), visible


def _straight_tails(warp: Warp) -> list[np.ndarray]:
    """List for each step (n,) bool whether it and all that follow are axis-aligned."""
    tails: list[np.ndarray] = []
    tail = np.ones(len(warp.on), bool)
    for step in reversed(warp.steps):
        tail = tail & axis_aligned([step])
        tails.append(tail)
    return tails[::-1]


def _frame(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Edges of a frame in pixel centres: x, y of its beginning and its end."""
    return np.array([-0.5, -0.5]), np.array([size[1] - 0.5, size[0] - 0.5])


def _window(step: WarpStep, size: Size, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (k, 2) of what a step reads: its frame, or the part of it that is cut out."""
    start, end = _frame(size)
    if step.clamp is None:
        return np.broadcast_to(start, (len(owner), 2)), np.broadcast_to(end, (len(owner), 2))
    clamp = step.clamp[owner]
    return np.maximum(start, clamp[:, :2] - 0.5), np.minimum(end, clamp[:, 2:] + 0.5)


def _within(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(...) bool: points (..., 2) that lie in their rectangles, borders included."""
    return np.all((points >= start) & (points <= end), axis=-1)


def _covered(points: np.ndarray, covers: Sequence[Cover], place: int, owner: np.ndarray) -> np.ndarray:
    """(k,) bool: points (k, 2) that a rectangle covers before a step."""
    covered = np.zeros(len(points), bool)
    for cover in covers:
        if cover.place == place:
            edges = cover.edges[owner] - 0.5
            covered |= cover.on[owner] & ((points >= edges[:, :2]) & (points < edges[:, 2:])).all(1)
    return covered


def _hidden(corners: np.ndarray, frame: Size, covers: Sequence[Cover], place: int, owner: np.ndarray) -> np.ndarray:
    """(k,) share of each box, as it lies in its frame before a step, that rectangles cover."""
    hidden = np.zeros(len(corners))
    for cover in covers:
        if cover.place == place and cover.on.any():
            start, end = _frame(frame)
            low, high = np.clip(corners.min(1), start, end), np.clip(corners.max(1), start, end)
            edges = cover.edges[owner] - 0.5
            shared = np.minimum(high, edges[:, 2:]) - np.maximum(low, edges[:, :2])
            with np.errstate(divide="ignore", invalid="ignore"):
                share = shared.clip(0).prod(1) / (high - low).prod(1)
            hidden += np.where(cover.on[owner], np.nan_to_num(share, nan=0.0, posinf=0.0), 0.0)
    return hidden


def _mapped(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map points (k, ..., 2) by (k, 3, 3); not a number where they lie behind the viewer. Sums leave out what is times zero."""
    m = matrix.reshape(len(matrix), 9, *(1,) * (points.ndim - 2))
    x, y = points[..., 0], points[..., 1]

    def row(first: int) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            terms = (
                np.where(m[:, first + place] == 0, 0.0, m[:, first + place] * axis) for place, axis in enumerate((x, y))
            )
            return sum(terms) + m[:, first + 2]

    moved = np.stack([row(0), row(3)], -1)
    if (matrix[:, 2] == [0, 0, 1]).all():
        return moved
    depth = row(6)
    return moved / np.where(depth > 1e-9, depth, np.nan)[..., None]
