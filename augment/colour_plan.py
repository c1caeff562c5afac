"""The colour plan of a batch: the pointwise steps of a drawn program, folded into as few entries as is exact. No pixels here.

A plan is a list of entries for each sample. An entry is an affine map, a clamp and one operation that is not affine, in that
order, each of which may be left out: y = operation(clamp(A x + M m + c)), for the colour x of a pixel and the means m of the
image's three channels. Consecutive affine steps share an entry as long as no clamp between them can bite: that is decided
from the coefficients, by the interval that they reach from the interval of their input. Means are affine themselves, so a
contrast inside an entry needs the means of the entry's input only.

Worked example: brightness 0.5, contrast 0.5, hue a quarter of the circle, invert. Neither clamp can bite, so the first two are one
map: x is halved, and halved again towards the mean luma of what brightness left, which is half of (0.299, 0.587, 0.114) m. The
hue ends that entry, and 1 - x is the second. Brightness 1.5 could pass 1, so its clamp stays and contrast starts an entry.

>>> from augment.draws import draw, program
>>> from augment.policy import load
>>> def planned(brightness):
...     policy = load([{"brightness": {"factor": brightness}}, {"contrast": {"factor": 0.5}}, {"hue": {"turns": 0.25}}, "invert"])
...     return plan_colour(program(draw(policy, ["some key"], (8, 8)))[0], 1)
>>> plan = planned(0.5)
>>> (plan.coefficients[0, :, 0] + 0).round(5).tolist()  # of red: A, M and c
[[0.25, 0.0, 0.0, 0.07475, 0.14675, 0.0285, 0.0], [-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]
>>> plan.clamp.tolist(), plan.operation.tolist(), plan.value.tolist()
([[False, False]], [[1, 0]], [[0.25, 0.0]])
>>> planned(1.5).clamp.tolist()
[[True, False, False]]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from augment.errors import PolicyError
from augment.program import Colour, ColourStep

NOTHING, HUE, GAMMA, SOLARIZE, POSTERIZE, AUTOCONTRAST, EQUALIZE = range(7)
#: Operations that are not affine: their code in a plan, and the name of their value, None for those without.
OPERATIONS = {
    "hue": (HUE, "turns"),
    "gamma": (GAMMA, "gamma"),
    "solarize": (SOLARIZE, "threshold"),
    "posterize": (POSTERIZE, "bits"),
    "autocontrast": (AUTOCONTRAST, None),
    "equalize": (EQUALIZE, None),
}
JITTER = ("brightness", "contrast", "saturation", "hue")
CLAMPED = JITTER[:3]  # affine, and clamped to [0, 1] afterwards
UNCLAMPED = ("brightness_shift", "saturation_mean", "contrast_mean")  # affine, and may leave [0, 1]
COMMUTES_WITH_CLAMP = ("invert", "channel_shuffle")

LUMA = np.array([0.299, 0.587, 0.114])
THIRDS = np.full(3, 1 / 3)
UNBOUNDED = (-1e3, 1e3)  # the interval of an image that nobody vouches for
ROUNDING = 1e-6
IDENTITY = np.eye(3, 7)

Values = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class ColourPlan:
    """What each of n samples goes through, in R entries, aligned so that first hues share an entry and last entries are last.

    `coefficients` (n, R, 3, 7) float64 holds A, M and c side by side. `clamp` (n, R) bool: there is a clamp, which can bite, and
    `low`, `high` (R, 3) float64 are its bounds by channel: 0 and 1, or what they become where the entry normalises.
    `operation` (n, R) int8 is a code, NOTHING for none, with its `value` (n, R) float64. `active` (n, R) bool is False where the
    entry does nothing.
    """

    coefficients: np.ndarray
    clamp: np.ndarray
    low: np.ndarray
    high: np.ndarray
    operation: np.ndarray
    value: np.ndarray
    active: np.ndarray

    def take(self, where: np.ndarray) -> ColourPlan:
        """Select the samples at places `where`; returns a new plan."""
        bounds = (self.clamp[where], self.low, self.high)
        return ColourPlan(
            self.coefficients[where], *bounds, self.operation[where], self.value[where], self.active[where]
        )


class _PlanBuilder:
    """The plan so far, with one open entry a sample, `entry` (n,), to which steps are added.

    `interval` (n, 2) is what the input of the open entry lies in. `stays_inside` (n,): no step leads out of [0, 1] unclamped,
    so that an operation need not ask what it is given.
    """

    def __init__(self, count: int, capacity: int, bounded: np.ndarray, stays_inside: np.ndarray) -> None:
        self.stays_inside = stays_inside
        self.coefficients = np.empty((count, capacity, 3, 7))
        self.coefficients[:] = IDENTITY
        self.affine = np.zeros((count, capacity), bool)
        self.clamp = np.zeros((count, capacity), bool)
        self.operation = np.zeros((count, capacity), np.int8)
        self.value = np.zeros((count, capacity))
        self.entry = np.zeros(count, np.intp)
        self.interval = np.empty((count, 2))
        self.interval[:] = np.where(bounded[:, None], (0.0, 1.0), UNBOUNDED)

    def add(self, name: str, rows: np.ndarray, values: Values) -> None:
        """Add one step to the samples `rows`, with their own values."""
        if name in CLAMPED:
            self.add_clamped(rows, np.full(len(rows), JITTER.index(name)), values["factor"])
        elif name in OPERATIONS:
            code, key = OPERATIONS[name]
            self.add_operation(code, rows, values[key] if key else np.zeros(len(rows)))
        else:
            self._add_affine(name, rows, values)

    def add_clamped(self, rows: np.ndarray, kind: np.ndarray, factor: np.ndarray) -> None:
        """Add brightness, contrast or saturation to the samples `rows`: each its own `kind`, an index into JITTER."""
        self._open_behind_clamps(rows)
        at = self.entry[rows]
        before = self.coefficients[rows, at]
        scale = factor.astype(np.float64)[:, None, None]
        anchor = LUMA @ before  # gray, from which saturation moves away; contrast from its mean, brightness from black
        anchor[kind == 1] = _mean_of(anchor[kind == 1])
        anchor[kind == 0] = 0.0
        self.coefficients[rows, at] = before * scale + (1 - scale) * anchor[:, None]
        self.affine[rows, at] = True
        self.clamp[rows, at] = _outside(*self._reach(rows))

    def _add_affine(self, name: str, rows: np.ndarray, values: Values) -> None:
        """Fold a map that is not clamped into the open entry."""
        if name not in AFFINE_MAPS:
            raise PolicyError(f"no colour operation is called {name!r}")
        if name not in COMMUTES_WITH_CLAMP:
            self._open_behind_clamps(rows)
        at = self.entry[rows]
        self.coefficients[rows, at] = AFFINE_MAPS[name](self.coefficients[rows, at], values)
        self.affine[rows, at] = True

    def add_operation(self, code: int, rows: np.ndarray, value: np.ndarray) -> None:
        """End the open entry of the samples `rows` with an operation that is not affine."""
        at = self.entry[rows]
        self.operation[rows, at] = code
        self.value[rows, at] = value
        strays = rows[~self.stays_inside[rows]]
        if len(strays):
            self._bound_operation(code, strays)
        self.entry[rows] += 1

    def _open_behind_clamps(self, rows: np.ndarray) -> None:
        """Open an entry where the open one ends in a clamp that can bite: no further map may be folded into it."""
        clamped = rows[self.clamp[rows, self.entry[rows]]]
        if len(clamped):
            self.entry[clamped] += 1
            self.interval[clamped] = (0.0, 1.0)

    def _reach(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest value that the open affine map reaches without its clamp, each (rows,)."""
        coefficients = self.coefficients[rows, self.entry[rows]]
        linear, constant = coefficients[..., :6], coefficients[..., 6]
        up, down = np.maximum(linear, 0.0).sum(2), np.minimum(linear, 0.0).sum(2)
        low, high = self.interval[rows, 0, None], self.interval[rows, 1, None]
        return (up * low + down * high + constant).min(1), (up * high + down * low + constant).max(1)

    def _bound_operation(self, code: int, rows: np.ndarray) -> None:
        """Bound what an operation is given and what it leaves, where that may lie outside [0, 1]."""
        at = self.entry[rows]
        if code in (GAMMA, POSTERIZE, EQUALIZE):  # not defined beyond [0, 1]; Kornia clamps what it is given here
            self.clamp[rows, at] |= _outside(*self._reach(rows))
        low, high = self._reach(rows)
        clamped = self.clamp[rows, at]
        low, high = np.where(clamped, 0.0, low), np.where(clamped, 1.0, high)
        if code == SOLARIZE:
            low, high = np.minimum(low, 1 - high), np.maximum(high, 1 - low)
        elif code != HUE:
            low, high = np.zeros_like(low), np.ones_like(high)
        self.interval[rows] = np.stack([low, high], 1)

    def lengths(self, normalised: bool) -> np.ndarray:
        """(n,) how many entries each sample has: an open one that holds nothing is none, unless it is to normalise."""
        if normalised:
            return self.entry + 1
        everyone = np.arange(len(self.entry))
        empty = ~self.affine[everyone, self.entry] & ~self.clamp[everyone, self.entry]
        return self.entry + 1 - empty


def _outside(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(n,) bool where an interval leaves [0, 1] by more than a rounding."""
    return (low < -ROUNDING) | (high > 1 + ROUNDING)


def _mean_of(row: np.ndarray) -> np.ndarray:
    """Give the image mean of what rows of coefficients (n, 7) compute: that of a x + b m + c is (a + b) m + c."""
    mean = row.copy()
    mean[:, 3:6] += mean[:, :3]
    mean[:, :3] = 0.0
    return mean


def _column(values: np.ndarray) -> np.ndarray:
    """A value a sample as (n, 1, 1) float64, to go with its coefficients."""
    return values.astype(np.float64)[:, None, None]


def _saturation_mean(before: np.ndarray, values: Values) -> np.ndarray:
    """Move away from the mean of a pixel's channels."""
    factor = _column(values["factor"])
    return before * factor + (1 - factor) * (THIRDS @ before)[:, None]


def _contrast_mean(before: np.ndarray, values: Values) -> np.ndarray:
    """Move away from the mean of the image."""
    factor = _column(values["factor"])
    return before * factor + (1 - factor) * _mean_of(THIRDS @ before)[:, None]


def _grayscale(before: np.ndarray, values: Values) -> np.ndarray:
    """Put luma into all channels."""
    return np.repeat((LUMA @ before)[:, None], 3, axis=1)


def _channel_shuffle(before: np.ndarray, values: Values) -> np.ndarray:
    """Let each channel be another's."""
    return np.take_along_axis(before, values["order"].astype(np.intp)[:, :, None], axis=1)


def _invert(before: np.ndarray, values: Values) -> np.ndarray:
    """Take from 1."""
    inverted = -before
    inverted[..., 6] += 1.0
    return inverted


def _brightness_shift(before: np.ndarray, values: Values) -> np.ndarray:
    """Add a shift."""
    shifted = before.copy()
    shifted[..., 6] += _column(values["shift"])[:, :, 0]
    return shifted


#: Steps that are affine and not clamped: from the map (n, 3, 7) before them and their values to one map of the same input.
AFFINE_MAPS: dict[str, Callable[[np.ndarray, Values], np.ndarray]] = {
    "saturation_mean": _saturation_mean,
    "contrast_mean": _contrast_mean,
    "grayscale": _grayscale,
    "channel_shuffle": _channel_shuffle,
    "invert": _invert,
    "brightness_shift": _brightness_shift,
}


def plan_colour(
    colour: Colour,
    count: int,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
    bounded: bool | np.ndarray = True,
) -> ColourPlan:
    """Plan the colours of `count` samples; with `mean` and `std` (3,) the last entry normalises, clamp included.

    `bounded`, for all or (n,) bool: the image is in [0, 1] to begin with; else every clamp is taken to bite.
    """
    inside = np.broadcast_to(np.asarray(bounded, bool), (count,))
    if inside.all() and mean is None and len(colour.steps) == 1 and colour.steps[0].name in OPERATIONS:
        return _plan_of_one_operation(colour.steps[0], count)
    capacity = sum(4 if step.name == "jitter" else 1 for step in colour.steps) + 1
    builder = _PlanBuilder(count, capacity, inside, inside & ~unclamped_samples(colour, count))
    for step in colour.steps:
        if step.name == "jitter":
            _add_jitter(builder, step)
            continue
        rows = np.flatnonzero(step.on)
        if not len(rows):
            continue
        builder.add(step.name, rows, {key: value[rows] for key, value in step.values.items()})
    return _finish(builder, mean, std)


def unclamped_samples(colour: Colour, count: int) -> np.ndarray:
    """(n,) bool: samples that a step may lead out of [0, 1]."""
    leaves = np.zeros(count, bool)
    for step in colour.steps:
        if step.name in UNCLAMPED:
            leaves |= step.on
    return leaves


def _plan_of_one_operation(step: ColourStep, count: int) -> ColourPlan:
    """Plan one operation that is not affine, where there is nothing to fold."""
    code, key = OPERATIONS[step.name]
    never, on = np.zeros((count, 1), bool), step.on[:, None]
    value = step.values[key][:, None].astype(np.float64) if key else np.zeros((count, 1))
    coefficients = np.tile(IDENTITY, (count, 1, 1, 1))
    operation = np.where(on, code, NOTHING)
    return ColourPlan(coefficients, never, np.zeros((1, 3)), np.ones((1, 3)), operation, value, on)


def _add_jitter(builder: _PlanBuilder, step: ColourStep) -> None:
    """Add brightness, contrast, saturation and hue in each sample's own order; a neutral value is left out."""
    rows = np.flatnonzero(step.on)
    order = step.values["order"][rows]
    factors = np.stack([step.values[name][rows] for name in JITTER], 1)
    alters = factors != (1, 1, 1, 0)
    for slot in range(4):
        kind = order[:, slot].astype(np.intp)
        value = np.take_along_axis(factors, kind[:, None], 1)[:, 0]
        altered = np.take_along_axis(alters, kind[:, None], 1)[:, 0]
        chosen = altered & (kind != 3)
        builder.add_clamped(rows[chosen], kind[chosen], value[chosen])
        chosen = altered & (kind == 3)
        if chosen.any():
            builder.add_operation(HUE, rows[chosen], value[chosen])


def _finish(builder: _PlanBuilder, mean: np.ndarray | None, std: np.ndarray | None) -> ColourPlan:
    """Align the entries of a builder, and normalise in the last."""
    count, capacity = builder.affine.shape
    entries = _aligned_entries(builder.lengths(mean is not None and std is not None), builder.operation)
    total = entries.shape[1]
    blank = entries < 0
    entries = np.where(blank, capacity - 1, entries)
    in_place = bool((entries == entries[:1]).all() and entries[0, 0] == 0)  # as they are, and the same for all

    def aligned(array: np.ndarray) -> np.ndarray:
        """An array of the builder's (n, capacity, ...) in slots."""
        return array[:, :total] if in_place else array[np.arange(count)[:, None], entries]

    coefficients, clamp = aligned(builder.coefficients), aligned(builder.clamp)
    operation, affine = aligned(builder.operation), aligned(builder.affine)
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
    return ColourPlan(coefficients, clamp, low, high, operation, aligned(builder.value), active)


def _aligned_entries(lengths: np.ndarray, operation: np.ndarray) -> np.ndarray:
    """(n, R) which entry of a sample stands in each slot, -1 for none, so that a batch computes its first hues in one slot.

    The entries up to a sample's first hue end in the slot of the hue, all others in the last slot. Of two samples, one with a hue
    in the first of its three entries, one with a single entry and no hue, the rows are 0 1 2 and -1 -1 0.
    """
    is_hue = operation == HUE
    has_hue = is_hue.any(1)
    until_hue = np.where(has_hue, is_hue.argmax(1) + 1, 0)
    hue_slots = int(until_hue.max(initial=0))
    behind_hue = int((lengths - until_hue)[has_hue].max(initial=0))
    total = max(hue_slots + behind_hue, int(lengths.max(initial=0)), 1)
    slot = np.arange(total)
    ends_at_hue = slot - (hue_slots - until_hue)[:, None]
    ends_last = slot - (total - lengths)[:, None]
    with_hue = np.where(slot < hue_slots, ends_at_hue, np.where(ends_last >= until_hue[:, None], ends_last, -1))
    return np.maximum(np.where(has_hue[:, None], with_hue, ends_last), -1)
