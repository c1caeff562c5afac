"""The arithmetic of axis-aligned warps on the host: y and x apart, each a line from output index to source position.

Plain numpy, no pixels, sample by sample, as in `augment.homography`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from augment.homography import SLACK, ordered, sizes
from augment.program import Warp


class Fade(NamedTuple):
    """Coverage of one frame along one axis: it ends within a pixel, as position clip(scale * i + shift, low, high) leaves it."""

    scale: np.ndarray
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray
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

    def take(self, where: np.ndarray) -> Line:
        """The lines of some of the samples."""

        def rows(fade: Fade | None) -> Fade | None:
            return fade and Fade(fade.scale[where], fade.shift[where], fade.low[where], fade.high[where], fade.size)

        picked = {field.name: getattr(self, field.name) for field in fields(self)}
        picked |= {name: column[where] for name, column in picked.items() if isinstance(column, np.ndarray)}
        fades = tuple(fade for fade in map(rows, self.fades) if fade is not None)
        return Line(**(picked | {"fades": fades, "edge": rows(self.edge)}))

    @property
    def flips(self) -> np.ndarray | None:
        """(n,) bool where the whole axis is mirrored, if every sample's is that or left as it is; else None."""
        mirrored = self.scale == -1
        same = np.where(mirrored, self.shift == self.size_in - 1, (self.scale == 1) & (self.shift == 0))
        free = not self.fades and self.edge is None and self.roll is None and self.size == self.size_in
        uncut = (self.low <= 0) & (self.high >= self.size - 1)
        return mirrored if free and (same & uncut).all() else None

    @property
    def integral(self) -> np.ndarray:
        """(n,) bool: whole pixels are copied."""
        whole = (np.abs(self.scale) == 1) & (self.shift == np.rint(self.shift))
        for bound in (self.low, self.high):
            whole &= np.isinf(bound) | (bound == np.rint(bound))
        return whole


Lines = tuple[Line, Line]  #: of y and of x


def line(warp: Warp, axis: int) -> Line:
    """Axis 0 is y, 1 is x. All steps must be axis-aligned, and only the last may roll."""
    place, count = 1 - axis, len(warp.on)
    frames = [size[axis] for size in sizes(warp)]
    scale, shift = np.ones(count), np.zeros(count)
    low, high = np.full(count, -np.inf), np.full(count, np.inf)
    first, last = low.copy(), high.copy()
    fades: list[Fade] = []
    edge, cut = None, np.zeros(count, bool)
    begins = warp.first()
    for index in range(len(warp.steps) - 1, -1, -1):
        step, size = warp.steps[index], frames[index]
        back = step.matrix[:, 2, 2] / step.matrix[:, place, place]
        move = -step.matrix[:, place, 2] / step.matrix[:, place, place]
        scale, shift = back * scale, back * shift + move
        low, high = ordered(back * low + move, back * high + move)
        first, last = ordered(back * first + move, back * last + move)
        start, end = np.full(count, -np.inf), np.full(count, np.inf)
        if step.clamp is not None:
            start, end = step.clamp[:, place], step.clamp[:, place + 2]
        acts = step.acts()
        boxed = np.isfinite(start)
        cut |= boxed
        low, high = np.clip(low, start, end), np.clip(high, start, end)
        # half a pixel outside the outermost centres: a pixel is read when its centre lies within
        first = np.where(acts, np.maximum(first, np.where(boxed, np.maximum(start, 0), 0) - 0.5), first)
        last = np.where(acts, np.minimum(last, np.where(boxed, np.minimum(end, size - 1), size - 1) + 0.5), last)
        outermost = acts & (begins == index)
        if outermost.any():
            edge = _joined(edge, _fade(scale, shift, low, high, size, frames[-1], outermost))
        inner = acts & ~outermost
        if inner.any():
            fade = _fade(scale, shift, low, high, size, frames[-1], inner)
            if fade is not None:
                fades.append(fade)
            low = np.where(inner, np.clip(low, 0, size - 1), low)
            high = np.where(inner, np.clip(high, 0, size - 1), high)
    roll = warp.steps[-1].roll
    return Line(
        scale,
        shift,
        low,
        high,
        np.ceil(first - SLACK),
        np.floor(last + SLACK),
        np.where(cut & warp.antialias, np.maximum(np.abs(scale), 1.0), 1.0),
        tuple(fades),
        edge,
        None if roll is None else roll[:, axis],
        frames[0],
        frames[-1],
    )


def _fade(
    scale: np.ndarray, shift: np.ndarray, low: np.ndarray, high: np.ndarray, size: int, out: int, where: np.ndarray
) -> Fade | None:
    """The coverage of a frame of `size` by output indices 0..out - 1; full for samples that have no such frame, or stay inside."""
    lowest, highest = ordered(np.clip(shift, low, high), np.clip(scale * (out - 1) + shift, low, high))
    bites = ((lowest < -SLACK) | (highest > size - 1 + SLACK)) & where
    if not bites.any():
        return None
    return Fade(
        np.where(bites, scale, 0.0),
        np.where(bites, shift, (size - 1) / 2),
        np.where(bites, low, -np.inf),
        np.where(bites, high, np.inf),
        size,
    )


def _joined(one: Fade | None, other: Fade | None) -> Fade | None:
    """Two fades of one frame, of which at most one bites for each sample."""
    if one is None or other is None:
        return one or other
    bites = other.scale != 0
    scale, shift, low, high = (np.where(bites, theirs, ours) for ours, theirs in zip(one[:4], other[:4], strict=True))
    return Fade(scale, shift, low, high, one.size)
