"""Which passes over the pixels a list of colour steps needs: what is affine is folded, in numpy, before a pixel is read.

An affine step maps a pixel x of an image whose mean colour is m to `matrix` x + `means` m + `offset`. The mean of the result is
(`matrix` + `means`) m + `offset`, so that contrast, which needs the mean, folds like the others. A clamp to [0, 1] between two
steps is left out where interval arithmetic shows that it cannot bite for any image in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from augment.program import Colour, ColourStep

LUMA = np.array([0.299, 0.587, 0.114])
_GREY = np.broadcast_to(LUMA, (3, 3))
_THIRD = np.full((3, 3), 1 / 3)
_EYE = np.eye(3)
_SLACK = 1e-6


@dataclass(slots=True, eq=False)
class Pass:
    """One pass over the samples in `on` (n,) bool: `affine`, or the step of that name; `values` have n rows.

    An affine pass has matrix (n, 3, 3), means (n, 3, 3), offset (n, 3) and clamp (n,) bool, whether [0, 1] follows.
    """

    name: str
    on: np.ndarray
    values: dict[str, np.ndarray]


def plan(colour: Colour, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> list[Pass]:
    """The passes of `colour`, and (x - mean) / std after them; none when nothing is on."""
    planner = _Planner(len(colour.steps[0].on) if colour.steps else 0)
    for step in colour.steps:
        if step.on.any():
            planner.step(step)
    if mean is not None and std is not None:
        everywhere = np.arange(planner.count)
        scale, shift = 1 / np.asarray(std, float), -np.asarray(mean, float) / np.asarray(std, float)
        planner.affine(everywhere, np.diag(scale)[None], offset=shift[None], clamp=False)
    planner.flush(np.arange(planner.count))
    return planner.passes


class _Planner:
    """Per sample: the affine map not yet carried out, and the last pass that touched it.

    A sample's next pass is the first one of its kind after its last, so that samples with different steps share passes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.passes: list[Pass] = []
        self.last = np.full(count, -1)
        self.matrix = np.tile(_EYE, (count, 1, 1))
        self.means = np.zeros((count, 3, 3))
        self.offset = np.zeros((count, 3))
        self.pending = np.zeros(count, bool)
        self.clamp = np.zeros(count, bool)
        self.low, self.high = np.zeros(count), np.ones(count)

    def step(self, step: ColourStep) -> None:
        index = np.flatnonzero(step.on)
        values = {name: column[index] for name, column in step.values.items()}
        if step.name == "jitter":
            self._jitter(index, values)
        elif not self._affine_step(step.name, index, values):
            self.point(step.name, index, values)

    def _jitter(self, index: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Steps before each sample's hue, then all hues at once, then the steps after it."""
        order, names = values["order"], ("brightness", "contrast", "saturation")
        turn = order.argmax(1)
        for after in (False, True):
            for slot in range(4):
                for place, name in enumerate(names):
                    here = (order[:, slot] == place) & ((slot > turn) == after) & (values[name] != 1)
                    if here.any():
                        self._affine_step(name, index[here], {"factor": values[name][here]})
            if not after:
                here = values["hue"] != 0
                self.point("hue", index[here], {"turns": values["hue"][here]})

    def _affine_step(self, name: str, index: np.ndarray, values: dict[str, np.ndarray]) -> bool:
        """Fold a step that is affine; False for one that is not."""
        if name == "grayscale":
            self.affine(index, _GREY[None])
        elif name == "channel_shuffle":
            self.affine(index, _EYE[values["order"].astype(int)])
        elif name == "invert":
            self.affine(index, -_EYE[None], offset=np.ones((1, 3)))
        elif name == "brightness_shift":
            self.affine(index, _EYE[None], offset=values["shift"].astype(float)[:, None].repeat(3, 1))
        elif name in ("brightness", "contrast", "saturation", "saturation_mean", "contrast_mean"):
            factor = values["factor"].astype(float)[:, None, None]
            clamp = not name.endswith("mean")
            rest = (1 - factor) * (_GREY if clamp else _THIRD)
            scaled = factor * _EYE
            if name == "brightness":
                self.affine(index, scaled, clamp=True)
            elif name.startswith("saturation"):
                self.affine(index, scaled + rest, clamp=clamp)
            else:
                self.affine(index, scaled, rest, clamp=clamp)
        else:
            return False
        return True

    def affine(
        self,
        index: np.ndarray,
        matrix: np.ndarray,
        means: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        clamp: bool = False,
    ) -> None:
        """Put an affine map behind what the samples `index` have pending; leading dimensions are theirs, or 1."""
        held = index[self.clamp[index]]
        if len(held):
            low, high = self._range(held)
            self.flush(held[(low < -_SLACK) | (high > 1 + _SLACK)])
        before, before_means, before_offset = self.matrix[index], self.means[index], self.offset[index]
        self.matrix[index] = matrix @ before
        found = matrix @ before_means
        shift = (matrix @ before_offset[:, :, None])[:, :, 0]
        if means is not None:
            found += means @ (before + before_means)
            shift += (means @ before_offset[:, :, None])[:, :, 0]
        if offset is not None:
            shift += offset
        self.means[index], self.offset[index] = found, shift
        self.pending[index], self.clamp[index] = True, clamp

    def point(self, name: str, index: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Put a step that is not affine behind what the samples have pending; its result is in [0, 1]."""
        self.flush(index)
        self._place(name, index, values)
        self.low[index], self.high[index] = 0, 1

    def flush(self, index: np.ndarray) -> None:
        """Make passes of what the samples `index` have pending."""
        index = index[self.pending[index]]
        if not len(index):
            return
        low, high = self._range(index)
        clamp = self.clamp[index]
        rows = {
            "matrix": self.matrix[index],
            "means": self.means[index],
            "offset": self.offset[index],
            "clamp": clamp & ((low < 0) | (high > 1)),
        }
        self._place("affine", index, rows)
        self.low[index], self.high[index] = np.where(clamp, 0, low), np.where(clamp, 1, high)
        self.matrix[index], self.means[index], self.offset[index] = _EYE, 0, 0
        self.pending[index], self.clamp[index] = False, False

    def _range(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest value the pending map can give, whatever the image."""
        weights = np.concatenate([self.matrix[index], self.means[index]], 2)
        up, down = weights.clip(0).sum(2), weights.clip(max=0).sum(2)
        low, high, offset = self.low[index, None], self.high[index, None], self.offset[index]
        return (up * low + down * high + offset).min(1), (up * high + down * low + offset).max(1)

    def _place(self, name: str, index: np.ndarray, values: dict[str, np.ndarray]) -> None:
        rows = np.arange(len(index))
        for place, known in enumerate(self.passes):
            if known.name == name and len(rows):
                fits = self.last[index[rows]] < place
                self._write(place, index, rows[fits], values)
                rows = rows[~fits]
        if len(rows):
            blank = {key: np.zeros((self.count, *column.shape[1:]), column.dtype) for key, column in values.items()}
            self.passes.append(Pass(name, np.zeros(self.count, bool), blank))
            self._write(len(self.passes) - 1, index, rows, values)

    def _write(self, place: int, index: np.ndarray, rows: np.ndarray, values: dict[str, np.ndarray]) -> None:
        found, samples = self.passes[place], index[rows]
        found.on[samples] = True
        self.last[samples] = place
        for key, column in values.items():
            found.values[key][samples] = column[rows]
