"""Parameters of `samples`, and where its files lie."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import CaptionTemplate, Names
from pipelines.images.params import ImageParams
from synth.settings import ModeGuidance, Settings

Method = Literal["plain", "modes"]

#: Where units fill an item's output: latents of real images, modes of classes; and those that make images.
LATENTS, MODES, MADE = "latents", "modes", "images"


class SamplesParams(Section):
    """Parameters of `samples`.

    `methods`: `plain` asks the class-conditional generator as it is, which is what every method that starts from it has to beat; `modes`
    pulls each image of a class to another of the `ipc` centres that k-means finds among the latents of its real images (MGD3), to the
    class's mean with `ipc` 1. Both start from the same noise. `generate` is as published for both: 50 steps at guidance 4.
    """

    effect = (
        PLAN_ONLY  # more images leave the blocks that are full, another strength of the pull leaves latents and modes
    )

    methods: tuple[Method, ...] = Field(("plain", "modes"), min_length=1)
    ipc: int = Field(10, ge=1, le=10_000, description="images per class")
    seeds: int = Field(1, ge=1, le=100, description="sets, each from a seed of its own")
    names: Names = Field({}, description="class name -> what the generator calls it, else its name as it is")
    generate: Settings = Settings(steps=50, guidance=4.0, scheduler="ddim")
    modes: ModeGuidance = ModeGuidance()
    images_per_class: int | None = Field(
        None,
        ge=1,
        description="real images per class among which modes are looked for, a fixed random choice; null is all",
    )
    batch_size: int = Field(
        64, ge=1, description="images encoded or made together, of any classes; part of what fixes the last bits"
    )
    images_per_unit: int = Field(250, ge=1, description="images that one unit encodes, or makes")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the generator; auto is bfloat16 on CUDA"
    )
    image: ImageParams = ImageParams(format="png")
    caption: CaptionTemplate | None = Field(
        None, description="caption of each image, such as a photo of a {label_name}; null writes none"
    )


def latents_file(unit: str) -> str:
    """Where the latents of the real images of a unit lie."""
    return f"{unit}.safetensors"


def encoded_file(unit: str) -> str:
    """Where the rows of the real images that a unit encoded lie, a sidecar without a shard."""
    return f"encoded/meta/{unit.removeprefix(f'{LATENTS}/')}.parquet"


def modes_file(unit: str) -> str:
    """Where the modes of the classes of a unit lie."""
    return f"{unit}.safetensors"
