"""Learning rates of DataDream's two training loops, and the number of an adaptation's steps. Arithmetic only."""

from __future__ import annotations

import math


def batches_in_epoch(count: int, batch_size: int) -> int:
    """Count the batches of one pass over `count` images, a last, partial one included."""
    return -(-count // batch_size)


def adaptation_steps(count: int, batch_size: int, epochs: int) -> int:
    """Count the optimiser steps of an adaptation: 400 for 16 images at batch 8 and 200 epochs."""
    return batches_in_epoch(count, batch_size) * epochs


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Return the learning rate's factor in [0, 1] at `step`, from 0: linear over `warmup` steps, then half a cosine to 0 at `total`."""
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def classifier_rates(epochs: int, iterations: int, *, peak: float, warmup_epochs: int, floor: float) -> list[float]:
    """Return the learning rate of every iteration: linear from `floor` to `peak` over the warm-up, then half a cosine back.

    Both parts are sampled with their ends included, as published, so that the peak comes twice.
    """
    warmup, total = warmup_epochs * iterations, epochs * iterations
    rising = [floor + (peak - floor) * i / max(1, warmup - 1) for i in range(min(warmup, total))]
    falling = max(0, total - warmup)
    cosine = [floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * i / falling)) for i in range(falling)]
    return rising + cosine
