"""Networks trained from scratch on a set of images: their parameters, and images brought to their size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import Field

from distill.config import TrainConfig
from pipelines.config import Section
from pipelines.errors import UserError
from pipelines.fields import Channels, Spreads
from pipelines.loaders.arrays import ImageArrays
from pipelines.networks import NetworkName
from synth.datadream.config import FitConfig

if TYPE_CHECKING:
    from torch import nn

Config = TypeVar("Config", FitConfig, TrainConfig)

#: Images of a set that are resized at once.
CHUNK = 512


class StudentParams(Section):
    """A network trained from scratch on the same images: what they are worth without CLIP's knowledge.

    Hard labels, last epoch. Where there are real and synthetic images the real ones are repeated so that both weigh alike.
    """

    network: NetworkName = Field("resnet20", description="convnet{D}_w{W}, resnet20, resnet56 or any timm name")
    training: TrainConfig = TrainConfig(epochs=60, learning_rate=0.05, batch_size=64)
    mean: Channels = Field((0.5, 0.5, 0.5), description="per channel, of images in [0, 1]")
    std: Spreads = Field((0.25, 0.25, 0.25), description="per channel, of images in [0, 1]")


def require_epochs(section: str, training: TrainConfig) -> None:
    """Raise `ValueError` without an epoch: a student is fresh, and there is nothing to tell of it."""
    if training.epochs < 1:
        raise ValueError(f"{section}.epochs takes a whole number from 1, got {training.epochs}")


def over_steps(config: Config, steps: int | None, batches: int) -> Config:
    """`config` with as many epochs of `batches` as come nearest to `steps`; warm-up and looks at validation in proportion."""
    if steps is None:
        return config
    epochs = max(1, round(steps / batches))
    longer = epochs / max(1, config.epochs)
    return replace(
        config,
        epochs=epochs,
        warmup_epochs=min(epochs - 1, round(config.warmup_epochs * longer)),
        evaluate_every=max(1, round(config.evaluate_every * longer)),
    )


def square_side(arrays: ImageArrays) -> int:
    """The side of square images; `UserError` for others."""
    height, width = arrays.images.shape[2:]
    if height != width:
        raise UserError(f"evaluate.datadream.student takes square images, these are {width}x{height}; see ingest.image")
    return int(height)


def at_size(arrays: ImageArrays, side: int) -> ImageArrays:
    """The same images with `side` pixels to a side, rounded to uint8."""
    if arrays.images.shape[2:] == (side, side):
        return arrays
    images = np.empty((len(arrays), 3, side, side), np.uint8)
    for start in range(0, len(arrays), CHUNK):
        images[start : start + CHUNK] = resize_uint8(arrays.images[start : start + CHUNK], (side, side))
    return ImageArrays(images, arrays.labels, arrays.keys)


def resize_uint8(images: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Images (n, 3, h, w) uint8 brought to `size` by `center_resize`, rounded to uint8."""
    import torch

    from synth.datadream.accuracy import center_resize

    pixels = center_resize(torch.from_numpy(np.ascontiguousarray(images)).float() / 255, size)
    resized: np.ndarray[Any, Any] = (pixels * 255).round().to(torch.uint8).numpy()
    return resized


def oversample_real(real: ImageArrays | None, synthetic: ImageArrays | None) -> ImageArrays:
    """All images for a network from scratch: with both kinds each real one floor(synthetic / real) times, at least once."""
    times = 1 if real is None or synthetic is None else max(1, len(synthetic) // len(real))
    parts = ([] if synthetic is None else [synthetic]) + ([] if real is None else [real] * times)
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return ImageArrays(images, labels, [key for part in parts for key in part.keys])


def norm_of(model: nn.Module) -> str:
    """The norm that a network's layers share: `batch`, `instance`, `group`, `layer`; several with a plus sign, `none` without one."""
    from torch import nn

    norms = set()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            norms.add("batch")
        elif isinstance(layer, nn.GroupNorm):
            norms.add("instance" if layer.num_groups == layer.num_channels else "group")
        elif isinstance(layer, nn.modules.instancenorm._InstanceNorm):
            norms.add("instance")
        elif isinstance(layer, nn.LayerNorm):
            norms.add("layer")
    return "+".join(sorted(norms)) or "none"
