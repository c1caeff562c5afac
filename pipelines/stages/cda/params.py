"""Parameters of `cda`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distill.config import RecoverConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import CaptionTemplate
from pipelines.images.params import ImageParams


class CdaParams(Section):
    """Parameters of `cda`.

    CDA as published (Yin and Shen, 2023) is `init: noise` and `recover.mode: reference` with `recover.milestone: 1`. SRe2L (Yin, Xing
    and Shen, 2023) is the same with `recover.milestone: 0`, no crop curriculum; on CIFAR it neither crops nor flips (`recover.crop` and
    `recover.flip: false`), on Tiny-ImageNet it rolls both ways (`recover.jitter_symmetric: true`). The defaults start from real images.

    FADRM (Cui et al., 2025) at 64 px is `recover.iterations: 1000` and `recover.residual_every: 500`, at 224 px 2000 and 500. LPLD's images
    (Xiao and He, 2024) are `statistics: class` with `recover.milestone: 0` and `init: noise`: all images of a class are recovered together
    and held to the statistics of that class, so that they differ from one another; its labels are fewer `relabel.epochs`, used in turn.
    """

    ipc: Annotated[int, PLAN_ONLY] = Field(10, ge=1, le=10_000, description="distilled images per class")
    recover: RecoverConfig = RecoverConfig()
    seeds: Annotated[int, PLAN_ONLY] = Field(
        1,
        ge=1,
        le=100,
        description="sets distilled, each from a seed of its own; with one, no ± holds chance in distilling",
    )
    class_chunk: Annotated[int, PLAN_ONLY] = Field(
        100,
        ge=1,
        description="classes recovered together: one group of a slot, or groups of their own with statistics class",
    )
    slots_per_unit: Annotated[int | Literal["auto"], PLAN_ONLY] = Field(
        "auto",
        description="IPC slots recovered in one step; auto by size, with statistics class up to 100, which are one group",
    )
    statistics: Literal["all", "class"] = Field(
        "all", description="batch-norm statistics that images are held to: those of all images, or of their class"
    )
    init: Literal["noise", "real"] = Field("real", description="where recovery starts")
    image: ImageParams = ImageParams(format="png")
    caption: CaptionTemplate | None = Field(
        None, description="caption of each image, such as a photo of a {label_name}; null writes none"
    )

    @model_validator(mode="after")
    def _residuals_are_of_real_images(self) -> Self:
        if self.recover.residual_every and self.init != "real":
            raise ValueError(
                f"recover.residual_every mixes in the real images that recovery starts from, and init is {self.init}; set init to real, "
                "or recover.residual_every to 0"
            )
        return self
