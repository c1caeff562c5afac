"""Lists of images for epochs of long-tailed sets: repeated, class by class, or each once. Places and counts in, places out.

`distill.training` takes such lists as `positions`. Random numbers are raw outputs of PCG64, which numpy promises for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from augment.seeds import operation_seed
from distill.errors import DistillError

Places = np.ndarray[Any, np.dtype[np.int64]]


def repeat_factors(counts: Sequence[int] | np.ndarray, threshold: float) -> np.ndarray:
    """Compute how often an image of each class is shown in a pass (C,): max(1, sqrt(threshold / share of the class)).

    Repeat factor sampling of LVIS (Gupta et al. 2019); `docs/specs/long_tails.md`, sampling. `DistillError` for a class without an image.
    """
    images = np.asarray(counts, np.float64)
    if not threshold > 0 or (images < 1).any():
        raise DistillError(
            f"repeat factors take a threshold above 0 and an image of each class, got {threshold} and {images.min():.0f}"
        )
    return np.maximum(1.0, np.sqrt(threshold * images.sum() / images))


def repeated(labels: np.ndarray, factors: np.ndarray, seed: int, number: int) -> Places:
    """List pass `number` over images with these `labels` (n,): each as often as the whole part of its class's factor, once more by
    chance of the rest."""
    each = factors[labels]
    uniform = _numbers(seed, number, "repeat").random_raw(len(labels)) / 2.0**64
    return np.repeat(np.arange(len(labels)), (each + uniform).astype(np.int64))


def class_balanced(labels: np.ndarray, count: int, seed: int, number: int) -> Places:
    """Draw `count` images: a class uniformly, then one of its images (off uniform by 2^-32 of its size at most)."""
    classes, sizes = np.unique(labels, return_counts=True)
    starts, by_class = np.cumsum(sizes) - sizes, np.argsort(labels, kind="stable")
    raw = _numbers(seed, number, "balanced").random_raw(2 * count)
    drawn = (raw[:count] % np.uint64(len(classes))).astype(np.int64)
    within = (raw[count:] % sizes[drawn].astype(np.uint64)).astype(np.int64)
    chosen: Places = by_class[starts[drawn] + within]
    return chosen


def shuffled(count: int, seed: int, number: int) -> Places:
    """List 0..count-1 in the random order of pass `number`."""
    return np.argsort(_numbers(seed, number, "pass").random_raw(count), kind="stable")


def cut(passes: Callable[[int], Places], length: int, epochs: int) -> list[Places]:
    """Cut pass 0, 1, ... laid end to end into `epochs` lists of `length` places each."""
    pieces: list[Places] = []
    while sum(map(len, pieces)) < length * epochs:
        pieces.append(passes(len(pieces)))
    joined = np.concatenate(pieces)
    return [joined[epoch * length : (epoch + 1) * length] for epoch in range(epochs)]


def _numbers(seed: int, number: int, purpose: str) -> np.random.PCG64:
    return np.random.PCG64(operation_seed(seed, number, f"sampling/{purpose}"))
