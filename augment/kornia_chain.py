"""The reference: a program carried out by Kornia's own functions, one operation after the other, image by image.

Nothing is fused and nothing is shared between samples, so this says what a program means; `backend: kornia` runs it. Slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from augment.filters import apply_filter
from augment.pointwise import FLAT
from augment.program import Blend, Colour, ColourStep, Filter, Segment, Warp, WarpStep

Values = dict[str, Any]


def run_kornia(images: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
    """Carry out a program on (n, C, H, W) float images, one by one; returns new images."""
    return torch.cat([_one(images[index : index + 1], segments, index) for index in range(len(images))])


def _one(image: torch.Tensor, segments: Sequence[Segment], index: int) -> torch.Tensor:
    """Carry out a program on the image (1, C, H, W) of the sample `index`."""
    for segment in segments:
        if isinstance(segment, Warp):
            for step in (step for step in segment.steps if step.acts()[index]):
                image = _warp(image, step, segment, index)
        elif isinstance(segment, Colour):
            for one in segment.steps:
                if one.on[index]:
                    image = _colour(image, one, index)
        elif isinstance(segment, Filter):
            if segment.on[index]:
                image = _filter(image, segment, index)
        elif segment.on[index]:
            image = _blend(image, segment, index)
    return image


def _warp(image: torch.Tensor, step: WarpStep, warp: Warp, index: int) -> torch.Tensor:
    """Carry out one step: a cut-out box is sliced and resized as RandomResizedCrop does it, anything else is warp_perspective."""
    from kornia.geometry.transform import resize, warp_perspective

    if step.roll is not None:
        return torch.roll(image, tuple(int(shift) for shift in step.roll[index]), (2, 3))
    matrix = step.matrix[index]
    if step.clamp is not None and np.isfinite(step.clamp[index]).all():
        left, top, right, bottom = (int(side) for side in step.clamp[index])
        cut = image[:, :, top : bottom + 1, left : right + 1]
        if warp.interpolation == "nearest":
            return functional.interpolate(cut, step.size, mode="nearest-exact")
        if warp.antialias:
            # kornia.geometry.resize blurs instead of filtering; torch's filter is what torchvision and PIL do.
            return functional.interpolate(cut, step.size, mode=warp.interpolation, align_corners=False, antialias=True)
        return resize(cut, step.size, warp.interpolation, align_corners=False)
    if np.array_equal(matrix, np.eye(3)) and tuple(image.shape[2:]) == step.size:
        return image
    tensor = torch.from_numpy(matrix[None]).to(image)
    return warp.fill + warp_perspective(image - warp.fill, tensor, step.size, warp.interpolation, align_corners=True)


def _colour(image: torch.Tensor, step: ColourStep, index: int) -> torch.Tensor:
    """Carry out one pointwise step; jitter is four, in the order that the sample drew."""
    values = {name: column[index] for name, column in step.values.items()}
    if step.name != "jitter":
        return _colours()[step.name](image, values)
    for place in values["order"]:
        name = ("brightness", "contrast", "saturation", "hue")[place]
        image = _colours()[name](image, {"factor": values[name], "turns": values[name]})
    return image


def _colours() -> dict[str, Callable[[torch.Tensor, Values], torch.Tensor]]:
    """Kornia's function for each pointwise operation, of an image (1, 3, H, W) and the sample's values."""
    from kornia import color, enhance

    def away(image: torch.Tensor, mean: torch.Tensor, factor: float) -> torch.Tensor:
        return (image - mean) * factor + mean

    # Gamma, posterize and equalize are not defined beyond [0, 1]: Kornia gives NaN, wraps bits or refuses a rounding error.
    return {
        "brightness": lambda x, v: enhance.adjust_brightness_accumulative(x, float(v["factor"])),
        "contrast": lambda x, v: enhance.adjust_contrast_with_mean_subtraction(x, float(v["factor"])),
        "saturation": lambda x, v: enhance.adjust_saturation_with_gray_subtraction(x, float(v["factor"])),
        "hue": lambda x, v: enhance.adjust_hue(x, float(v["turns"]) * 2 * math.pi),
        "gamma": lambda x, v: enhance.adjust_gamma(x.clamp(0, 1), float(v["gamma"])),
        "solarize": lambda x, v: enhance.solarize(x, float(v["threshold"])),
        "posterize": lambda x, v: enhance.posterize(x.clamp(0, 1), int(v["bits"])),
        "invert": lambda x, v: enhance.invert(x),
        "grayscale": lambda x, v: color.rgb_to_grayscale(x).expand(-1, 3, -1, -1),
        "channel_shuffle": lambda x, v: x[:, [int(source) for source in v["order"]]],
        "autocontrast": lambda x, v: torch.where(
            x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True) < FLAT,
            x,
            enhance.normalize_min_max(x).clamp(0, 1),
        ),  # Kornia makes a flat channel black
        "equalize": lambda x, v: enhance.equalize(x.clamp(0, 1)),
        "brightness_shift": lambda x, v: x + float(v["shift"]),
        "saturation_mean": lambda x, v: away(x, x.mean(1, keepdim=True), float(v["factor"])),
        "contrast_mean": lambda x, v: away(x, x.mean((1, 2, 3), keepdim=True), float(v["factor"])),
    }


def _filter(image: torch.Tensor, step: Filter, index: int) -> torch.Tensor:
    """Carry out one filter by Kornia's function, or by ours where Kornia has none that takes what was drawn."""
    from kornia import enhance, filters

    if step.name == "gaussian_blur":
        sigma = torch.tensor([[float(step.values["sigma"][index])] * 2]).to(image)
        return filters.gaussian_blur2d(image, step.constants["kernel"], sigma)
    if step.name == "sharpness":
        return enhance.sharpness(image, float(step.values["factor"][index]))
    values = {name: column[index : index + 1] for name, column in step.values.items()}
    return apply_filter(image, Filter(step.name, np.ones(1, bool), values, step.constants))


def _blend(image: torch.Tensor, blend: Blend, index: int) -> torch.Tensor:
    """Blend the image with what the chains give (Hendrycks et al. 2020)."""
    share = float(blend.share[index])
    mixed = sum(
        float(blend.weights[index, place]) * _one(image, chain, index) for place, chain in enumerate(blend.chains)
    )
    return (1 - share) * image + share * mixed
