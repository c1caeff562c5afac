"""Parameters of `cda`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distill.config import RecoverConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import CaptionTemplate
from pipelines.images.params import ImageParams


class CdaParams(Section):
    """Parameters of `cda`.

    CDA as published (Yin and Shen, 2023) is `init: noise` and `recover.mode: reference` with `recover.milestone: 1`. SRe2L (Yin, Xing
    and Shen, 2023) is the same with `recover.milestone: 0`, no crop curriculum; on CIFAR it neither crops nor flips (`recover.crop` and
    `recover.flip: false`), on Tiny-ImageNet it rolls both ways (`recover.jitter_symmetric: true`). The defaults start from real images.
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
        100, ge=1, description="classes of one group; BN statistics couple its images"
    )
    slots_per_unit: Annotated[int | Literal["auto"], PLAN_ONLY] = Field(
        "auto", description="IPC slots recovered in one step; auto by size"
    )
    init: Literal["noise", "real"] = Field("real", description="where recovery starts")
    image: ImageParams = ImageParams(format="png")
    caption: CaptionTemplate | None = Field(
        None, description="caption of each image, such as a photo of a {label_name}; null writes none"
    )
