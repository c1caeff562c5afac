"""The parameters of a curriculum, as a plain frozen dataclass. No torch: parameter files need it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from augment.values import require_values
from distill.errors import DistillError

#: What the published code does and its paper does not say. `raw_start`: real images are taken for normalised ones, as a start and as
#: what the result is held to. `label_0`: among what is hard for both networks, answers are compared with class 0 whatever the class.
#: `constant`: an image that the teacher fails adds -log(1 - 1/C) to the loss, without a gradient.
Defect = Literal["raw_start", "label_0", "constant"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """The settings of what a curriculum adds to recovery (CUDD, Ma et al. 2025).

    `adversary` weighs the term that makes the student of the curricula before wrong, whose targets are smoothed by `epsilon`; `anchor`
    weighs the mean squared distance to the real images that recovery starts from. `defects` of the published code are all of them with
    `recover.mode: reference`, unless some are named, and none with `improved`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    adversary: float = 1.0
    anchor: float = 1.0
    epsilon: float = 0.0
    defects: tuple[Defect, ...] | None = None

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        for name in ("adversary", "anchor"):
            if getattr(self, name) < 0:
                raise DistillError(f"{name} takes a number from 0 on, got {getattr(self, name)}")
        if not 0 <= self.epsilon < 1:
            raise DistillError(f"epsilon takes 0 <= value < 1, got {self.epsilon}")

    def defects_of(self, mode: str) -> frozenset[Defect]:
        """Return the defects of the published code that hold in a mode of recovery."""
        if self.defects is not None:
            return frozenset(self.defects)
        return frozenset(DEFECTS if mode == "reference" else ())
