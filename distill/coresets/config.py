"""The parameters of coresets, as plain frozen dataclasses. No torch: parameter files need them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from augment.values import require_values
from distill.errors import DistillError


@dataclass(frozen=True, kw_only=True)
class MedoidsConfig:
    """The settings of nested k-means medoids. Those of each of `levels`, images per class, are medoids of their own clusters."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    levels: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        if any(level < 1 for level in self.levels):
            raise DistillError(f"levels take images per class from 1 on, got {list(self.levels)}")


@dataclass(frozen=True, kw_only=True)
class RdedConfig:
    """The settings of RDED (Sun et al. 2024), as published but for `factor`, which is 2 there at 224 px.

    Of `images` random real images of a class `crops` random squares each are scored, with an area in `scale` of the image's. A stored
    image has `factor` x `factor` of them.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    images: int = 300
    crops: int = 5
    scale: tuple[float, float] = (0.08, 1.0)
    factor: int = 1

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        for name in ("images", "crops", "factor"):
            if getattr(self, name) < 1:
                raise DistillError(f"{name} takes 1 or more, got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise DistillError(f"scale takes 0 < low <= high <= 1, got {self.scale}")
