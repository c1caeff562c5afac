"""Parameters of `ingest`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipelines.config import PLAN_ONLY, SPEED_ONLY, Section
from pipelines.fields import CaptionTemplate
from pipelines.images.params import ImageParams
from pipelines.sources import SourceParams


class IngestParams(Section):
    """Parameters of `ingest`."""

    sources: Annotated[list[SourceParams], PLAN_ONLY] = Field(
        min_length=1, description="where the images come from, in order of precedence"
    )
    image: ImageParams = ImageParams()
    caption: Annotated[CaptionTemplate | None, PLAN_ONLY] = Field(
        None, description="caption of images that have a class and no caption, such as a photo of a {label_name}"
    )
    order: Annotated[Literal["shuffled", "source"], PLAN_ONLY] = Field(
        "shuffled", description="order of samples over and inside shards"
    )
    shard_samples: Annotated[int, PLAN_ONLY] = Field(
        10_000, ge=1, le=100_000, description="samples a shard holds at the most, about"
    )
    shard_bytes: Annotated[int, PLAN_ONLY] = Field(
        256 << 20, ge=1 << 16, description="source bytes a shard holds at the most, about"
    )
    duplicates: Annotated[Literal["drop", "error"], PLAN_ONLY] = Field(
        "drop", description="records with the same bytes as an earlier one"
    )
    conflicts: Annotated[Literal["first", "drop", "error"], PLAN_ONLY] = Field(
        "first", description="equal bytes under two labels of one source and split: keep the first, none, or stop"
    )
    threads: Annotated[int, SPEED_ONLY] = Field(
        2, ge=1, le=64, description="decoding threads of one worker; does not change the bytes"
    )
