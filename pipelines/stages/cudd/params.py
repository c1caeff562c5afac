"""Parameters of `cudd`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from distill.config import RecoverConfig, TrainConfig, ViewConfig
from distill.curriculum.config import CurriculumConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import HARD_ONLY, CaptionTemplate, refuse_ignored
from pipelines.images.params import ImageParams
from pipelines.networks import NetworkName


class CurriculumStudent(Section):
    """The student of each curriculum: it learns from all images so far by the teacher's answers, going on from the one before.

    Published are 150 epochs of AdamW 5e-4 in batches of 128; small sets need small batches to take any steps.
    """

    network: NetworkName | None = Field(None, description="its network; that of the teacher if not given")
    training: TrainConfig = TrainConfig(
        epochs=150,
        batch_size=32,
        optimizer="adamw",
        learning_rate=5e-4,
        weight_decay=0.01,
        views=ViewConfig(crop="resized", mix="cutmix"),
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        refuse_ignored(raw, "training", HARD_ONLY)
        return raw

    @model_validator(mode="after")
    def _students_are_trained(self) -> Self:
        if self.training.epochs < 1:
            raise ValueError(f"training.epochs takes a whole number from 1, got {self.training.epochs}")
        return self


class CuddParams(Section):
    """Parameters of `cudd`.

    Curricula extend a set one after another: each begins at real images that the teacher names right and the student of the curricula
    before it wrong, and recovers them so that this student stays wrong. CUDD as published (Ma et al., 2025) is `recover.mode: reference`
    with `recover.iterations: 4000`, and on ImageNet `recover.jitter: 32`. `ipc` is the sum of `curricula`, so that IPC 2, 5 and 10 are
    whole curricula of the default. Where neither network helps, or a class has too few images of a kind, others are taken.
    """

    ipc: Annotated[int, PLAN_ONLY] = Field(10, ge=1, le=10_000, description="distilled images per class")
    curricula: Annotated[tuple[Annotated[int, Field(ge=1)], ...], PLAN_ONLY] = Field(
        (2, 3, 5), min_length=1, description="images per class that each curriculum adds"
    )
    recover: RecoverConfig = RecoverConfig(milestone=0.0)
    curriculum: CurriculumConfig = CurriculumConfig()
    student: Annotated[CurriculumStudent, PLAN_ONLY] = CurriculumStudent()
    seeds: Annotated[int, PLAN_ONLY] = Field(
        1,
        ge=1,
        le=100,
        description="sets distilled, each from a seed of its own; with one, no ± holds chance in distilling",
    )
    class_chunk: Annotated[int, PLAN_ONLY] = Field(
        100, ge=1, description="classes of one group; BN statistics couple its images"
    )
    slots_per_unit: Annotated[int | Literal["auto"], PLAN_ONLY] = Field(
        "auto", description="IPC slots recovered in one step; auto by size"
    )
    image: ImageParams = ImageParams(format="png")
    caption: CaptionTemplate | None = Field(
        None, description="caption of each image, such as a photo of a {label_name}; null writes none"
    )

    @model_validator(mode="before")
    @classmethod
    def _recovery_is_cudds(cls, raw: Any) -> Any:
        """A curriculum of crops is CDA's: what is not said of it is CUDD's, none."""
        if isinstance(raw, dict) and isinstance(recover := raw.get("recover"), dict) and "milestone" not in recover:
            return raw | {"recover": recover | {"milestone": 0.0}}
        return raw

    @model_validator(mode="after")
    def _curricula_make_the_set(self) -> Self:
        if sum(self.curricula) != self.ipc:
            raise ValueError(
                f"curricula add {' + '.join(map(str, self.curricula))} = {sum(self.curricula)} images per class, and ipc is {self.ipc}; "
                "make them equal"
            )
        if self.curriculum.defects and self.recover.mode != "reference":
            raise ValueError(
                f"curriculum.defects are those of the published code ({', '.join(self.curriculum.defects)}); set recover.mode to "
                "reference, or leave them out"
            )
        return self
