"""The arithmetic of a warp on the host: per sample, what kind of resampling it needs and the few numbers that say where to.

Plain numpy, no pixels. Everything is decided sample by sample, so that a sample's neighbours in a batch change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from augment.program import Warp, WarpStep

_SLACK = 1e-7  # pixels: what float64 arithmetic may be off by without a border being crossed

Size = tuple[int, int]


class Fade(NamedTuple):
    """Coverage of one frame along one axis: position clip(scale * i + shift, low, high), triangle of half width `width`."""

    scale: np.ndarray
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray
    width: np.ndarray
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One axis of axis-aligned warps: output index i reads source position clip(scale * i + shift, low, high).

    Arrays are (n,) float64. `first` and `last` (n,) are the outermost source pixels that may be read, `width` the half width
    of the triangle. `fades` are the frames on the way, `edge` the source's own frame; both only where they bite, `edge` None
    when it does not. `roll` (n,) moves the output in a circle.
    """

    scale: np.ndarray
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray
    first: np.ndarray
    last: np.ndarray
    width: np.ndarray
    fades: tuple[Fade, ...]
    edge: Fade | None
    roll: np.ndarray | None
    size_in: int
    size: int

    @property
    def integral(self) -> np.ndarray:
        """(n,) bool: whole pixels are copied."""
        whole = (np.abs(self.scale) == 1) & (self.shift == np.rint(self.shift))
        for bound in (self.low, self.high):
            whole &= np.isinf(bound) | (bound == np.rint(bound))
        return whole


class Stage(NamedTuple):
    """One frame that a homography must respect: map into it, fade where it ends, clip to it.

    Coordinates are -1..1 over the pixel areas of a frame. `matrix` (n, 3, 3), `low` and `high` (n, 2) x and y;
    coverage is clip((1 - |coordinate|) * slope + offset, 0, 1), `slope` and `offset` (n, 2).
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


def line(warp: Warp, axis: int) -> Line:
    """Axis 0 is y, 1 is x. All steps must be axis-aligned, and only the last may roll."""
    place, count = 1 - axis, len(warp.on)
    frames = [size[axis] for size in sizes(warp)]
    scale, shift = np.ones(count), np.zeros(count)
    low, high = np.full(count, -np.inf), np.full(count, np.inf)
    first, last = low.copy(), high.copy()
    fades: list[Fade] = []
    edge = None
    for index in range(len(warp.steps) - 1, -1, -1):
        step, size = warp.steps[index], frames[index]
        back = step.matrix[:, 2, 2] / step.matrix[:, place, place]
        move = -step.matrix[:, place, 2] / step.matrix[:, place, place]
        scale, shift = back * scale, back * shift + move
        low, high = _ordered(back * low + move, back * high + move)
        first, last = _ordered(back * first + move, back * last + move)
        start, end = np.full(count, -np.inf), np.full(count, np.inf)
        if step.clamp is not None:
            start, end = step.clamp[:, place], step.clamp[:, place + 2]
        boxed = np.isfinite(start)
        low, high = np.clip(low, start, end), np.clip(high, start, end)
        # half a pixel outside the outermost centres: a pixel is read when its centre lies within
        first = np.maximum(first, np.where(boxed, np.maximum(start, 0), 0) - 0.5)
        last = np.minimum(last, np.where(boxed, np.minimum(end, size - 1), size - 1) + 0.5)
        spread = np.maximum(np.abs(scale), 1.0) if warp.antialias else np.ones(count)
        fade = _fade(scale, shift, low, high, np.where(boxed, 1.0, spread), size, frames[-1])
        if index == 0:
            edge = fade
        else:
            if fade is not None:
                fades.append(fade)
            low, high = np.clip(low, 0, size - 1), np.clip(high, 0, size - 1)
    roll = warp.steps[-1].roll
    return Line(
        scale, shift, low, high, np.ceil(first - _SLACK), np.floor(last + _SLACK), spread, tuple(fades), edge,
        None if roll is None else roll[:, axis], frames[0], frames[-1],
    )  # fmt: skip


def _ordered(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(one, other), np.maximum(one, other)


def _fade(
    scale: np.ndarray, shift: np.ndarray, low: np.ndarray, high: np.ndarray, width: np.ndarray, size: int, out: int
) -> Fade | None:
    """The coverage of a frame of `size` by output indices 0..out - 1; full where no sample's neighbourhood sticks out."""
    lowest, highest = _ordered(np.clip(shift, low, high), np.clip(scale * (out - 1) + shift, low, high))
    bites = (lowest < width - 1 - _SLACK) | (highest > size - width + _SLACK)
    if not bites.any():
        return None
    middle = (size - 1) / 2
    return Fade(
        np.where(bites, scale, 0.0), np.where(bites, shift, middle), np.where(bites, low, -np.inf),
        np.where(bites, high, np.inf), np.where(bites, width, 1.0), size,
    )  # fmt: skip


def stages(warp: Warp) -> tuple[list[Stage], np.ndarray]:
    """Frames to respect from the output backwards, and the matrices (n, 3, 3) from the last of them to the source.

    All coordinates are -1..1 over pixel areas. The source's own frame is not a stage unless a box is cut from it: sampling
    fades there by itself. Where a frame cannot bite for a sample, its stage is the identity.
    """
    frames = sizes(warp)
    count = len(warp.on)
    pending = np.tile(_from_unit(frames[-1]), (count, 1, 1))  # from the coordinates in hand to pixels of the current frame
    reach = np.tile([-1.0, -1.0, 1.0, 1.0], (count, 1)) * (1 - 1 / np.tile(frames[-1][::-1], 2))
    found: list[Stage] = []
    for index in range(len(warp.steps) - 1, -1, -1):
        step, (height, width) = warp.steps[index], frames[index]
        pending = _inverse(step.matrix) @ pending
        start, end = np.full((count, 2), -np.inf), np.full((count, 2), np.inf)
        if step.clamp is not None:
            start, end = step.clamp[:, :2], step.clamp[:, 2:]
        boxed = np.isfinite(start).all(1)
        if index == 0 and not boxed.any():
            break
        top = np.array([width - 1.0, height - 1.0])
        start, end = np.maximum(start, 0), np.minimum(end, top)
        lowest, highest = _hull(pending, reach)
        bites = ((lowest < start - _SLACK) | (highest > end + _SLACK)).any(1)
        if index == 0:
            bites &= boxed
        if not bites.any():
            continue
        to_unit, from_unit = _to_unit((height, width)), _from_unit((height, width))
        side = np.array([width, height])
        low, high = ((2 * bound + 1) / side - 1 for bound in (start, end))
        fading = (bites & ~boxed)[:, None]
        found.append(
            Stage(
                np.where(bites[:, None, None], to_unit @ pending, np.eye(3)),
                np.where(bites[:, None], low, -np.inf),
                np.where(bites[:, None], high, np.inf),
                np.where(fading, side / 2, 0.0),
                np.where(fading, 0.5, np.ones(2)),
            )
        )
        reach = np.where(bites[:, None], np.concatenate([low, high], 1), reach)
        pending = np.where(bites[:, None, None], from_unit, pending)
    return found, _to_unit(frames[0]) @ pending


def _to_unit(size: Size) -> np.ndarray:
    height, width = size
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])


def _from_unit(size: Size) -> np.ndarray:
    height, width = size
    return np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """A true inverse: its last row gives a positive depth where a point can be seen. Affine rows stay exactly 0 0 1."""
    found = np.linalg.inv(matrix)
    affine = (matrix[:, 2] == [0, 0, 1]).all(1)
    found[affine, 2] = [0, 0, 1]
    return found


def _hull(matrix: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x and y (n, 2) of a rectangle's image; infinite when part of it lies behind the viewer."""
    corners = reach[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    points = corners @ matrix[:, :, :2].transpose(0, 2, 1) + matrix[:, None, :, 2]
    behind = (points[..., 2] <= 0).any(1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        flat = points[..., :2] / points[..., 2:]
    return np.where(behind, -np.inf, flat.min(1)), np.where(behind, np.inf, flat.max(1))
