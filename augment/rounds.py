"""Pointwise steps of a drawn program become rounds, on the host: no pixels here.

A round of a sample is y = clamp(A x + M m + c), where m is the image's channel means, followed by at most one operation that
is not affine. Consecutive affine steps share a round as long as no clamp between them can bite: that is decided from
the coefficients, by the interval that they reach from the interval of their input. Means are affine themselves, so a
contrast inside the round needs the mean of the round's input only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from augment.program import Colour, ColourStep

NOTHING, HUE, GAMMA, SOLARIZE, POSTERIZE, AUTOCONTRAST, EQUALIZE = range(7)
OPERATIONS = {
    "hue": (HUE, "turns"),
    "gamma": (GAMMA, "gamma"),
    "solarize": (SOLARIZE, "threshold"),
    "posterize": (POSTERIZE, "bits"),
    "autocontrast": (AUTOCONTRAST, None),
    "equalize": (EQUALIZE, None),
}
AFFINE = (
    "brightness",
    "contrast",
    "saturation",
    "grayscale",
    "invert",
    "channel_shuffle",
    "brightness_shift",
    "saturation_mean",
    "contrast_mean",
)
CLAMPED = ("brightness", "contrast", "saturation")
COMMUTES_WITH_CLAMP = ("invert", "channel_shuffle")
JITTER = ("brightness", "contrast", "saturation", "hue")

LUMA = np.array([0.299, 0.587, 0.114])
THIRDS = np.full(3, 1 / 3)
UNKNOWN = (-1e3, 1e3)  # the interval of an image that nobody vouches for
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """What each of n samples goes through in R rounds; its last round is the last one, shorter programs start later.

    `coefficients` (n, R, 3, 7) float64 holds A, M and c side by side. `clamp` (n, R): the clamp can bite. `free` (n, R): the
    result may lie outside [0, 1] and must not be clamped; where neither holds a clamp changes nothing. `low`, `high` (R, 3)
    are the bounds of the clamp.
    `operation` (n, R) int8 with its `value` (n, R) float64. `active` (n, R) is False where the round does nothing.
    """

    coefficients: np.ndarray
    clamp: np.ndarray
    free: np.ndarray
    low: np.ndarray
    high: np.ndarray
    operation: np.ndarray
    value: np.ndarray
    active: np.ndarray


class _Planner:
    """The open round of every sample, to which steps are added."""

    def __init__(self, count: int, capacity: int, bounded: bool) -> None:
        self.coefficients = np.zeros((count, capacity, 3, 7))
        self.coefficients[:, :, range(3), range(3)] = 1.0
        self.affine = np.zeros((count, capacity), bool)
        self.clamp = np.zeros((count, capacity), bool)
        self.free = np.zeros((count, capacity), bool)
        self.operation = np.zeros((count, capacity), np.int8)
        self.value = np.zeros((count, capacity))
        self.round = np.zeros(count, np.intp)
        self.bounded = bounded
        self.range = np.empty((count, 2))
        self.range[:] = (0.0, 1.0) if bounded else UNKNOWN

    def add(self, name: str, rows: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """One step for the samples `rows` with their own values."""
        if not len(rows):
            return
        if name in OPERATIONS:
            code, key = OPERATIONS[name]
            self._operate(code, rows, values[key] if key else np.zeros(len(rows)))
            return
        if name not in COMMUTES_WITH_CLAMP:
            shut = rows[self.clamp[rows, self.round[rows]]]
            self.round[shut] += 1
            self.range[shut] = (0.0, 1.0)
        at = self.round[rows]
        new = _affine(name, self.coefficients[rows, at], values)
        self.coefficients[rows, at] = new
        self.affine[rows, at] = True
        if name in CLAMPED:
            self.clamp[rows, at] = _outside(*self.reach(rows))

    def reach(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest value that the open affine map reaches without its clamp, each (rows,)."""
        coefficients = self.coefficients[rows, self.round[rows]]
        linear, constant = coefficients[..., :6], coefficients[..., 6]
        up, down = np.maximum(linear, 0.0).sum(2), np.minimum(linear, 0.0).sum(2)
        low, high = self.range[rows, 0, None], self.range[rows, 1, None]
        return (up * low + down * high + constant).min(1), (up * high + down * low + constant).max(1)

    def _operate(self, code: int, rows: np.ndarray, value: np.ndarray) -> None:
        at = self.round[rows]
        if code in (GAMMA, POSTERIZE, EQUALIZE):  # not defined beyond [0, 1]; Kornia clamps what it is given here
            self.clamp[rows, at] |= _outside(*self.reach(rows))
        low, high = self.close(rows)
        if code == SOLARIZE:
            low, high = np.minimum(low, 1 - high), np.maximum(high, 1 - low)
        elif code != HUE:
            low, high = np.zeros_like(low), np.ones_like(high)
        self.range[rows] = np.stack([low, high], 1)
        self.operation[rows, at] = code
        self.value[rows, at] = value
        self.round[rows] += 1

    def close(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Notes where the open round is free; least and greatest value after its clamp, each (rows,)."""
        at = self.round[rows]
        low, high = self.reach(rows)
        clamped = self.clamp[rows, at]
        self.free[rows, at] = ~clamped & _outside(low, high)
        return np.where(clamped, 0.0, low), np.where(clamped, 1.0, high)


def _outside(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return (low < -ROUNDING) | (high > 1 + ROUNDING)


def _affine(name: str, open_: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    """The step after the map `open_` (rows, 3, 7), as one map of the same input."""

    def factor(key: str = "factor") -> np.ndarray:
        return values[key].astype(np.float64)[:, None, None]

    if name == "brightness":
        return open_ * factor()
    if name in ("saturation", "saturation_mean"):
        weights = LUMA if name == "saturation" else THIRDS
        return open_ * factor() + (1 - factor()) * np.einsum("c,ncj->nj", weights, open_)[:, None]
    if name in ("contrast", "contrast_mean"):
        weights = LUMA if name == "contrast" else THIRDS
        gray = np.einsum("c,ncj->nj", weights, open_)
        gray[:, 3:6] += gray[:, :3]  # the mean of A x + M m + c is (A + M) m + c
        gray[:, :3] = 0.0
        return open_ * factor() + (1 - factor()) * gray[:, None]
    if name == "grayscale":
        return np.repeat(np.einsum("c,ncj->nj", LUMA, open_)[:, None], 3, axis=1)
    if name == "channel_shuffle":
        return np.take_along_axis(open_, values["order"].astype(np.intp)[:, :, None], axis=1)
    if name == "invert":
        inverted = -open_
        inverted[..., 6] += 1.0
        return inverted
    if name == "brightness_shift":
        shifted = open_.copy()
        shifted[..., 6] += factor("shift")[:, :, 0]
        return shifted
    raise ValueError(f"no colour operation is called {name!r}; there are {', '.join([*AFFINE, *OPERATIONS, 'jitter'])}")


def plan_rounds(
    colour: Colour,
    count: int,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
    bounded: bool = True,
) -> Rounds:
    """Rounds of `count` samples; with `mean` and `std` (3,) the last round normalises, clamp included.

    `bounded`: the images are in [0, 1] to begin with; else every clamp is taken to bite.
    """
    capacity = sum(4 if step.name == "jitter" else 1 for step in colour.steps) + 1
    planner = _Planner(count, capacity, bounded)
    for step in colour.steps:
        if step.name == "jitter":
            _add_jitter(planner, step)
            continue
        rows = np.flatnonzero(step.on)
        planner.add(step.name, rows, {key: value[rows] for key, value in step.values.items()})
    return _finished(planner, mean, std)


def _add_jitter(planner: _Planner, step: ColourStep) -> None:
    """Brightness, contrast, saturation and hue in each sample's own order; a neutral value is left out."""
    rows = np.flatnonzero(step.on)
    order = step.values["order"][rows]
    for slot in range(4):
        for index, name in enumerate(JITTER):
            chosen = rows[order[:, slot] == index]
            value = step.values[name][chosen]
            alters = value != (0 if name == "hue" else 1)
            planner.add(name, chosen[alters], {"turns" if name == "hue" else "factor": value[alters]})


def _finished(planner: _Planner, mean: np.ndarray | None, std: np.ndarray | None) -> Rounds:
    """The planner's rounds with every sample's last one at the end, normalised there."""
    count = len(planner.round)
    everyone = np.arange(count)
    planner.close(everyone)
    length = planner.round + 1
    if mean is None or std is None:  # the open round may be empty: then the one before is the last
        length = length - (~planner.affine[everyone, planner.round] & ~planner.clamp[everyone, planner.round])
    total = max(int(length.max(initial=0)), 1)
    source = np.arange(total)[None] - (total - length)[:, None]
    blank = source < 0
    source = np.where(blank, planner.coefficients.shape[1] - 1, source)

    def aligned(array: np.ndarray) -> np.ndarray:
        return array[everyone[:, None], source]

    coefficients, clamp, free = aligned(planner.coefficients), aligned(planner.clamp), aligned(planner.free)
    operation, affine = aligned(planner.operation), aligned(planner.affine)
    coefficients[blank] = np.eye(3, 7)
    for flags in (clamp, operation, affine):
        flags[blank] = 0
    free[blank] = not planner.bounded  # before its first round a sample is what was given
    low, high = np.zeros((total, 3)), np.ones((total, 3))
    if mean is not None and std is not None:
        coefficients[:, -1, :, 6] -= mean
        coefficients[:, -1] /= np.asarray(std)[:, None]
        low[-1], high[-1] = (0 - np.asarray(mean)) / std, (1 - np.asarray(mean)) / std
        affine[:, -1] = True
    active = affine | clamp | (operation != NOTHING)
    return Rounds(coefficients, clamp, free, low, high, operation, aligned(planner.value), active)
