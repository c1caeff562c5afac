"""Crop, resize, flip and roll as two small matrix products: differentiable, static shapes, one box per image or group.

A bilinear crop-and-resize is separable, and flips and rolls permute rows, so the whole of it is Y = R_h X R_w^T with two
S x S matrices computed on the host. Equal to cutting the crop out and interpolating it (samples are clamped to the crop).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Box(NamedTuple):
    """A crop: whole pixels, from the top left corner of the image."""

    top: int
    left: int
    height: int
    width: int


def draw_resized_crop(
    height: int,
    width: int,
    scale: tuple[float, float],
    generator: torch.Generator,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draw RandomResizedCrop's box in an image of `height` x `width`, which moves `generator`.

    The arithmetic and the order of draws are torchvision's: area uniform in `scale` of the image, aspect (width over height)
    log-uniform in `ratio`, ten tries, then the largest box in the middle that `ratio` allows (Szegedy et al. 2015).
    """
    area = height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    log_ratio = torch.log(torch.tensor(ratio))
    for _ in range(10):
        target = area * torch.empty(1).uniform_(scale[0], scale[1], generator=generator).item()
        aspect = torch.exp(
            torch.empty(1).uniform_(float(log_ratio[0]), float(log_ratio[1]), generator=generator)
        ).item()
        crop_width, crop_height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(torch.randint(0, height - crop_height + 1, (1,), generator=generator).item())
            left = int(torch.randint(0, width - crop_width + 1, (1,), generator=generator).item())
            return Box(top, left, crop_height, crop_width)
    aspect = width / height
    crop_height, crop_width = height, width
    if aspect < math.exp(low):
        crop_height = round(width / math.exp(low))
    elif aspect > math.exp(high):
        crop_width = round(height * math.exp(high))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def axis_matrices(
    start: torch.Tensor,
    length: torch.Tensor,
    size: int,
    flip: torch.Tensor | None = None,
    roll: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute (n, size, size) float64 matrices that cut [start, start + length) from an axis and stretch it to `size`.

    `start` and `length` are (n,) whole pixels. Then the axis is mirrored where `flip` (n,) bool and rolled by `roll` (n,) pixels
    towards higher indices. Rows that would read outside the image are zero: a box that sticks out is padding.
    """
    target = torch.arange(size, device=start.device).expand(len(start), size)
    if roll is not None:
        target = (target - roll[:, None]) % size
    if flip is not None:
        target = torch.where(flip[:, None], size - 1 - target, target)
    extent = length.double()[:, None]
    inside = torch.minimum(((target.double() + 0.5) * extent / size - 0.5).clamp(min=0.0), extent - 1)
    low = inside.floor()
    weight = inside - low
    high = torch.minimum(low + 1, extent - 1)
    matrix = torch.zeros(len(start), size, size, dtype=torch.float64, device=start.device)
    for offset, part in ((low, 1 - weight), (high, weight)):
        source = (offset + start.double()[:, None]).long()
        valid = (source >= 0) & (source < size)
        matrix.scatter_add_(2, source.clamp(0, size - 1)[:, :, None], (part * valid)[:, :, None])
    return matrix


def apply_matrices(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Compute R_h X R_w^T of images (G, ..., S, S) with one pair of matrices (G, S, S) per leading index; differentiable."""
    shape = (len(images), *(1,) * (images.ndim - 3), *rows.shape[-2:])
    return rows.reshape(shape) @ images @ columns.transpose(-1, -2).reshape(shape)
