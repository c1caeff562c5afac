"""Views of the classifier's training images: the published policy, or any policy of `augment`. Imports no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from augment.augmenter import Augmenter
from augment.presets import build
from augment.seeds import operation_seed
from synth.errors import SynthError

Views = Callable[[torch.Tensor, Sequence[str], int], torch.Tensor]


def published_views(size: tuple[int, int], seed: int) -> Views:
    """Build the published views: RandAugment(2, 9), a crop of a quarter of the area or more, flip, jitter, grey, blur, solarisation.

    Bilinear with antialiasing, where the published crop is bicubic (`docs/specs/datadream.md`, classifier).
    """
    policy = [
        *build("randaugment", {"count": 2, "magnitude": 9})["operations"],
        {"resized_crop": {"size": list(size), "scale": [0.25, 1.0]}},
        "horizontal_flip",
        {"color_jitter": {"p": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}},
        {"grayscale": {"p": 0.2}},
        {"gaussian_blur": {"p": 0.2}},
        {"solarize": {"p": 0.2, "threshold": 0.5}},
    ]
    return policy_views(policy, size, seed)


def policy_views(policy: Any, size: tuple[int, int], seed: int) -> Views:
    """Build views by any policy of `augment`; calling them raises SynthError for an image that is not left at `size` (h, w)."""
    augmenter = Augmenter(policy, seed=seed, output="float")

    def view(images: torch.Tensor, keys: Sequence[str], epoch: int) -> torch.Tensor:
        augmenter.epoch = epoch
        moved = augmenter(images, keys).images
        if tuple(moved.shape[2:]) != tuple(size):
            raise SynthError(
                f"views are {tuple(moved.shape[2:])}, the classifier takes {tuple(size)}: crop to that size"
            )
        return moved

    return view


def views_seed(run_seed: int) -> int:
    """Return the seed that the views of a fit are drawn from."""
    return operation_seed(run_seed, "views", "datadream/fit") & 0x7FFFFFFF
