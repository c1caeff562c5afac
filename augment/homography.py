"""The arithmetic of homographies on the host: the frames on the way from an output pixel back to the source.

Plain numpy, no pixels. Everything is decided sample by sample, so that a sample's neighbours in a batch change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from augment.program import Warp, WarpStep

SLACK = 1e-7  # pixels: what float64 arithmetic may be off by without a border being crossed

Size = tuple[int, int]


class Stage(NamedTuple):
    """One frame that a homography must respect: map into it, fade where it ends, clip to it.

    Coordinates are -1..1 over the pixel areas of a frame. `matrix` (n, 3, 3), `low` and `high` (n, 2) x and y;
    coverage is clip(offset - slope |coordinate|, 0, 1), `slope` and `offset` (n, 2).
    """

    matrix: np.ndarray
    low: np.ndarray
    high: np.ndarray
    slope: np.ndarray
    offset: np.ndarray


def take(warp: Warp, where: np.ndarray, steps: slice = slice(None)) -> Warp:
    """Some samples and some of the steps of a warp; all are on."""
    chosen = tuple(
        WarpStep(
            step.matrix[where],
            step.size,
            None if step.clamp is None else step.clamp[where],
            None if step.roll is None else step.roll[where],
            None if step.on is None else step.on[where],
        )
        for step in warp.steps[steps]
    )
    start = sizes(warp)[steps.start or 0]
    return Warp(start, chosen, np.ones(len(where), bool), warp.interpolation, warp.antialias, warp.fill)


def sizes(warp: Warp) -> list[Size]:
    """The size of every frame, the source first."""
    return [warp.size_in, *(step.size for step in warp.steps)]


def axis_aligned(steps: Sequence[WarpStep]) -> np.ndarray:
    """(n,) bool: every step keeps rows rows and columns columns."""
    found = np.ones(len(steps[0].matrix), bool)
    for step in steps:
        off = step.matrix[:, [0, 1, 2, 2], [1, 0, 0, 1]]
        found &= (off == 0).all(1)
    return found


def ordered(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the higher of two arrays, element by element."""
    return np.minimum(one, other), np.maximum(one, other)


def stages(warp: Warp) -> tuple[list[Stage], np.ndarray]:
    """Frames to respect from the output backwards, and the matrices (n, 3, 3) from the last of them to the source.

    All coordinates are -1..1 over pixel areas. The source's own frame is not a stage unless a box is cut from it: sampling
    fades there by itself. Where a frame cannot bite for a sample, its stage is the identity. A box behind axis-aligned maps
    is a box in the coordinates of the stage before it, and joins its bounds.
    """
    frames = sizes(warp)
    count, begins = len(warp.on), warp.first()
    # from the coordinates in hand to pixels of the current frame, and the rectangle of them that is read
    pending = np.tile(_from_unit(frames[-1]), (count, 1, 1))
    reach = np.tile([-1.0, -1.0, 1.0, 1.0], (count, 1)) * (1 - 1 / np.tile(frames[-1][::-1], 2))
    owner = np.full(count, -1)  # the stage behind which a sample has met axis-aligned maps only; -1 for none
    found: list[Stage] = []
    for index in range(len(warp.steps) - 1, -1, -1):
        step, (height, width) = warp.steps[index], frames[index]
        pending = inverse(step.matrix) @ pending
        owner[~axis_aligned([step])] = -1
        boxed = np.zeros(count, bool) if step.clamp is None else np.isfinite(step.clamp).all(1)
        if index == 0 and not boxed.any():
            break
        start, end = np.zeros((count, 2)), np.tile([width - 1.0, height - 1.0], (count, 1))
        if step.clamp is not None:
            start, end = np.maximum(start, step.clamp[:, :2]), np.minimum(end, step.clamp[:, 2:])
        lowest, highest = hull(pending, reach)
        bites = ((lowest < start - SLACK) | (highest > end + SLACK)).any(1) & step.acts()
        bites &= boxed | (index > begins)
        join = bites & boxed & (owner >= 0)
        for place in np.unique(owner[join]):
            where = join & (owner == place)
            _join(found[place], where, pending, start, end)
            reach[where] = np.concatenate([found[place].low[where], found[place].high[where]], 1)
        bites &= ~join
        if not bites.any():
            continue
        side = np.array([width, height])
        low, high = ((2 * bound + 1) / side - 1 for bound in (start, end))
        here, fading = bites[:, None], (bites & ~boxed)[:, None]
        found.append(
            Stage(
                np.where(here[..., None], _to_unit((height, width)) @ pending, np.eye(3)),
                np.where(here, low, -np.inf),
                np.where(here, high, np.inf),
                np.where(fading, side / 2, 0.0),
                np.where(fading, side / 2 + 0.5, np.ones(2)),
            )
        )
        reach = np.where(here, np.concatenate([low, high], 1), reach)
        pending = np.where(here[..., None], _from_unit((height, width)), pending)
        owner[bites] = len(found) - 1
    return found, _to_unit(frames[0]) @ pending


def _join(stage: Stage, where: np.ndarray, pending: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """Add bounds in pixels, seen through the axis-aligned `pending`, to those of a stage."""
    scale, shift = np.diagonal(pending, axis1=1, axis2=2)[:, :2], pending[:, :2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = ordered((start - shift) / scale, (end - shift) / scale)
    for bound in (stage.low, stage.high):
        bound[where] = np.clip(bound, low, high)[where]


def _to_unit(size: Size) -> np.ndarray:
    height, width = size
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])


def _from_unit(size: Size) -> np.ndarray:
    height, width = size
    return np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """A true inverse: its last row gives a positive depth where a point can be seen. Affine rows stay exactly 0 0 1."""
    found = np.linalg.inv(matrix)
    affine = (matrix[:, 2] == [0, 0, 1]).all(1)
    found[affine, 2] = [0, 0, 1]
    return found


def hull(matrix: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x and y (n, 2) of a rectangle's image; infinite when part of it lies behind the viewer."""
    corners = reach[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    points = corners @ matrix[:, :, :2].transpose(0, 2, 1) + matrix[:, None, :, 2]
    behind = (points[..., 2] <= 0).any(1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        flat = points[..., :2] / points[..., 2:]
    return np.where(behind, -np.inf, flat.min(1)), np.where(behind, np.inf, flat.max(1))
