"""The augmentation of Zhao and Bilen 2021 (DSA): one of six kinds a draw, for images that are matched and for views of students."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from augment.augmenter import Augmenter


def siamese_policy(mean: Sequence[float], std: Sequence[float], grey: bool) -> dict[str, Any]:
    """Write the augmentation of Zhao and Bilen 2021 for images in [0, 1] that networks see normalised by `mean` and `std`.

    One of six kinds a draw. Brightness moves by up to half a standard deviation, cutout fills with the mean, black lies beyond the
    frame; grey images have no saturation.
    """
    half = 0.5 * float(np.mean(std))
    colour: list[Any] = [{"brightness_shift": {"shift": [-half, half]}}]
    colour += [] if grey else [{"saturation_mean": {"factor": [0.0, 2.0]}}]
    colour += [{"contrast_mean": {"factor": [0.5, 1.5]}}]
    strategies: list[Any] = [
        colour,
        {"shift": {"share": 0.125}},
        {"erase": {"p": 1.0, "scale": 0.25, "ratio": 1.0, "value": float(np.clip(np.mean(mean), 0, 1))}},
        {"horizontal_flip": {"p": 0.5}},
        {"affine": {"scale": [1 / 1.2, 1.2], "scale_y": [1 / 1.2, 1.2]}},
        {"rotate": {"degrees": [-15.0, 15.0]}},
    ]
    return {"operations": [{"one_of": strategies}]}


class SiameseViews:
    """Augments each view of an epoch by a draw of its own, which follows from the seed, the epoch and its place in the epoch."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], seed: int) -> None:
        self._augment = Augmenter(siamese_policy(mean, std, grey=False), seed=seed, backend="torch")

    def __call__(self, pixels: torch.Tensor, epoch: int, where: slice) -> torch.Tensor:
        """Augment the views (n, 3, H, W), float in [0, 1], that stand at `where` in the epoch."""
        keys = [f"view {place}" for place in range(where.start, where.stop)]
        draws = self._augment.draw(keys, (pixels.shape[2], pixels.shape[3]), epoch=epoch)
        return self._augment.replay(pixels, draws).images
