"""Parameters of `dm`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distill.matching.config import MatchConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import CaptionTemplate
from pipelines.images.params import ImageParams

#: The distance to the real features, by unit and iteration.
LOSSES, LOSS_COLUMNS = "losses.csv", ("unit", "iteration", "loss")


class DmParams(Section):
    """Parameters of `dm`.

    DM as published (Zhao and Bilen, 2023) is `match.tiles: 1`, `match.pool_every: 0`, `match.network: convnet3_w128_in`,
    `match.real_batch: 256` and `match.iterations: 20000`. The defaults store four images in one and let briefly trained networks take
    turns with fresh ones, which is worth most at one image per class and within minutes; `match.tiles: 1` from about ten on.
    `match.objective` takes other things to match: `trajectories` need a graphics card and condense all classes of a set together.
    """

    ipc: Annotated[int, PLAN_ONLY] = Field(1, ge=1, le=10_000, description="stored images per class")
    match: MatchConfig = MatchConfig()
    seeds: Annotated[int, PLAN_ONLY] = Field(
        1,
        ge=1,
        le=100,
        description="sets condensed, each from a seed of its own; with one, no ± holds chance in condensing",
    )
    class_chunk: Annotated[int, PLAN_ONLY] = Field(
        10, ge=1, description="classes of one unit, which share each iteration's network"
    )
    start: Literal["random", "medoids"] = Field(
        "random", description="the real images it starts from: random ones, or the medoids of their features"
    )
    image: ImageParams = ImageParams(format="png")
    caption: CaptionTemplate | None = Field(
        None, description="caption of each image, such as a photo of a {label_name}; null writes none"
    )
