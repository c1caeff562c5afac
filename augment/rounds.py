"""Pointwise steps of a drawn program become rounds, on the host: no pixels here.

A round of a sample is y = clamp(A x + M m + c), where m is the image's channel means, followed by at most one operation that
is not affine. Consecutive affine steps share a round as long as no clamp between them can bite: that is decided from
the coefficients, by the interval that they reach from the interval of their input. Means are affine themselves, so a
contrast inside the round needs the mean of the round's input only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from augment.errors import PolicyError
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
UNCLAMPED = ("brightness_shift", "saturation_mean", "contrast_mean")
COMMUTES_WITH_CLAMP = ("invert", "channel_shuffle")
JITTER = ("brightness", "contrast", "saturation", "hue")

LUMA = np.array([0.299, 0.587, 0.114])
THIRDS = np.full(3, 1 / 3)
UNKNOWN = (-1e3, 1e3)  # the interval of an image that nobody vouches for
ROUNDING = 1e-6
IDENTITY = np.eye(3, 7)


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """What each of n samples goes through in R rounds, aligned at the hue and at the end.

    `coefficients` (n, R, 3, 7) float64 holds A, M and c side by side. `clamp` (n, R): there is a clamp, which can bite. `low`,
    `high` (R, 3) are the bounds of the clamp.
    `operation` (n, R) int8 with its `value` (n, R) float64. `active` (n, R) is False where the round does nothing.
    """

    coefficients: np.ndarray
    clamp: np.ndarray
    low: np.ndarray
    high: np.ndarray
    operation: np.ndarray
    value: np.ndarray
    active: np.ndarray

    def take(self, where: np.ndarray) -> Rounds:
        """The rounds of some of the samples."""
        columns = (self.coefficients[where], self.clamp[where], self.low, self.high)
        return Rounds(*columns, self.operation[where], self.value[where], self.active[where])


class _Planner:
    """The open round of every sample, to which steps are added; `tame` (n,): nothing leaves [0, 1] unclamped."""

    def __init__(self, count: int, capacity: int, bounded: np.ndarray, tame: np.ndarray) -> None:
        self.tame = tame
        self.coefficients = np.empty((count, capacity, 3, 7))
        self.coefficients[:] = IDENTITY
        self.affine = np.zeros((count, capacity), bool)
        self.clamp = np.zeros((count, capacity), bool)
        self.operation = np.zeros((count, capacity), np.int8)
        self.value = np.zeros((count, capacity))
        self.round = np.zeros(count, np.intp)
        self.range = np.empty((count, 2))
        self.range[:] = np.where(bounded[:, None], (0.0, 1.0), UNKNOWN)

    def add(self, name: str, rows: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """One step for the samples `rows` with their own values."""
        if name in JITTER[:3]:
            self.add_clamped(rows, np.full(len(rows), JITTER.index(name)), values["factor"])
        elif name in OPERATIONS:
            code, key = OPERATIONS[name]
            self.operate(code, rows, values[key] if key else np.zeros(len(rows)))
        else:
            if name not in COMMUTES_WITH_CLAMP:
                self._shut(rows)
            at = self.round[rows]
            self.coefficients[rows, at] = _affine(name, self.coefficients[rows, at], values)
            self.affine[rows, at] = True

    def add_clamped(self, rows: np.ndarray, kind: np.ndarray, factor: np.ndarray) -> None:
        """Brightness, contrast or saturation: each of the samples `rows` its own `kind`, an index into JITTER."""
        self._shut(rows)
        at = self.round[rows]
        open_ = self.coefficients[rows, at]
        scale = factor.astype(np.float64)[:, None, None]
        anchor = LUMA @ open_  # gray, from which saturation moves away; contrast from its mean, brightness from black
        anchor[kind == 1] = _mean_of(anchor[kind == 1])
        anchor[kind == 0] = 0.0
        self.coefficients[rows, at] = open_ * scale + (1 - scale) * anchor[:, None]
        self.affine[rows, at] = True
        self.clamp[rows, at] = _outside(*self.reach(rows))

    def _shut(self, rows: np.ndarray) -> None:
        """A new round where the open one ends in a clamp that can bite."""
        shut = rows[self.clamp[rows, self.round[rows]]]
        if len(shut):
            self.round[shut] += 1
            self.range[shut] = (0.0, 1.0)

    def reach(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest value that the open affine map reaches without its clamp, each (rows,)."""
        coefficients = self.coefficients[rows, self.round[rows]]
        linear, constant = coefficients[..., :6], coefficients[..., 6]
        up, down = np.maximum(linear, 0.0).sum(2), np.minimum(linear, 0.0).sum(2)
        low, high = self.range[rows, 0, None], self.range[rows, 1, None]
        return (up * low + down * high + constant).min(1), (up * high + down * low + constant).max(1)

    def operate(self, code: int, rows: np.ndarray, value: np.ndarray) -> None:
        at = self.round[rows]
        self.operation[rows, at] = code
        self.value[rows, at] = value
        wild = rows[~self.tame[rows]]
        if len(wild):
            self._bound(code, wild)
        self.round[rows] += 1

    def _bound(self, code: int, rows: np.ndarray) -> None:
        """What an operation is given and leaves, where that may lie outside [0, 1]."""
        at = self.round[rows]
        if code in (GAMMA, POSTERIZE, EQUALIZE):  # not defined beyond [0, 1]; Kornia clamps what it is given here
            self.clamp[rows, at] |= _outside(*self.reach(rows))
        low, high = self.close(rows)
        if code == SOLARIZE:
            low, high = np.minimum(low, 1 - high), np.maximum(high, 1 - low)
        elif code != HUE:
            low, high = np.zeros_like(low), np.ones_like(high)
        self.range[rows] = np.stack([low, high], 1)

    def close(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest value after the open round's clamp, each (rows,)."""
        low, high = self.reach(rows)
        clamped = self.clamp[rows, self.round[rows]]
        return np.where(clamped, 0.0, low), np.where(clamped, 1.0, high)


def _outside(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return (low < -ROUNDING) | (high > 1 + ROUNDING)


def _mean_of(row: np.ndarray) -> np.ndarray:
    """The image mean of what rows of coefficients (n, 7) make: that of a x + b m + c is (a + b) m + c."""
    mean = row.copy()
    mean[:, 3:6] += mean[:, :3]
    mean[:, :3] = 0.0
    return mean


def _affine(name: str, open_: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    """The step after the map `open_` (rows, 3, 7), as one map of the same input."""

    def factor(key: str = "factor") -> np.ndarray:
        return values[key].astype(np.float64)[:, None, None]

    if name == "saturation_mean":
        return open_ * factor() + (1 - factor()) * (THIRDS @ open_)[:, None]
    if name == "contrast_mean":
        return open_ * factor() + (1 - factor()) * _mean_of(THIRDS @ open_)[:, None]
    if name == "grayscale":
        return np.repeat((LUMA @ open_)[:, None], 3, axis=1)
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
    raise PolicyError(f"no colour operation is called {name!r}")


def plan_rounds(
    colour: Colour,
    count: int,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
    bounded: bool | np.ndarray = True,
) -> Rounds:
    """Rounds of `count` samples; with `mean` and `std` (3,) the last round normalises, clamp included.

    `bounded`, for all or (n,) bool: the image is in [0, 1] to begin with; else every clamp is taken to bite.
    """
    known = np.broadcast_to(np.asarray(bounded, bool), (count,))
    if known.all() and mean is None and len(colour.steps) == 1 and colour.steps[0].name in OPERATIONS:
        return _nothing_to_fold(colour.steps[0], count)
    capacity = sum(4 if step.name == "jitter" else 1 for step in colour.steps) + 1
    planner = _Planner(count, capacity, known, known & ~unclamped(colour, count))
    for step in colour.steps:
        if step.name == "jitter":
            _add_jitter(planner, step)
            continue
        rows = np.flatnonzero(step.on)
        if not len(rows):
            continue
        planner.add(step.name, rows, {key: value[rows] for key, value in step.values.items()})
    return _finished(planner, mean, std)


def unclamped(colour: Colour, count: int) -> np.ndarray:
    """(n,) bool: samples that a step may lead out of [0, 1]."""
    found = np.zeros(count, bool)
    for step in colour.steps:
        if step.name in UNCLAMPED:
            found |= step.on
    return found


def _nothing_to_fold(step: ColourStep, count: int) -> Rounds:
    """One round of one operation that is not affine, without the planning."""
    code, key = OPERATIONS[step.name]
    never, on = np.zeros((count, 1), bool), step.on[:, None]
    value = step.values[key][:, None].astype(np.float64) if key else np.zeros((count, 1))
    coefficients = np.tile(IDENTITY, (count, 1, 1, 1))
    return Rounds(coefficients, never, np.zeros((1, 3)), np.ones((1, 3)), np.where(on, code, NOTHING), value, on)


def _add_jitter(planner: _Planner, step: ColourStep) -> None:
    """Brightness, contrast, saturation and hue in each sample's own order; a neutral value is left out."""
    rows = np.flatnonzero(step.on)
    order = step.values["order"][rows]
    factors = np.stack([step.values[name][rows] for name in JITTER], 1)
    alters = factors != (1, 1, 1, 0)
    for slot in range(4):
        kind = order[:, slot].astype(np.intp)
        value = np.take_along_axis(factors, kind[:, None], 1)[:, 0]
        altered = np.take_along_axis(alters, kind[:, None], 1)[:, 0]
        chosen = altered & (kind != 3)
        planner.add_clamped(rows[chosen], kind[chosen], value[chosen])
        chosen = altered & (kind == 3)
        if chosen.any():
            planner.operate(HUE, rows[chosen], value[chosen])


def _finished(planner: _Planner, mean: np.ndarray | None, std: np.ndarray | None) -> Rounds:
    """The planner's rounds with every sample's last one at the end, normalised there."""
    count = len(planner.round)
    everyone = np.arange(count)
    length = planner.round + 1
    if mean is None or std is None:  # the open round may be empty: then the one before is the last
        length = length - (~planner.affine[everyone, planner.round] & ~planner.clamp[everyone, planner.round])
    source = _alignment(length, planner.operation)
    total = source.shape[1]
    blank = source < 0
    source = np.where(blank, planner.coefficients.shape[1] - 1, source)

    alike = bool((source == source[:1]).all() and source[0, 0] == 0)

    def aligned(array: np.ndarray) -> np.ndarray:
        return array[:, :total] if alike else array[everyone[:, None], source]

    coefficients, clamp = aligned(planner.coefficients), aligned(planner.clamp)
    operation, affine = aligned(planner.operation), aligned(planner.affine)
    if blank.any():
        coefficients[blank] = IDENTITY
        for flags in (clamp, operation, affine):
            flags[blank] = 0
    low, high = np.zeros((total, 3)), np.ones((total, 3))
    if mean is not None and std is not None:
        coefficients[:, -1, :, 6] -= mean
        coefficients[:, -1] /= np.asarray(std)[:, None]
        low[-1], high[-1] = (0 - np.asarray(mean)) / std, (1 - np.asarray(mean)) / std
        affine[:, -1] = True
    active = affine | clamp | (operation != NOTHING)
    return Rounds(coefficients, clamp, low, high, operation, aligned(planner.value), active)


def _alignment(length: np.ndarray, operation: np.ndarray) -> np.ndarray:
    """(n, R): which of a sample's rounds is its r-th, -1 for none. The last ones coincide, and so do the first hues."""
    turned = operation == HUE
    has_hue = turned.any(1)
    head = np.where(has_hue, turned.argmax(1) + 1, 0)
    early = int(head.max(initial=0))
    total = max(early + int((length - head)[has_hue].max(initial=0)), int(length.max(initial=0)), 1)
    slot = np.arange(total)
    from_end = slot - (total - length)[:, None]
    source = np.where(slot < early, slot - (early - head)[:, None], np.where(from_end >= head[:, None], from_end, -1))
    return np.where(has_hue[:, None], np.maximum(source, -1), np.maximum(from_end, -1))
