"""Parameters of `ingest`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.config import Section
from pipelines.fields import CaptionTemplate
from pipelines.images.params import ImageParams
from pipelines.sources import SourceParams


class IngestParams(Section):
    """Parameters of `ingest`."""

    sources: list[SourceParams] = Field(min_length=1, description="where the images come from, in order of precedence")
    image: ImageParams = ImageParams()
    caption: CaptionTemplate | None = Field(
        None, description="caption of images that have a class and no caption, such as a photo of a {label_name}"
    )
    order: Literal["shuffled", "source"] = Field("shuffled", description="order of samples over and inside shards")
    shard_samples: int = Field(10_000, ge=1, le=100_000, description="samples a shard holds at the most, about")
    shard_bytes: int = Field(256 << 20, ge=1 << 16, description="source bytes a shard holds at the most, about")
    duplicates: Literal["drop", "error"] = Field("drop", description="records with the same bytes as an earlier one")
    conflicts: Literal["first", "drop", "error"] = Field(
        "first", description="equal bytes under two labels of one source and split: keep the first, none, or stop"
    )
    threads: int = Field(2, ge=1, le=64, description="decoding threads of one worker; does not change the bytes")
