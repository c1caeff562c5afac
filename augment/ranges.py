"""Ranges: what a value of a policy may be, a number, a range, a signed size, or one of these that moves with training progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from augment.errors import PolicyError

Shape = Literal["linear", "cosine", "step"]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers drawn uniformly from [low, high], in the unit of the setting.

    `signed`: what is drawn is a distance from `centre`, and its side is tossed (RandAugment: Cubuk et al. 2020).
    """

    low: float
    high: float
    signed: bool = False
    centre: float = 0.0

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """Turn uniform numbers (n,) float64 in [0, 1) into values (n,) float32. The side uses the first bit of the same number."""
        if self.low == self.high and not self.signed:
            return np.full(len(uniform), self.low, np.float32)
        if not self.signed:
            return (self.low + (self.high - self.low) * uniform).astype(np.float32)
        doubled = uniform * 2
        size = self.low + (self.high - self.low) * (doubled % 1)
        return np.where(doubled < 1, self.centre - size, self.centre + size).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A range that moves from `start` to `end` while progress goes from 0 to `until`, and stays there.

    `cosine` is CDA's curriculum of crops (Yin and Shen 2024): end + (start - end)(1 + cos(pi t)) / 2 after a share t of `until`.
    `linear` is EfficientTrain's growth of magnitude (Wang et al. 2023), `step` jumps at `until`.
    """

    start: Range
    end: Range
    shape: Shape = "linear"
    until: float = 1.0

    def at(self, progress: float) -> Range:
        """The range at `progress` in [0, 1]."""
        done = min(max(progress / self.until, 0.0), 1.0)
        share = {"linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2, "step": float(done >= 1)}[self.shape]
        return Range(
            self.start.low + (self.end.low - self.start.low) * share,
            self.start.high + (self.end.high - self.start.high) * share,
            self.start.signed,
            self.start.centre,
        )


Value = Range | Schedule


def at(value: Value, progress: float) -> Range:
    """The range of a value at `progress` in [0, 1]."""
    return value.at(progress) if isinstance(value, Schedule) else value


def read(where: str, value: Any, low: float, high: float) -> Value:
    """Read a value as params.yaml writes it.

    `0.5`, `[0.1, 2]`, `{signed: 9}` for -9 or 9, `{around: 0.2}` for 0.8 or 1.2, `{start: .., end: .., shape: .., until: ..}`.

    Every bound must lie in [low, high]; a `PolicyError` names `where`.
    """
    if isinstance(value, (Range, Schedule)):
        for part in (value,) if isinstance(value, Range) else (value.start, value.end):
            _within(where, part, low, high)
        return value
    if isinstance(value, Mapping):
        return _read_mapping(where, dict(value), low, high)
    if _is_number(value):
        bounds = (value, value)
    elif isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(bound) for bound in value):
        bounds = (value[0], value[1])
    else:
        raise PolicyError(
            f"{where} takes a number, [low, high], {{signed: size}} or {{start: .., end: ..}}, got {value!r}"
        )
    return _within(where, Range(float(bounds[0]), float(bounds[1])), low, high)


def _read_mapping(where: str, value: dict[str, Any], low: float, high: float) -> Value:
    """Read the forms of a value that are mappings."""
    for word, centre in (("signed", 0.0), ("around", 1.0)):
        if value.keys() == {word}:
            size = read(f"{where}.{word}", value[word], 0.0, math.inf)
            assert isinstance(size, Range)
            return _within(where, Range(size.low, size.high, signed=True, centre=centre), low, high)
    unknown = value.keys() - {"start", "end", "shape", "until"}
    if unknown or not {"start", "end"} <= value.keys():
        raise PolicyError(
            f"{where} takes {{signed: ..}}, {{around: ..}} or {{start: .., end: .., shape: .., until: ..}}, got {value!r}"
        )
    start, end = (read(f"{where}.{name}", value[name], low, high) for name in ("start", "end"))
    shape, until = value.get("shape", "linear"), value.get("until", 1.0)
    if (
        not isinstance(start, Range)
        or not isinstance(end, Range)
        or (start.signed, start.centre) != (end.signed, end.centre)
    ):
        raise PolicyError(f"{where}: start and end take ranges of one kind, got {value!r}")
    if shape not in ("linear", "cosine", "step"):
        raise PolicyError(f"{where}.shape takes linear | cosine | step, got {shape!r}")
    if not _is_number(until) or not 0 < until <= 1:
        raise PolicyError(f"{where}.until takes a share of training above 0 and up to 1, got {until!r}")
    return Schedule(start, end, shape, float(until))


def _within(where: str, value: Range, low: float, high: float) -> Range:
    """Refuse a range that is upside down or leaves [low, high]."""
    first = value.centre - value.high if value.signed else value.low
    last = value.centre + value.high if value.signed else value.high
    if not (low <= first and value.low <= value.high and last <= high):
        words = f"{low:g} <= low <= high" + (f" <= {high:g}" if math.isfinite(high) else "")
        raise PolicyError(f"{where} takes {words}, got [{first:g}, {last:g}]")
    return value


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no switch."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
