"""Parameters of `evaluate`. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from augment.policy import load
from distill.config import TrainConfig
from pipelines.config import Section
from pipelines.evaluation.students import StudentParams
from pipelines.fields import SOFT_ONLY, Names, refuse_ignored
from pipelines.networks import NetworkName
from synth.datadream.config import FitConfig

Arm = Literal["distilled_soft", "random_soft", "distilled_hard", "random_hard", "real_hard"]
Variant = Literal["zero_shot", "cls", "dset", "loft"]
DreamArm = Literal["zero_shot_clip", "real", "synthetic", "pooled", "full"]


class DreamParams(Section):
    """The classifiers that show what DataDream's images are worth.

    `steps` gives every arm the same number of optimiser steps (as near as whole epochs come), so that none wins by training
    longer; with null each trains for its epochs, as published, and arms with more images take more steps.
    """

    variants: tuple[Variant, ...] = Field(("zero_shot", "cls", "dset"), min_length=1)
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field((4, 16), min_length=1, description="real images per class")
    loft_shots: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, min_length=1, description="those of loft's arms; null: as shots"
    )
    seeds: int = Field(3, ge=1, description="seed s takes the s-th few-shot seed of the manifest, and around again")
    arms: tuple[DreamArm, ...] = Field(("zero_shot_clip", "real", "synthetic", "pooled"), min_length=1)
    images: int | None = Field(
        None, ge=1, description="synthetic images per class at the most; null takes all kept ones"
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps of every arm; null counts epochs, as published")
    names: Names | None = Field(None, description="class name -> what prompts call it; null: as datadream has it")
    domain: str | None = Field(None, description="the word before `photo` in prompts; null: as datadream has it")
    classifier: FitConfig = FitConfig()
    views: Any = Field(
        None, description="a policy of augment that CLIP's training images go through; null: as published"
    )
    student: StudentParams | None = Field(None, description="null trains no network from scratch")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, given: Any) -> Any:
        once = {"evaluate_every": "a student is looked at after its last epoch"}
        refuse_ignored(given, "student.training", {**SOFT_ONLY, **once})
        return given

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
    def _no_repeats(self) -> DreamParams:
        for name in ("variants", "shots", "arms"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names something twice")
        if self.student is not None:
            _require_epochs("student.training", self.student.training)
        return self


def _require_epochs(section: str, training: TrainConfig) -> None:
    """A student is fresh: without an epoch there is nothing to tell of it."""
    if training.epochs < 1:
        raise ValueError(f"{section}.epochs takes a whole number from 1, got {training.epochs}")


#: Options of a training that soft arms take from elsewhere, or not at all, and why.
_NOT_OF_SOFT = {
    "views": "students see the views that were labelled, relabel.views",
    "batch_size": "students see the batches that were labelled, relabel.batch_size",
    "label_smoothing": "soft labels are not smoothed",
}


class EvaluateParams(Section):
    """Parameters of `evaluate`. With `arms: []` and a `datadream` section nothing is read of distillation."""

    network: NetworkName = Field(
        "convnet3_w128", description="the student; convnet{D}_w{W}, resnet20, resnet56 or any timm name"
    )
    ipc: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="subsets to compare; all that relabel labelled if not given"
    )
    seeds: int = Field(3, ge=1, description="students per arm; fewer than 3 is said in the report")
    arms: tuple[Arm, ...] = ("distilled_soft", "random_soft", "distilled_hard", "random_hard", "real_hard")
    soft: TrainConfig = Field(TrainConfig(), description="soft arms; views and batch size are those of relabel")
    hard: TrainConfig = Field(TrainConfig(), description="distilled and random arms with hard labels")
    full: TrainConfig = Field(TrainConfig(), description="the full training set with hard labels")
    note: str = Field("", description="what a reader must know about these numbers; printed with them")
    datadream: DreamParams | None = Field(None, description="DataDream's arms and controls; null leaves them out")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, given: Any) -> Any:
        for section in ("hard", "full"):
            refuse_ignored(given, section, SOFT_ONLY)
        ignored, soft = dict(_NOT_OF_SOFT), given.get("soft") if isinstance(given, Mapping) else None
        if isinstance(soft, Mapping) and soft.get("soft_loss") == "mse_gt":
            ignored |= dict.fromkeys(("temperature", "t_squared"), "soft_loss mse_gt has no temperature")
        refuse_ignored(given, "soft", ignored)
        return given

    @model_validator(mode="after")
    def _students_are_trained(self) -> EvaluateParams:
        for section in ("soft", "hard", "full"):
            _require_epochs(section, getattr(self, section))
        return self

    @property
    def distillation(self) -> bool:
        """Whether distilled sets are evaluated; a job of DataDream alone needs no teacher and no distilled images."""
        return bool(self.arms) or self.datadream is None

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A job without DataDream records the parameters that it had before there was any, byte for byte."""
        form: dict[str, Any] = handler(self)
        if self.datadream is None:
            form.pop("datadream", None)
        return form
