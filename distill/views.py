"""Random views of a whole set for one epoch: drawn as plain tables, applied in batches, the same for teacher and student.

A table follows from (seed, epoch) alone, so labels can be computed before, during or after training and always belong to
the pixels the student sees (FKD, Shen and Xing 2022). Crop, resize and flip are two small matrix products per image.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch

from augment.crops import apply_matrices, axis_matrices
from augment.mixing import cutmix_box, draw_beta
from distill.config import ViewConfig


@dataclass(frozen=True)
class Views:
    """One epoch of views over n samples, by position in the epoch's order.

    `order` (n,) int64 sample at each position; `box` (n, 4) float32 top, left, height, width in pixels, outside the image
    where it was padded; `flip` (n,) bool; `partner` (n,) int64 sample mixed in (itself: none); `mix_box` (n, 4) int64 x1, y1,
    x2, y2 of the partner's patch (cutmix) and `share` (n,) float32, the weight of the sample itself (mixup; else 1).
    """

    order: torch.Tensor
    box: torch.Tensor
    flip: torch.Tensor
    partner: torch.Tensor
    mix_box: torch.Tensor
    share: torch.Tensor

    def __len__(self) -> int:
        return len(self.order)

    def slice(self, start: int, stop: int) -> Views:
        """Return positions start..stop-1."""
        return Views(*(field[start:stop] for field in self._fields()))

    def same_as(self, other: Views) -> bool:
        """Say whether both show the same pixels in the same order."""
        return all(torch.equal(ours, theirs) for ours, theirs in zip(self._fields(), other._fields(), strict=True))

    def _fields(self) -> tuple[torch.Tensor, ...]:
        return self.order, self.box, self.flip, self.partner, self.mix_box, self.share


def epoch_seed(seed: int, epoch: int) -> int:
    """Derive a 63-bit seed for one epoch."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:8], "big") >> 1


def draw_views(count: int, size: int, config: ViewConfig, seed: int, epoch: int, batch_size: int) -> Views:
    """Draw an epoch's views of `count` square images of `size` pixels.

    Mixing is per batch, as published: one lambda, one box and one permutation for each batch.
    """
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    order = torch.randperm(count, generator=generator)
    box = _draw_boxes(count, size, config, generator)
    flip = torch.rand(count, generator=generator) < 0.5 if config.flip else torch.zeros(count, dtype=torch.bool)
    partner = torch.arange(count)
    mix_box = torch.zeros(count, 4, dtype=torch.int64)
    share = torch.ones(count)
    for start in range(0, count if config.mix != "none" else 0, batch_size):
        stop = min(start + batch_size, count)
        ours = draw_beta(config.alpha, generator)
        partner[start:stop] = start + torch.randperm(stop - start, generator=generator)
        if config.mix == "mixup":
            share[start:stop] = ours
        else:
            centre = torch.randint(size, (2,), generator=generator).tolist()
            mix_box[start:stop] = torch.tensor(cutmix_box((size, size), ours, centre[0], centre[1]))
    return Views(order, box, flip, order[partner], mix_box, share)


def _draw_boxes(count: int, size: int, config: ViewConfig, generator: torch.Generator) -> torch.Tensor:
    whole = torch.tensor([0.0, 0.0, size, size]).repeat(count, 1)
    if config.crop == "none":
        return whole
    if config.crop == "pad":
        shift = torch.randint(-config.padding, config.padding + 1, (count, 2), generator=generator)
        whole[:, :2] = shift
        return whole
    # RandomResizedCrop: ten tries, the first that fits; then the whole image, its centre fallback for a square.
    tries = 10
    area = size * size * torch.empty(count, tries).uniform_(*config.scale, generator=generator)
    ratio = torch.exp(torch.empty(count, tries).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator))
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width <= size) & (height <= size) & (width > 0) & (height > 0)
    first = fits.float().argmax(1, keepdim=True)
    height, width = height.gather(1, first)[:, 0], width.gather(1, first)[:, 0]
    place = torch.rand(count, 2, generator=generator)
    top, left = (place[:, 0] * (size - height + 1)).floor(), (place[:, 1] * (size - width + 1)).floor()
    boxes = torch.stack([top, left, height, width], 1)
    return torch.where(fits.any(1, keepdim=True), boxes, whole)


def apply_views(
    images: torch.Tensor, views: Views, chunk: Views | None = None, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Make views of `images` (n, C, H, W) uint8 or float in [0, 255], for the positions in `chunk` (all of `views` if None).

    Sample i of `views` is image i, or with `rows` (samples,) int64 image `rows[i]`: an epoch may show an image several times, each
    time as a sample of its own. Returns (positions, C, H, W) float32 in [0, 1]. Partners are seen through their own crop and flip
    of the epoch.
    """
    part = views if chunk is None else chunk
    shown = (lambda samples: samples) if rows is None else (lambda samples: rows[samples])
    own = _cropped(images, shown(part.order), part.box, part.flip)
    mixed = part.partner != part.order
    if not bool(mixed.any()):
        return own
    position = torch.empty(len(views), dtype=torch.int64)
    position[views.order] = torch.arange(len(views))
    there = position[part.partner]
    other = _cropped(images, shown(part.partner), views.box[there], views.flip[there])
    share = part.share.to(own.device)[:, None, None, None]
    result = share * own + (1 - share) * other
    axis = torch.arange(own.shape[-1])
    x1, y1, x2, y2 = (part.mix_box[:, side, None] for side in range(4))
    patch = ((axis >= y1) & (axis < y2))[:, :, None] & ((axis >= x1) & (axis < x2))[:, None, :]
    return torch.where(patch[:, None].to(own.device), other, result)


def _cropped(images: torch.Tensor, places: torch.Tensor, box: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    pixels = images[places.to(images.device)].float() / 255
    size = pixels.shape[-1]
    rows = axis_matrices(box[:, 0], box[:, 2], size).to(pixels)
    columns = axis_matrices(box[:, 1], box[:, 3], size, flip).to(pixels)
    return apply_matrices(pixels, rows, columns)
