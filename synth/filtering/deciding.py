"""Decides from scores and thresholds which images stay: in the order of generation, equal values to the earlier image."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from augment.values import require_values
from synth.errors import SynthError
from synth.filtering.columns import Scores

Reason = Literal[
    "not_finite",
    "blank",
    "saturated",
    "off_prompt",
    "teacher_disagrees",
    "memorised",
    "near_duplicate",
    "outranked",
]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Bounds that an image must meet; None is a filter that is off. A value at its bound passes; NaN never does.

    Judged in this order, an image's first failure is its reason: `max_non_finite` (`not_finite`), `min_spread` (`blank`),
    `max_saturated` (`saturated`), `min_clip_cosine` and `min_clip_margin` (`off_prompt`), `min_teacher_confidence`,
    `max_teacher_entropy` and `teacher_agrees` (`teacher_disagrees`), `max_train_cosine` and `min_train_rmse` (`memorised`),
    `max_twin_cosine` to any earlier *kept* image of its class (`near_duplicate`). Last, `keep_share` in (0, 1] of the images that
    were generated of each class, one at least, by falling `clip_margin`: the others are `outranked`.
    """

    max_non_finite: float | None = 0.0
    min_spread: float | None = None
    max_saturated: float | None = None
    min_clip_cosine: float | None = None
    min_clip_margin: float | None = None
    min_teacher_confidence: float | None = None
    max_teacher_entropy: float | None = None
    teacher_agrees: bool | None = None
    max_train_cosine: float | None = None
    min_train_rmse: float | None = None
    max_twin_cosine: float | None = None
    keep_share: float | None = None

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise SynthError(f"keep_share takes a number above 0 up to 1, got {self.keep_share}")


# threshold, its column, reason; judged in this order, image by image. The name says which end is bounded.
_FILTERS: tuple[tuple[str, str, Reason], ...] = (
    ("max_non_finite", "non_finite", "not_finite"),
    ("min_spread", "spread", "blank"),
    ("max_saturated", "saturated", "saturated"),
    ("min_clip_cosine", "clip_cosine", "off_prompt"),
    ("min_clip_margin", "clip_margin", "off_prompt"),
    ("min_teacher_confidence", "teacher_confidence", "teacher_disagrees"),
    ("max_teacher_entropy", "teacher_entropy", "teacher_disagrees"),
    ("teacher_agrees", "teacher_label", "teacher_disagrees"),
    ("max_train_cosine", "train_cosine", "memorised"),
    ("min_train_rmse", "train_rmse", "memorised"),
)


def decide(scores: Scores, thresholds: Thresholds) -> list[Reason | None]:
    """Judge every image: None where it stays, else the reason; SynthError where a threshold's column was not measured."""
    reasons: list[Reason | None] = [None] * len(scores.label)
    for name, column, reason in _FILTERS:
        bound = getattr(thresholds, name)
        if bound is None or bound is False:
            continue
        for row, value in enumerate(scores.measured(column, name)):
            if reasons[row] is None and not _passes(name, bound, value, scores.label[row]):
                reasons[row] = reason
    if thresholds.max_twin_cosine is not None:
        _drop_twins(scores, thresholds.max_twin_cosine, reasons)
    if thresholds.keep_share is not None:
        _drop_outranked(scores, thresholds.keep_share, reasons)
    return reasons


def _passes(name: str, bound: float, value: float, label: int) -> bool:
    """Say whether a value meets its bound; NaN meets none, whichever end is bounded."""
    if name == "teacher_agrees":
        return value == label
    return value >= bound if name.startswith("min_") else bound >= value


def _drop_twins(scores: Scores, bound: float, reasons: list[Reason | None]) -> None:
    """Write `near_duplicate` into `reasons`, greedily in order: an image whose twin was dropped, for whatever reason, may stay."""
    floors, nearest, indices, cosines = (
        scores.measured(name, "max_twin_cosine")
        for name in ("twin_floor", "earlier_cosine", "twin_index", "twin_cosine")
    )
    if len(floors) and bound < max(floors):
        raise SynthError(
            f"max_twin_cosine is {bound}, but only pairs from {max(floors)} were stored: score with a lower floor"
        )
    for row, (near, others, values) in enumerate(zip(nearest, indices, cosines, strict=True)):
        close = any(value > bound and reasons[other] is None for other, value in zip(others, values, strict=True))
        if reasons[row] is None and (close or math.isnan(near)):
            reasons[row] = "near_duplicate"


def _drop_outranked(scores: Scores, share: float, reasons: list[Reason | None]) -> None:
    """Write `outranked` into `reasons` for all but the best `share` of each class by `clip_margin`."""
    margins = scores.measured("clip_margin", "keep_share")
    classes: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(scores.label):
        classes[label].append(row)
    for rows in classes.values():
        places = max(1, math.floor(share * len(rows) + 1e-9))  # 0.29 of 100 is 29
        ranked = sorted(
            (row for row in rows if reasons[row] is None and margins[row] == margins[row]),
            key=lambda row: (-margins[row], row),
        )
        best = set(ranked[:places])
        for row in rows:
            if reasons[row] is None and row not in best:
                reasons[row] = "outranked"
