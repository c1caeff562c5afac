"""Parameters of `squeeze`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from distill.config import TrainConfig
from pipelines.config import Section
from pipelines.fields import SOFT_ONLY, Channels, Spreads, refuse_ignored
from pipelines.networks import NetworkName


class SqueezeParams(Section):
    """Parameters of `squeeze`."""

    network: NetworkName = Field("convnet3_w128", description="convnet{D}_w{W}, resnet20, resnet56 or any timm name")
    training: TrainConfig = TrainConfig()
    weights: str | None = Field(None, description="local .safetensors or .pt/.th state dict to start from")
    mean: Channels = Field((0.5, 0.5, 0.5), description="per channel, of images in [0, 1]")
    std: Spreads = Field((0.25, 0.25, 0.25), description="per channel, of images in [0, 1]")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, given: Any) -> Any:
        refuse_ignored(given, "training", SOFT_ONLY)
        return given
