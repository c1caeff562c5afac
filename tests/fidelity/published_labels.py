"""The published relabelling's random streams and files (FKD), written anew, for `distill.views` to be held against.

Legacy global streams are passed in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from augment.mixing import cutmix_box
from distill.views import Views


def sampler_orders(count: int, seed: int = 42) -> Iterator[list[int]]:
    """Orders of epoch 0, 1, ... of a RandomSampler with a seeded generator.

    PyTorch's sampler draws a second permutation at the end of every epoch (for the remainder, which is empty) and does
    not use it; without that draw every order after the first would differ.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randperm(count, generator=generator).tolist()
        torch.randperm(count, generator=generator)


def draw_cutmix(
    rng: np.random.RandomState, size: int, share: float | None = None
) -> tuple[float, tuple[int, int, int, int]]:
    """lambda from Beta(1, 1) unless given, then the patch from two uniform integers, in the published order of draws.

    The patch is x1, y1, x2, y2 as everywhere here, x along columns; `as_recorded` gives the numbers of the published files, whose
    first integer is a row.
    """
    drawn = float(rng.beta(1.0, 1.0)) if share is None else share
    row, column = int(rng.randint(size)), int(rng.randint(size))
    return drawn, cutmix_box((size, size), drawn, column, row)


def as_recorded(box: Sequence[int]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 as the published records have it, rows first (`images[:, :, first:third, second:fourth]`); and back again."""
    x1, y1, x2, y2 = (int(side) for side in box)
    return y1, x1, y2, x2


def read_record(record: Sequence[Any], order: Sequence[int], size: int) -> tuple[Views, torch.Tensor]:
    """One published batch file as views of `size` pixels, and its logits (B, C) float32.

    `record` is the list that the file holds: crops (B, 4) as top, left, height, width in shares of the image, mirrored (B,),
    partner's place in the batch (B,), lambda, patch or None (mixup), logits. No names are stored: `order` is the batch's part of
    `sampler_orders`.
    """
    crops, flip, partner, share, patch, logits = record
    places, count = torch.as_tensor(order, dtype=torch.int64), len(order)
    if not len(crops) == len(flip) == len(partner) == len(logits) == count:
        raise ValueError(
            f"the record is of {len(crops)} samples, and {count} places were given: take its batch's part of the order"
        )
    box = torch.zeros(count, 4, dtype=torch.int64)
    if patch is not None:
        box[:] = torch.tensor(as_recorded(patch))
    weight = torch.full((count,), 1.0 if patch is not None else float(share))
    edges = (torch.as_tensor(crops, dtype=torch.float32) * size).round()  # as Pillow's crop rounds them
    flips = torch.as_tensor(flip).bool()
    return Views(places, edges, flips, places[torch.as_tensor(partner).long()], box, weight), torch.as_tensor(
        logits
    ).float()


def record_bytes(samples: int, classes: int) -> int:
    """Payload of one stored batch: fp16 logits, crop (16), flip (1) and permutation (8 bytes) for every sample."""
    return samples * (2 * classes + 16 + 1 + 8)
