"""The published relabelling's own random streams and record size, for reading or comparing with its label files (FKD).

Nothing else uses legacy global streams; here they are passed in. The improved path is `distill.views`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from augment.mixing import cutmix_box


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
    """lambda from Beta(1, 1) unless given, then the patch from two uniform integers, in the published order of draws."""
    drawn = float(rng.beta(1.0, 1.0)) if share is None else share
    centre_x, centre_y = int(rng.randint(size)), int(rng.randint(size))
    return drawn, cutmix_box((size, size), drawn, centre_x, centre_y)


def record_bytes(samples: int, classes: int) -> int:
    """Payload of one stored batch: fp16 logits, crop (16), flip (1) and permutation (8 bytes) for every sample."""
    return samples * (2 * classes + 16 + 1 + 8)
