"""A program: what is done to a batch, drawn and resolved, as a list of segments that torch, cv2 and Kornia each carry out.

Numbers only, no pixels: arrays are numpy with one row per sample. A pixel coordinate is an integer at the pixel's centre, x to
the right and y down. Colours are RGB in [0, 1]. An operation that is off for a sample is as if it were not in the program, so
that groups may choose different operations for the samples of one batch and none of them can tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

Interpolation = Literal["bilinear", "nearest"]


@dataclass(frozen=True, slots=True, eq=False)
class WarpStep:
    """One geometric operation on n samples.

    `matrix` (n, 3, 3) float64 maps a pixel of the step's input to its output, `size` is (height, width) after the step.
    `clamp` (n, 4) float64, or None: left, top, right and bottom pixel centres, inclusive, of the part of the input that is
    read, as if it had been cut out first; infinite where the step is off. `roll` (n, 2) int: pixels down and to the right
    by which the image is shifted in a circle; `matrix` is the identity then. `on` (n,) bool, or None for all: where a step is
    off `matrix` is the identity, and its frame cuts nothing either: it is not there.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    clamp: np.ndarray | None = None
    roll: np.ndarray | None = None
    on: np.ndarray | None = None

    def acts(self) -> np.ndarray:
        """(n,) bool: where the step is on."""
        return np.ones(len(self.matrix), bool) if self.on is None else self.on


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """Consecutive geometric operations: one resampling.

    `size_in` is the source's (height, width). `on` (n,) bool is False where every step is off. `antialias` filters what is cut out
    and shrunk. `fill` in [0, 1] is the value of what lies beyond a frame.
    """

    size_in: tuple[int, int]
    steps: tuple[WarpStep, ...]
    on: np.ndarray
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fill: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width after the last step."""
        return self.steps[-1].size if self.steps else self.size_in

    def first(self) -> np.ndarray:
        """(n,) int place of each sample's first step that is on, whose frame is the source's own; past the end where none is."""
        acts = np.stack([step.acts() for step in self.steps])
        return np.where(acts.any(0), acts.argmax(0), len(self.steps))


@dataclass(frozen=True, slots=True, eq=False)
class ColourStep:
    """One pointwise operation on n samples: its name, where it is `on` (n,) bool, and its values by name, arrays of n rows."""

    name: str
    on: np.ndarray
    values: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Colour:
    """Consecutive pointwise operations, to be folded as far as that is exact."""

    steps: tuple[ColourStep, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """One operation on n samples that reads a neighbourhood or writes a region.

    It is `on` (n,) bool; `values` by name are arrays of n rows, `constants` are the same for all samples.
    """

    name: str
    on: np.ndarray
    values: dict[str, np.ndarray]
    constants: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """AugMix (Hendrycks et al. 2020): (1 - share) x + share * sum_i weights_i chain_i(x).

    `weights` (n, chains) float32 sum to one, `share` (n,) float32 in [0, 1], `on` (n,) bool. Chains keep the size.
    """

    chains: tuple[tuple[Segment, ...], ...]
    weights: np.ndarray
    share: np.ndarray
    on: np.ndarray


Segment: TypeAlias = Warp | Colour | Filter | Blend
