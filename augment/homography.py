"""Homographies as numbers on the host: the way from an output pixel back to the source, through every frame that cuts the picture.

A warp of several steps is resampled once, so its matrices are multiplied. That alone would be wrong: what a step moved out of its
frame is gone, and a later step must not bring it back. So the way back stops at each frame that can cut something, and there a
sample fades to nothing where the frame ends, or is clipped to the box that a crop cut out. Plain numpy, no pixels. Everything is
decided sample by sample, so that a sample's neighbours in a batch change nothing.

Worked example: an image of 8 x 8 pixels is turned by 90 degrees and then by 45. After the first turn the picture fills its frame;
the second looks for the corners of its output up to 4 sqrt 2 - 4 = 1.66 pixels beyond that frame: one frame to respect. In
coordinates that run from -1 to 1 over the area of a frame, the output's corner pixel (0.875, -0.875) comes from 0.875 sqrt 2 =
1.237 on an axis of it, and is covered by clip(4.5 - 4 * 1.237, 0, 1) = 0. The next pixel inwards, (0.625, -0.625), comes from
0.884 and is covered by clip(4.5 - 4 * 0.884, 0, 1) = 0.964. The first turn leads on from there to the source.

>>> from augment.draws import draw, program
>>> from augment.policy import load
>>> policy = load([{"rotate": {"degrees": 90}}, {"rotate": {"degrees": 45}}])
>>> (frame,), to_source = frames_back(program(draw(policy, ["some key"], (8, 8)))[0])
>>> frame.slope.tolist(), frame.offset.tolist()
([[4.0, 4.0]], [[4.5, 4.5]])
>>> for centre in (0.875, 0.625):
...     x, y, _ = frame.matrix[0] @ [centre, -centre, 1]
...     furthest = max(abs(x), abs(y))
...     print(furthest.round(3), np.clip(4.5 - 4 * furthest, 0, 1).round(3))
1.237 0.0
0.884 0.964
>>> (to_source[0] @ [0.884, 0, 1]).round(3).tolist()
[0.0, 0.884, 1.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from augment.program import Warp, WarpStep

SLACK = 1e-7  # pixels: what float64 arithmetic may be off by without a border being crossed

Size = tuple[int, int]


class Frame(NamedTuple):
    """A frame between two steps that cuts the picture: map into it, fade where it ends, clip to it.

    Coordinates are x and y, -1..1 over the area of a frame. `matrix` (n, 3, 3) float64 leads into it, from the frame listed before
    it or from the output. `low` and `high` (n, 2) bound the coordinates, infinite where nothing is clipped. At a coordinate c the
    frame covers clip(offset - slope |c|, 0, 1) of a sample, `slope` and `offset` (n, 2): it falls from 1 at the outermost pixel's
    centre to 0 one pixel further out. For a sample that the frame does not cut `matrix` is the identity and all is covered.
    """

    matrix: np.ndarray
    low: np.ndarray
    high: np.ndarray
    slope: np.ndarray
    offset: np.ndarray


def take(warp: Warp, where: np.ndarray, steps: slice = slice(None)) -> Warp:
    """Select the samples at places `where`, and some of the steps, of a warp; returns a warp that is on for all of them."""
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
    start = frame_sizes(warp)[steps.start or 0]
    return Warp(start, chosen, np.ones(len(where), bool), warp.interpolation, warp.antialias, warp.fill)


def frame_sizes(warp: Warp) -> list[Size]:
    """List the (height, width) of every frame: the source, and what each step leaves."""
    return [warp.size_in, *(step.size for step in warp.steps)]


def axis_aligned(steps: Sequence[WarpStep]) -> np.ndarray:
    """(n,) bool where every step leaves rows rows and columns columns."""
    aligned = np.ones(len(steps[0].matrix), bool)
    for step in steps:
        off_axis = step.matrix[:, [0, 1, 2, 2], [1, 0, 0, 1]]
        aligned &= (off_axis == 0).all(1)
    return aligned


def ordered(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the higher of two arrays, element by element."""
    return np.minimum(one, other), np.maximum(one, other)


def frames_back(warp: Warp) -> tuple[list[Frame], np.ndarray]:
    """List the frames that cut the picture, from the output backwards, with the matrices (n, 3, 3) from the last to the source.

    All coordinates are -1..1 over the area of a frame. The source's own frame is listed only where a box is cut from it: beyond
    its border sampling reads nothing anyway. A box that only axis-aligned maps separate from the frame listed before it
    is a box in that frame's coordinates too, and joins its bounds instead of being listed.
    """
    walk = _WalkBack(warp)
    first_steps = warp.first()
    sizes = frame_sizes(warp)
    for index in range(len(warp.steps) - 1, -1, -1):
        step = warp.steps[index]
        boxed = np.zeros(len(warp.on), bool) if step.clamp is None else np.isfinite(step.clamp).all(1)
        walk.undo(step)
        if index or boxed.any():
            # a sample's source has no frame before its first step that is on
            walk.meet(step, sizes[index], boxed, step.acts() & (boxed | (index > first_steps)))
    return walk.frames, _to_unit(sizes[0]) @ walk.pending


class _WalkBack:
    """The way from the output back to the source, as far as it has been walked.

    `pending` (n, 3, 3) leads from the last listed frame of a sample (at first the output), -1..1, to pixels of the frame in
    hand, and `reach` (n, 4) is the rectangle of that listed frame, x and y of its beginning and end, from which something is read.
    `box_owner` (n,) is the place in `frames` of a sample's last listed frame if all steps since were axis-aligned, else -1.
    """

    def __init__(self, warp: Warp) -> None:
        count, output = len(warp.on), warp.size
        self.frames: list[Frame] = []
        self.pending = np.tile(_from_unit(output), (count, 1, 1))
        self.reach = np.tile([-1.0, -1.0, 1.0, 1.0], (count, 1)) * (1 - 1 / np.tile(output[::-1], 2))
        self.box_owner = np.full(count, -1)

    def undo(self, step: WarpStep) -> None:
        """Walk from behind a step to the frame before it."""
        self.pending = inverse(step.matrix) @ self.pending
        self.box_owner[~axis_aligned([step])] = -1

    def meet(self, step: WarpStep, size: Size, boxed: np.ndarray, may_cut: np.ndarray) -> None:
        """Respect the frame of `size` before a step, or the box cut from it where `boxed` (n,), for samples that it `may_cut` (n,)."""
        start, end = _readable(step, size)
        lowest, highest = hull(self.pending, self.reach)
        cuts = ((lowest < start - SLACK) | (highest > end + SLACK)).any(1) & may_cut
        joins = cuts & boxed & (self.box_owner >= 0)
        for owner in np.unique(self.box_owner[joins]):
            self._join(owner, joins & (self.box_owner == owner), start, end)
        cuts &= ~joins
        if cuts.any():
            self._list(size, cuts, cuts & ~boxed, start, end)

    def _join(self, owner: int, where: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        """Narrow the bounds of a listed frame to a box in pixels, seen through axis-aligned maps."""
        frame = self.frames[owner]
        scale, shift = np.diagonal(self.pending, axis1=1, axis2=2)[:, :2], self.pending[:, :2, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = ordered((start - shift) / scale, (end - shift) / scale)
        for bound in (frame.low, frame.high):
            bound[where] = np.clip(bound, low, high)[where]
        self.reach[where] = np.concatenate([frame.low[where], frame.high[where]], 1)

    def _list(self, size: Size, cuts: np.ndarray, fades: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        """List a frame that cuts some samples and fades out for some of them; from here on their way starts there."""
        side = np.array(size[::-1])
        low, high = ((2 * bound + 1) / side - 1 for bound in (start, end))
        here, fading = cuts[:, None], fades[:, None]
        self.frames.append(
            Frame(
                np.where(here[..., None], _to_unit(size) @ self.pending, np.eye(3)),
                np.where(here, low, -np.inf),
                np.where(here, high, np.inf),
                np.where(fading, side / 2, 0.0),
                np.where(fading, side / 2 + 0.5, np.ones(2)),
            )
        )
        self.reach = np.where(here, np.concatenate([low, high], 1), self.reach)
        self.pending = np.where(here[..., None], _from_unit(size), self.pending)
        self.box_owner[cuts] = len(self.frames) - 1


def _readable(step: WarpStep, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """First and last pixel centre (n, 2), x and y, of what a step may read of its frame of `size`: all of it, or its box."""
    count = len(step.matrix)
    start, end = np.zeros((count, 2)), np.tile([size[1] - 1.0, size[0] - 1.0], (count, 1))
    if step.clamp is None:
        return start, end
    return np.maximum(start, step.clamp[:, :2]), np.minimum(end, step.clamp[:, 2:])


def _to_unit(size: Size) -> np.ndarray:
    """The matrix (3, 3) from pixels of a frame to -1..1 over its area."""
    height, width = size
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])


def _from_unit(size: Size) -> np.ndarray:
    """The matrix (3, 3) from -1..1 over the area of a frame to its pixels."""
    height, width = size
    return np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Invert (n, 3, 3) so that the last row gives a positive depth where a point can be seen; affine rows stay exactly 0 0 1."""
    inverted = np.linalg.inv(matrix)
    affine = (matrix[:, 2] == [0, 0, 1]).all(1)
    inverted[affine, 2] = [0, 0, 1]
    return inverted


def hull(matrix: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x and y (n, 2) of rectangles (n, 4) mapped by (n, 3, 3); infinite when part lies behind the viewer."""
    corners = reach[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    points = corners @ matrix[:, :, :2].transpose(0, 2, 1) + matrix[:, None, :, 2]
    behind = (points[..., 2] <= 0).any(1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        flat = points[..., :2] / points[..., 2:]
    return np.where(behind, -np.inf, flat.min(1)), np.where(behind, np.inf, flat.max(1))
