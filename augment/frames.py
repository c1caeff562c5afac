"""The coordinates of a warp: where a pixel of the output comes from, what it is cut to, and what lies beyond a frame.

Steps are composed in float64 on the host, and only what must be known apart stays apart: a step that cuts a box out of its
input starts a new stage, and a step that can look beyond its input's frame keeps the share of its pixels that lie inside.
Everything here is decided sample by sample, so that a sample's result does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from augment.program import Warp, WarpStep

Size = tuple[int, int]
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """A frame inside a stage that some samples look beyond: `inverse` (n, 3, 3) leads from the stage's output to it."""

    inverse: np.ndarray
    size: Size
    matters: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Steps that compose: `inverse` (n, 3, 3) from output to input pixel, the box that is read, and the frames between.

    `clamp` (n, 4), or None where pixels beyond the input's frame of `size_in` are fill.
    """

    inverse: np.ndarray
    size_in: Size
    size: Size
    clamp: np.ndarray | None
    edges: tuple[Edge, ...]


def stages(warp: Warp) -> tuple[Stage, ...]:
    """A warp without rolls as stages, first to last."""
    groups: list[tuple[Size, list[WarpStep]]] = []
    size = warp.size_in
    for step in warp.steps:
        assert step.roll is None, "a roll is carried out by itself"
        if step.clamp is not None or not groups:
            groups.append((size, []))
        groups[-1][1].append(step)
        size = step.size
    return tuple(_stage(size_in, steps) for size_in, steps in groups)


def _stage(size_in: Size, steps: list[WarpStep]) -> Stage:
    sizes = [size_in, *(step.size for step in steps)]
    inverse = np.broadcast_to(np.eye(3), steps[0].matrix.shape)
    edges = []
    passed_on = np.zeros(len(inverse), bool)
    for place in range(len(steps) - 1, -1, -1):
        own = np.linalg.inv(steps[place].matrix)
        inverse = own @ inverse
        if place > 0:
            matters = leaves_frame(own, sizes[place], sizes[place + 1]) | passed_on
            # A flip's two frames are one: what lies beyond is counted at the first of them, once.
            same = keeps_frame(steps[place - 1].matrix, sizes[place - 1], sizes[place])
            if place == 1 and steps[0].clamp is not None:
                same = np.zeros_like(same)
            passed_on, matters = matters & same, matters & ~same
            if matters.any():
                edges.append(Edge(inverse, sizes[place], matters))
    return Stage(inverse, size_in, sizes[-1], steps[0].clamp, tuple(edges))


def leaves_frame(inverse: np.ndarray, size_in: Size, size: Size) -> np.ndarray:
    """(n,) bool: whether some pixel centre of the output lies beyond the pixel centres of the input."""
    corners = np.array([[0, 0, 1], [size[1] - 1, 0, 1], [0, size[0] - 1, 1], [size[1] - 1, size[0] - 1, 1]], float)
    there = np.einsum("nij,kj->nki", inverse, corners)
    with np.errstate(divide="ignore", invalid="ignore"):
        points = there[..., :2] / there[..., 2:]
    inside = (points >= -_EPSILON) & (points <= np.array([size_in[1] - 1, size_in[0] - 1]) + _EPSILON)
    return ~(inside.all((1, 2)) & (there[..., 2] > 0).all(1))


def keeps_frame(matrix: np.ndarray, size_in: Size, size: Size) -> np.ndarray:
    """(n,) bool: whether a step maps its input's frame onto its output's, pixel onto pixel."""
    if size_in != size:
        return np.zeros(len(matrix), bool)
    return ~leaves_frame(matrix, size, size_in) & ~leaves_frame(np.linalg.inv(matrix), size_in, size)


def axis_aligned(warp: Warp) -> np.ndarray:
    """(n,) bool: whether a sample is only cut, scaled, mirrored and shifted."""
    result = np.ones(len(warp.on), bool)
    for step in warp.steps:
        matrix = step.matrix
        off = np.stack([matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 2, 0], matrix[:, 2, 1], matrix[:, 2, 2] - 1], 1)
        result &= (np.abs(off) < _EPSILON).all(1)
    return result


def take(warp: Warp, where: np.ndarray) -> Warp:
    """The warp of some of the samples."""
    steps = tuple(
        WarpStep(
            step.matrix[where],
            step.size,
            None if step.clamp is None else step.clamp[where],
            None if step.roll is None else step.roll[where],
        )
        for step in warp.steps
    )
    return Warp(warp.size_in, steps, warp.on[where], warp.interpolation, warp.antialias, warp.fill)


def part(warp: Warp, start: int, stop: int) -> Warp:
    """Steps start..stop-1 as a warp of their own."""
    size = warp.steps[start - 1].size if start else warp.size_in
    return Warp(size, warp.steps[start:stop], np.ones_like(warp.on), warp.interpolation, warp.antialias, warp.fill)


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of an axis-aligned warp.

    `source` (n, out) float64: where each output pixel reads; `share` (n, out): how much of it lies inside the frames passed;
    `low`, `high` (n,): the pixels that may be read; `clamped`: whether these stand for what is beyond them; `scale` (n,):
    output pixels per input pixel; `length`: pixels of the input.
    """

    source: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    clamped: bool
    scale: np.ndarray
    length: int

    @property
    def exact(self) -> np.ndarray:
        """(n,) bool: whether every output pixel is one input pixel, or fill."""
        whole = (self.source == np.rint(self.source)).all(1) & (np.abs(np.abs(self.scale) - 1) < _EPSILON)
        return whole & ((self.share == 0) | (self.share == 1)).all(1)


def axes(warp: Warp) -> tuple[Axis, Axis]:
    """Rows and columns of an axis-aligned warp without rolls."""
    return _axis(warp, 1), _axis(warp, 0)


def _axis(warp: Warp, axis: int) -> Axis:
    """`axis` 0 is x, as in matrices."""
    found = stages(warp)
    count, side = len(warp.on), 1 - axis
    length = warp.size_in[side]
    source = np.broadcast_to(np.arange(found[-1].size[side], dtype=float), (count, found[-1].size[side]))
    share = np.ones_like(source)
    scale = np.ones(count)
    for place in range(len(found) - 1, -1, -1):
        stage = found[place]
        for edge in stage.edges:
            beyond = coverage(_along(edge.inverse, axis, source), edge.size[side])
            share = np.where(edge.matters[:, None], share * beyond, share)
        source = _along(stage.inverse, axis, source)
        scale = scale / stage.inverse[:, axis, axis]
        if place:
            if stage.clamp is None:
                share = share * coverage(source, stage.size_in[side])
                source = source.clip(0, stage.size_in[side] - 1)
            else:
                source = source.clip(stage.clamp[:, axis, None], stage.clamp[:, axis + 2, None])
    clamp = found[0].clamp
    low, high = np.zeros(count), np.full(count, length - 1.0)
    if clamp is not None:
        low, high = np.maximum(low, clamp[:, axis]), np.minimum(high, clamp[:, axis + 2])
    # Composed floats miss whole numbers by a few units in the last place; a pixel is a pixel.
    near = np.rint(source)
    source = np.where(np.abs(source - near) < 1e-7, near, source)
    return Axis(source, share, low, high, clamp is not None, scale, length)


def _along(inverse: np.ndarray, axis: int, position: np.ndarray) -> np.ndarray:
    return inverse[:, axis, axis, None] * position + inverse[:, axis, 2, None]


def coverage(position: np.ndarray, length: int) -> np.ndarray:
    """How much of a bilinear sample at `position` lies on pixels 0..length-1."""
    return np.minimum(position + 1, length - position).clip(0, 1)
