"""Parameters of `split`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipelines.config import PLAN_ONLY, Section


class SplitParams(Section):
    """Parameters of `split`.

    `strategy`: `source` keeps the split that the source states and draws val from train where there is none; `random` draws val and
    test from all images, whatever the source states; `auto` is `source`, and draws test from train too where the source has none.

    `shard_samples` is how many samples a shard holds at the most.
    """

    effect = PLAN_ONLY  # units copy what their rows name

    strategy: Literal["source", "random", "auto"] = Field(
        "source", description="keep the source's own split, draw one, or keep it and draw what is missing"
    )
    validation: float = Field(0.1, ge=0, lt=1, description="fraction of each training class that becomes val")
    test: float = Field(0.0, ge=0, lt=1, description="fraction of each class that becomes test (strategy random, auto)")
    few_shot: tuple[int, ...] = Field((1, 4, 16), description="shots per class of the nested manifests, from train")
    few_shot_seeds: tuple[int, ...] = Field((0,), min_length=1, description="a manifest for each of these seeds")
    few_shot_order: Literal["hash", "natural", "disef"] = Field(
        "hash", description="by a hash of the key; the first in natural order of the source's names; as DISEF draws"
    )
    imbalance: float = Field(1.0, ge=1, description="largest over smallest class of train (long tail); 1 keeps all")
    shard_samples: int = Field(10_000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _fractions(self) -> SplitParams:
        if self.strategy == "source" and self.test > 0:
            raise ValueError(
                "split.test is drawn only with strategy: random or auto; the source's own test split is used"
            )
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing for train")
        return self
