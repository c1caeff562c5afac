"""RDED: the crops of real images of which a teacher is surest, several tiled in one image (Sun et al. 2024; `docs/specs/coresets.md`).

Nothing is optimised. The crops of a class are those of the published code for the same boxes. It spreads them over its images by
rank modulo IPC, and a smaller IPC is then no part of a larger one; here an image holds crops of consecutive ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from augment.crops import Box, draw_resized_crop
from distill.accuracy import BATCH, normalise
from distill.coresets.config import RdedConfig
from distill.errors import DistillError, DivergedError
from distill.soundness import fault_of


@dataclass(frozen=True, eq=False)
class KeyPatches:
    """The patches that a teacher is surest of, the surest first: at most one of an image.

    `pixels` (n, 3, s, s) float32 in [0, 1]; `places` (n,) int64, of which image; `boxes`, from where in it; `losses` (n,)
    float32, the teacher's cross-entropy.
    """

    pixels: torch.Tensor
    places: torch.Tensor
    boxes: list[Box]
    losses: torch.Tensor


@torch.no_grad()
def key_patches(
    model: nn.Module,
    images: Sequence[torch.Tensor],
    label: int,
    count: int,
    config: RdedConfig,
    *,
    seeds: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
) -> KeyPatches:
    """Choose the `count` patches of images of a class, uint8 (3, h, w) each, that `model` takes for `label` most surely.

    Of each image `config.crops` squares are drawn from its seed (RandomResizedCrop with aspect 1) and made `image_size` over
    `config.factor` wide, bilinear and antialiased. The teacher sees each in the middle of an image that is 0 after
    normalisation. Of an image the patch with the least cross-entropy stands, and of all images the `count` with the least, of equals
    the first. `DistillError` for too few images or a size that `factor` does not divide, `DivergedError` where a loss is not finite.
    """
    assert not model.training, "in train mode scores would depend on the batch"
    if count > len(images):
        raise DistillError(f"{count} patches of different images need as many images, got {len(images)}")
    side, rest = divmod(image_size, config.factor)
    if rest:
        raise DistillError(
            f"factor {config.factor} does not divide the {image_size} px of an image; choose one that does"
        )
    device = next(model.parameters()).device
    best: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    boxes: list[Box] = []
    together = max(1, BATCH // config.crops)
    for start in range(0, len(images), together):
        drawn = [
            _crops(image, config, side, seed)
            for image, seed in zip(images[start : start + together], seeds[start : start + together], strict=True)
        ]
        patches = torch.stack([pixels for pixels, _ in drawn])
        of_patch = _losses(model, patches.flatten(0, 1).to(device), label, mean, std, image_size)
        least, which = of_patch.reshape(len(drawn), config.crops).cpu().min(1)
        losses.append(least)
        best.append(patches[torch.arange(len(drawn)), which])
        boxes += [own[place] for (_, own), place in zip(drawn, which.tolist(), strict=True)]
    of_image = torch.cat(losses)
    if not bool(of_image.isfinite().all()):
        raise DivergedError(
            f"the teacher's answers to crops are not finite numbers ({fault_of(model) or 'they overflow'})"
        )
    places = of_image.argsort(stable=True)[:count]
    return KeyPatches(torch.cat(best)[places], places, [boxes[place] for place in places.tolist()], of_image[places])


def _crops(image: torch.Tensor, config: RdedConfig, side: int, seed: int) -> tuple[torch.Tensor, list[Box]]:
    """Draw and resize the crops of one image: (crops, 3, side, side) float32 in [0, 1], and where they are from."""
    generator = torch.Generator().manual_seed(seed)
    pixels = image.float() / 255
    _, height, width = image.shape
    boxes = [draw_resized_crop(height, width, config.scale, generator, (1.0, 1.0)) for _ in range(config.crops)]
    crops = [pixels[None, :, box.top : box.top + box.height, box.left : box.left + box.width] for box in boxes]
    resized = [
        F.interpolate(crop, (side, side), mode="bilinear", antialias=True, align_corners=False) for crop in crops
    ]
    return torch.cat(resized).clamp(0, 1), boxes


def _losses(
    model: nn.Module, patches: torch.Tensor, label: int, mean: Sequence[float], std: Sequence[float], image_size: int
) -> torch.Tensor:
    before = (image_size - patches.shape[-1]) // 2
    after = image_size - patches.shape[-1] - before
    shown = F.pad(normalise(patches, mean, std), (before, after, before, after))
    labels = torch.full((len(patches),), label, device=patches.device)
    return F.cross_entropy(model(shown).float(), labels, reduction="none")


def tile(patches: torch.Tensor, factor: int) -> torch.Tensor:
    """Lay patches (n factor^2, 3, s, s) into n images (n, 3, factor s, factor s), row by row, each of as many in order."""
    count, channels, side, _ = patches.shape
    grid = patches.reshape(count // factor**2, factor, factor, channels, side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, factor * side, factor * side)
