"""Scores of images as plain columns: numbers, and for near-duplicates lists of numbers, that any table holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from synth.errors import SynthError

Column = list[float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of generated images, a row each in the order of generation; None where a column was not measured.

    * `label`: the class that the image was made for.
    * `non_finite`, share of values that are NaN or infinite; `spread`, the largest channel's standard deviation in [0, 0.5];
      `saturated`, share of pixels whose every channel is 0 or 255.
    * `clip_cosine` of the image to its class's prompt in [-1, 1]; `clip_margin`, that less the best other class's.
    * `teacher_confidence`, the teacher's probability of `label`; `teacher_entropy` in nats; `teacher_label`, its first choice.
    * `train_cosine` to the nearest training image, in [-1, 1], and `train_index`, which that is; `train_rmse`, their pixels' root
    mean square difference in [0, 1].
    * `earlier_cosine` to the nearest earlier image of the class (-1 for the first). `twin_index` and `twin_cosine` list all earlier
      images of the class at `twin_floor` or nearer (one number for all rows), for which of them is kept depends on thresholds.

    What networks say of an image that is not finite is NaN (`teacher_label` -1). `twin_index` counts rows of these scores.
    """

    label: list[int]
    non_finite: Column | None = None
    spread: Column | None = None
    saturated: Column | None = None
    clip_cosine: Column | None = None
    clip_margin: Column | None = None
    teacher_confidence: Column | None = None
    teacher_entropy: Column | None = None
    teacher_label: list[int] | None = None
    train_cosine: Column | None = None
    train_index: list[int] | None = None
    train_rmse: Column | None = None
    earlier_cosine: Column | None = None
    twin_index: list[list[int]] | None = None
    twin_cosine: list[Column] | None = None
    twin_floor: Column | None = None

    def __post_init__(self) -> None:
        for name, column in self.columns().items():
            if len(column) != len(self.label):
                raise SynthError(f"column {name} has {len(column)} rows for {len(self.label)} images")

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns that were measured, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    @classmethod
    def of(cls, columns: Mapping[str, Iterable[Any]]) -> Scores:
        """Read scores from what `columns` gave, or from a table that has other columns too; SynthError without `label`."""
        if "label" not in columns:
            raise SynthError("scores need the column label, the class that each image was made for")
        return cls(**{field.name: list(columns[field.name]) for field in fields(cls) if field.name in columns})

    def measured(self, name: str, threshold: str) -> Sequence[Any]:
        """Return the column `name`; SynthError, naming `threshold`, where it was not measured."""
        column = getattr(self, name)
        if column is None:
            raise SynthError(
                f"threshold {threshold} needs the column {name}, which was not measured: score it or set None"
            )
        return column
