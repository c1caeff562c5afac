"""One classifier of DataDream's table: which images it is trained on, what it is given, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipelines.runtime.typed import Payload


@dataclass(frozen=True)
class Arm:
    """Which images a classifier is trained on: `real`, `synthetic`, `pooled` (both), `full`, none; and of which variant."""

    images: str
    variant: str = ""

    @property
    def name(self) -> str:
        """As the table has it: `real`, `synthetic_cls`, `pooled_zero_shot`."""
        return f"{self.images}_{self.variant}" if self.variant else self.images


@dataclass(frozen=True)
class Classify(Payload):
    """Train and test one classifier.

    `real` and `synthetic` are digests of its images, None where it sees none; `keys` are those of few-shot reals. `at_most` bounds the
    synthetic images of a class, `steps` the training (None counts the recipe's epochs). `inputs` are digests of the held-out sets.
    """

    kind: ClassVar[str] = "classifier"

    arm: Arm
    shots: int
    seed: int
    few_shot_seed: int | None
    classifier: Literal["clip", "student"]
    recipe: dict[str, Any]
    steps: int | None
    at_most: int | None
    real: str | None
    keys: tuple[str, ...]
    synthetic: str | None
    inputs: dict[str, str]


@dataclass(frozen=True)
class Training:
    """How a classifier was trained and how good it is: accuracies are fractions, of a class without test images None.

    `val` selected the epoch where one was; `test` was looked at once.
    """

    steps: int
    epochs: int
    best_epoch: int
    val: float
    test: float
    per_class: tuple[float | None, ...]


@dataclass(frozen=True)
class Classifier:
    """What one unit came to. `kind` is `clip` or `student`; shots are 0 where no real image is seen.

    `real` and `synthetic` count images, `fewest_synthetic` those of the class that has the fewest; bytes are as stored.
    """

    arm: Arm
    kind: str
    shots: int
    seed: int
    few_shot_seed: int | None
    training: Training
    real: int = 0
    synthetic: int = 0
    real_bytes: int = 0
    synthetic_bytes: int = 0
    fewest_synthetic: int = 0

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Classifier:
        """Read back from a marker."""
        parts = {"arm": Arm(**summary["arm"]), "training": Training(**summary["training"])}
        return cls(**{**summary, **parts})
