"""Checks of feature rows, products of two sets block by block, and images resized. Every score uses them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from synth.errors import SynthError

ROWS = 1024  # of the first set at a time: 80 MB against 10,000 of the second


def feature_rows(features: torch.Tensor, name: str = "features") -> torch.Tensor:
    """Check features (n, d) and return them as float64 on their device; SynthError for another shape or a value that is not finite.

    Distances are differences of large numbers, and float32 has too few digits for them.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise SynthError(f"{name} take one row for each image, got a tensor of shape {tuple(features.shape)}")
    if not bool(features.isfinite().all()):
        raise SynthError(
            f"{name} hold a value that is not finite: leave out the images that scored `non_finite` above 0"
        )
    return features.detach().double()


def feature_pair(generated: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Check both sets and return them as float64; SynthError where their widths differ."""
    first, second = feature_rows(generated, "generated features"), feature_rows(real, "real features")
    if first.shape[1] != second.shape[1]:
        raise SynthError(
            f"generated features have {first.shape[1]} numbers and real ones {second.shape[1]}: take both from one network"
        )
    return first, second


def unit_rows(features: torch.Tensor) -> torch.Tensor:
    """Scale rows to length 1; a row of zeros stays one, so its cosine to anything is 0."""
    return torch.nn.functional.normalize(features, dim=1)


def products(first: torch.Tensor, second: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield `first @ second.T` in blocks, each with the slice of rows of `first` that it is of."""
    for start in range(0, first.shape[0], ROWS):
        rows = slice(start, min(start + ROWS, first.shape[0]))
        yield rows, first[rows] @ second.T


def squared_distances(first: torch.Tensor, second: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield squared Euclidean distances in blocks as `products` does, never below 0."""
    lengths = second.square().sum(1)
    for rows, block in products(first, second):
        yield rows, (first[rows].square().sum(1)[:, None] + lengths - 2 * block).clamp_(min=0)


def resized(images: torch.Tensor, size: Sequence[int], mode: str = "bilinear") -> torch.Tensor:
    """Resize images (n, 3, any, any) to `size` (h, w), antialiased, in [0, 1]; returned untouched where they have it."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return torch.nn.functional.interpolate(images, tuple(size), mode=mode, antialias=True).clamp(0, 1)
