"""Axis-aligned warps as numbers on the host: for y and for x apart, which source position each output row or column reads.

Axis-aligned means that rows stay rows and columns stay columns: crops, resizes, flips, shifts and paddings. Such a warp is one
`AxisMap` for y and one for x, however many steps it has. Plain numpy, no pixels, sample by sample as in `augment.homography`.

Worked example: columns 2 to 5 of an image 8 pixels wide are cut out, stretched to 8 and mirrored. Output column i then reads the
source at clip(5.25 - 0.5 i, 2, 5): columns 0 and 7 would read 5.25 and 1.75, beyond the centres of what was cut out.

>>> from augment.draws import draw, program
>>> from augment.policy import load
>>> policy = load([{"resized_crop": {"size": 8, "scale": 0.25, "ratio": 1}}, {"horizontal_flip": {"p": 1.0}}])
>>> draws = draw(policy, ["some key"], (8, 8))
>>> draws.values["resized_crop"]["left"][0] = 2
>>> columns = axis_map(program(draws)[0], axis=1)
>>> columns.scale.tolist(), columns.shift.tolist(), columns.low.tolist(), columns.high.tolist()
([-0.5], [5.25], [2.0], [5.0])
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from augment.homography import SLACK, frame_sizes, ordered
from augment.program import Warp


class EdgeFade(NamedTuple):
    """How much of each output index lies inside one frame, along one axis, where the frame ends within the output.

    Output index i reads position p = clip(scale * i + shift, low, high) of a frame of `size` pixels, and is covered by
    clip(min(p + 1, size - p), 0, 1) of it: 1 at the outermost pixel's centre, falling to 0 one pixel further out, which is what
    bilinear interpolation with a black border gives. Arrays are (n,) float64, in pixels; for a sample that the frame does not cut
    they read its middle. In a frame of 8 pixels the positions -0.5, 0 and 7.75 are covered by 0.5, 1 and 0.25.
    """

    scale: np.ndarray
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class AxisMap:
    """One axis of axis-aligned warps: output index i reads source position clip(scale * i + shift, low, high), in pixels.

    Arrays are (n,) float64, a row a sample. `first` and `last` are the outermost source pixels that may be read, `width` the half
    width of the triangle that weighs them: 1 for linear interpolation, more where a crop shrinks and is to be filtered. `fades`
    are the frames between source and output that cut some sample, `edge` is the source's own frame, or None where it cuts none.
    `roll` (n,) int moves the output in a circle by so many pixels, or is None. `size_in` and `size` are the pixels of source and output.
    """

    scale: np.ndarray
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray
    first: np.ndarray
    last: np.ndarray
    width: np.ndarray
    fades: tuple[EdgeFade, ...]
    edge: EdgeFade | None
    roll: np.ndarray | None
    size_in: int
    size: int

    def take(self, where: np.ndarray) -> AxisMap:
        """Select the maps of the samples at places `where`; returns a new map."""

        def rows(fade: EdgeFade | None) -> EdgeFade | None:
            return fade and EdgeFade(fade.scale[where], fade.shift[where], fade.low[where], fade.high[where], fade.size)

        picked = {field.name: getattr(self, field.name) for field in fields(self)}
        picked |= {name: column[where] for name, column in picked.items() if isinstance(column, np.ndarray)}
        fades = tuple(fade for fade in map(rows, self.fades) if fade is not None)
        return AxisMap(**(picked | {"fades": fades, "edge": rows(self.edge)}))

    @property
    def flips(self) -> np.ndarray | None:
        """(n,) bool where the whole axis is mirrored, if every sample's is mirrored or left as it is; else None."""
        mirrored = self.scale == -1
        whole = np.where(mirrored, self.shift == self.size_in - 1, (self.scale == 1) & (self.shift == 0))
        plain = not self.fades and self.edge is None and self.roll is None and self.size == self.size_in
        uncut = (self.low <= 0) & (self.high >= self.size - 1)
        return mirrored if plain and (whole & uncut).all() else None

    @property
    def integral(self) -> np.ndarray:
        """(n,) bool where every output index reads a pixel's centre, so that pixels are copied."""
        integral = (np.abs(self.scale) == 1) & (self.shift == np.rint(self.shift))
        for bound in (self.low, self.high):
            integral &= np.isinf(bound) | (bound == np.rint(bound))
        return integral

    @property
    def shrinks(self) -> np.ndarray:
        """(n,) bool where source pixels are averaged: the triangle is wider than interpolation's."""
        return self.width > 1 + 1e-6


AxisMaps = tuple[AxisMap, AxisMap]  #: of y and of x


def axis_maps(warp: Warp) -> AxisMaps:
    """Fold a warp whose steps are all axis-aligned into the maps of y and x. Only the last step may roll."""
    return axis_map(warp, 0), axis_map(warp, 1)


def axis_map(warp: Warp, axis: int) -> AxisMap:
    """Fold an axis-aligned warp into the map of one axis, 0 for y and 1 for x. Only the last step may roll.

    The steps are undone from the last to the first, so that at any time positions are those in the frame between two steps.
    """
    place, count = 1 - axis, len(warp.on)  # a matrix has x before y
    sizes = [size[axis] for size in frame_sizes(warp)]
    scale, shift = np.ones(count), np.zeros(count)
    low, high = np.full(count, -np.inf), np.full(count, np.inf)
    first, last = low.copy(), high.copy()
    fades: list[EdgeFade] = []
    edge, cropped = None, np.zeros(count, bool)
    first_steps = warp.first()
    for index in range(len(warp.steps) - 1, -1, -1):
        step, size = warp.steps[index], sizes[index]
        # positions before the step are `back` times those after it, plus `move`
        back = step.matrix[:, 2, 2] / step.matrix[:, place, place]
        move = -step.matrix[:, place, 2] / step.matrix[:, place, place]
        scale, shift = back * scale, back * shift + move
        low, high = ordered(back * low + move, back * high + move)
        first, last = ordered(back * first + move, back * last + move)
        start, end = np.full(count, -np.inf), np.full(count, np.inf)
        if step.clamp is not None:
            start, end = step.clamp[:, place], step.clamp[:, place + 2]
        acts, boxed = step.acts(), np.isfinite(start)
        cropped |= boxed
        low, high = np.clip(low, start, end), np.clip(high, start, end)
        # half a pixel outside the outermost centres: a pixel is read when its centre lies within
        first = np.where(acts, np.maximum(first, np.where(boxed, np.maximum(start, 0), 0) - 0.5), first)
        last = np.where(acts, np.minimum(last, np.where(boxed, np.minimum(end, size - 1), size - 1) + 0.5), last)
        on_source = acts & (first_steps == index)
        if on_source.any():
            edge = _merge(edge, _fade(scale, shift, low, high, size, sizes[-1], on_source))
        between = acts & ~on_source
        if between.any():
            fade = _fade(scale, shift, low, high, size, sizes[-1], between)
            if fade is not None:
                fades.append(fade)
            low = np.where(between, np.clip(low, 0, size - 1), low)
            high = np.where(between, np.clip(high, 0, size - 1), high)
    roll = warp.steps[-1].roll
    return AxisMap(
        scale=scale,
        shift=shift,
        low=low,
        high=high,
        first=np.ceil(first - SLACK),
        last=np.floor(last + SLACK),
        width=np.where(cropped & warp.antialias, np.maximum(np.abs(scale), 1.0), 1.0),
        fades=tuple(fades),
        edge=edge,
        roll=None if roll is None else roll[:, axis],
        size_in=sizes[0],
        size=sizes[-1],
    )


def _fade(
    scale: np.ndarray, shift: np.ndarray, low: np.ndarray, high: np.ndarray, size: int, out: int, where: np.ndarray
) -> EdgeFade | None:
    """Give the fade of a frame of `size` pixels for the samples `where` whose output 0..out - 1 reaches beyond it; None for no such."""
    lowest, highest = ordered(np.clip(shift, low, high), np.clip(scale * (out - 1) + shift, low, high))
    cuts = ((lowest < -SLACK) | (highest > size - 1 + SLACK)) & where
    if not cuts.any():
        return None
    return EdgeFade(
        np.where(cuts, scale, 0.0),
        np.where(cuts, shift, (size - 1) / 2),
        np.where(cuts, low, -np.inf),
        np.where(cuts, high, np.inf),
        size,
    )


def _merge(one: EdgeFade | None, other: EdgeFade | None) -> EdgeFade | None:
    """Merge two fades of one frame, of which at most one cuts each sample."""
    if one is None or other is None:
        return one or other
    cuts = other.scale != 0
    scale, shift, low, high = (np.where(cuts, theirs, ours) for ours, theirs in zip(one[:4], other[:4], strict=True))
    return EdgeFade(scale, shift, low, high, one.size)
