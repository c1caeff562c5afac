"""Parameters of `squeeze`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from distill.config import TrainConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import SOFT_ONLY, ChannelsOrAuto, SpreadsOrAuto, refuse_ignored
from pipelines.networks import NetworkName


class SqueezeParams(Section):
    """Parameters of `squeeze`.

    `weights` is a local .safetensors, .pt or .pth state dict, or a folder that timm or Hugging Face saved one in. Where its head
    (the last layer, one output per class) is for another number of classes, or is not there, the head is made anew and trained
    with the rest; any other difference is an error. With `epochs: 0` weights are taken as they are, head included.
    """

    network: NetworkName = Field("convnet3_w128", description="convnet{D}_w{W}, resnet20, resnet56 or any timm name")
    training: TrainConfig = TrainConfig()
    weights: Annotated[str | None, PLAN_ONLY] = Field(
        None, description="local state dict, or a folder with one, to start from"
    )
    mean: ChannelsOrAuto = Field(
        (0.5, 0.5, 0.5), description="per channel, of images in [0, 1]; auto: that of the training images"
    )
    std: SpreadsOrAuto = Field(
        (0.25, 0.25, 0.25), description="per channel, of images in [0, 1]; auto: that of the training images"
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        refuse_ignored(raw, "training", SOFT_ONLY)
        return raw

    @model_validator(mode="after")
    def _weights_taken_as_they_are_have_their_own(self) -> Self:
        if not self.training.epochs and "auto" in (self.mean, self.std):
            raise ValueError(
                "mean and std auto are those of your training images, and with epochs: 0 weights are taken as they are, with the "
                "mean and std they were trained with; give these"
            )
        return self
