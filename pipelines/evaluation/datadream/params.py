"""Parameters of `evaluate@datadream`. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from augment.policy import load
from pipelines.config import Section
from pipelines.evaluation.students import StudentParams, require_epochs
from pipelines.fields import SOFT_ONLY, Names, PolicySpec, refuse_ignored
from synth.datadream.config import FitConfig

Variant = Literal["zero_shot", "cls", "dset", "loft"]
Images = Literal["zero_shot_clip", "real", "synthetic", "pooled", "full"]


class DataDreamParams(Section):
    """The classifiers that show what DataDream's images are worth.

    `steps` gives every arm the same number of optimiser steps (as near as whole epochs come), so that none wins by training
    longer; with null each trains for its epochs, as published, and arms with more images take more steps. `variants` are those of
    `datadream` that are measured. `arms` are what the classifiers are trained on: nothing (`zero_shot_clip`), the few real images, the
    synthetic ones, both (`pooled`), or the whole training set (`full`).
    """

    variants: tuple[Variant, ...] = Field(("zero_shot", "cls", "dset"), min_length=1)
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field((4, 16), min_length=1, description="real images per class")
    loft_shots: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, min_length=1, description="those of loft's arms; null: as shots"
    )
    seeds: int = Field(3, ge=1, description="seed s takes the s-th few-shot seed of the manifest, and around again")
    arms: tuple[Images, ...] = Field(("zero_shot_clip", "real", "synthetic", "pooled"), min_length=1)
    images: int | None = Field(
        None, ge=1, description="synthetic images per class at the most; null takes all kept ones"
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps of every arm; null counts epochs, as published")
    names: Names | None = Field(None, description="class name -> what prompts call it; null: as datadream has it")
    domain: str | None = Field(None, description="the word before `photo` in prompts; null: as datadream has it")
    classifier: FitConfig = FitConfig()
    views: PolicySpec = Field(
        None, description="a policy of augment that CLIP's training images go through; null: as published"
    )
    student: StudentParams | None = Field(None, description="null trains no network from scratch")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        once = {"evaluate_every": "a student is looked at after its last epoch"}
        refuse_ignored(raw, "student.training", {**SOFT_ONLY, **once})
        return raw

    def shots_of(self, variant: str) -> tuple[int, ...]:
        """Real images per class of a variant's arms, or without a variant of all others."""
        return self.loft_shots if variant == "loft" and self.loft_shots else self.shots

    @field_validator("views")
    @classmethod
    def _views_are_a_policy(cls, spec: Any) -> Any:
        if spec is not None:
            load(spec)
        return spec

    @model_validator(mode="after")
    def _no_repeats(self) -> DataDreamParams:
        for name in ("variants", "shots", "arms"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names something twice")
        if self.student is not None:
            require_epochs("student.training", self.student.training)
        return self


PARAMS = DataDreamParams
