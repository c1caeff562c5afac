"""One student of `evaluate@discl`: what it is given, what it may choose among, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from distill.config import TrainConfig
from pipelines.evaluation.discl.arms import ArmName
from pipelines.runtime.typed import Payload
from synth.discl.groups import GROUPS, Group
from synth.discl.schedules import Strategy


@dataclass(frozen=True)
class Candidate:
    """What a student may be trained, or adjusted, with; None is what has no part in its arm."""

    strategy: Strategy | None = None
    min_text_cosine: float | None = None
    prior: str | None = None
    tau: float | None = None

    @property
    def named(self) -> dict[str, Any]:
        """Those that have a part, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Recipe:
    """What decides a training beside its images; None for what has no part in its arm."""

    network: str
    training: TrainConfig
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    downsample: float
    curriculum: float | None = None
    held_out: int | None = None
    repeat: float | None = None
    retrain: float | None = None
    strong: Any = None

    @property
    def retrained(self) -> int:
        """The epochs of cRT that train the classifier alone: one at least, and one is left for the features."""
        epochs = self.training.epochs
        return 0 if self.retrain is None else min(epochs - 1, max(1, round(self.retrain * epochs)))


@dataclass(frozen=True)
class TrainStudent(Payload):
    """Train a student with each of `candidates`, and test the one that is best on validation images.

    `profile` is the digest of the long tail, `synthetic` those of the images by candidate (None without), `inputs` of train where an arm
    sees all of it, and of the held-out sets.
    """

    kind: ClassVar[str] = "student"

    arm: ArmName
    seed: int
    recipe: Recipe
    candidates: tuple[Candidate, ...]
    profile: str
    synthetic: tuple[str | None, ...]
    inputs: dict[str, str]


@dataclass(frozen=True)
class Student:
    """What one unit came to. `right` and `of` count test images by class; `validation` has the accuracy of each candidate.

    `steps` are those of one training; `real` counts the real images that it was shown and `levels` the synthetic ones by level, repeated
    ones as often as they were; `synthetic` how many of these there are.
    """

    arm: ArmName
    seed: int
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    validation: tuple[float, ...]
    right: tuple[int, ...]
    of: tuple[int, ...]
    steps: int
    real: int
    levels: Mapping[str, int] = field(default_factory=dict)
    synthetic: int = 0

    @classmethod
    def read(cls, summary: Mapping[str, Any]) -> Student:
        """Read back from a marker."""
        parts = {
            "chosen": Candidate(**summary["chosen"]),
            "candidates": tuple(Candidate(**one) for one in summary["candidates"]),
        }
        lists = {name: tuple(summary[name]) for name in ("validation", "right", "of")}
        return cls(**{**summary, **parts, **lists})

    def accuracy(self, groups: Sequence[Group]) -> dict[str, float]:
        """The share of right test images in each group of classes that has some, and in `all`."""
        counts = {
            group: [
                sum(values[label] for label, own in enumerate(groups) if own == group)
                for values in (self.right, self.of)
            ]
            for group in GROUPS
        }
        shares: dict[str, float] = {group: right / of for group, (right, of) in counts.items() if of}
        return {**shares, "all": sum(self.right) / sum(self.of)}
