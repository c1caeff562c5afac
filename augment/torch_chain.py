"""A program carried out on a batch of float tensors: fused segments, one after the other, differentiable in the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from augment.colour import apply_colour
from augment.colour_plan import unclamped_samples
from augment.filters import apply_filter
from augment.program import Blend, Colour, Filter, Segment, Warp
from augment.warp import apply_warp

#: Filters whose result may lie outside [0, 1].
_LOOSE = ("gaussian_noise", "kornia")


def run_torch(
    images: torch.Tensor,
    segments: Sequence[Segment],
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
    bounded: np.ndarray | None = None,
) -> torch.Tensor:
    """Carry out a program on (n, C, H, W) float images; returns new images, or the input where nothing is on. Differentiable.

    `normalise`: mean and std by channel, folded into the last segment, which must be a `Colour` then. `bounded` (n,) bool, all by
    default: the image is in [0, 1], so that a clamp may be left out where a step cannot lead out of it.
    """
    inside = np.ones(len(images), bool) if bounded is None else bounded
    for place, segment in enumerate(segments):
        if isinstance(segment, Warp):
            images = apply_warp(images, segment)
        elif isinstance(segment, Colour):
            mean, std = normalise if normalise and place + 1 == len(segments) else (None, None)
            images = apply_colour(images, segment, mean, std, bounded=inside)
        elif isinstance(segment, Filter):
            images = apply_filter(images, segment)
        else:
            images = _blend(images, segment, inside)
        inside = inside & ~_loosened(segment, len(images))
    return images


def _loosened(segment: Segment, count: int) -> np.ndarray:
    """(n,) bool: samples that a segment may lead out of [0, 1]."""
    if isinstance(segment, Colour):
        return unclamped_samples(segment, count)
    if isinstance(segment, Filter):
        return segment.on & (segment.name in _LOOSE)
    loosened = np.zeros(count, bool)
    if isinstance(segment, Blend):
        for inner in (inner for chain in segment.chains for inner in chain):
            loosened |= _loosened(inner, count)
    return loosened


def _blend(images: torch.Tensor, blend: Blend, bounded: np.ndarray) -> torch.Tensor:
    """Blend images with what the chains give (Hendrycks et al. 2020), where the blend is on."""
    weights = torch.from_numpy(blend.weights * blend.share[:, None]).to(images)
    mixed = images * torch.from_numpy(np.where(blend.on, 1 - blend.share, 1)).to(images)[:, None, None, None]
    for place, chain in enumerate(blend.chains):
        mixed = mixed + weights[:, place, None, None, None] * run_torch(images, chain, bounded=bounded)
    return torch.where(torch.from_numpy(blend.on).to(images.device)[:, None, None, None], mixed, images)
