"""Distances between two sets of features: FID, KID and CMMD. Papers are in `docs/specs/generators.md`, set scores.

All take `generated` (n, d) and `real` (m, d) of any float type and compute in float64. None depends on the order of rows, but for
the subsets that KID draws where a set is larger than one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from synth.errors import SynthError
from synth.quality.arrays import feature_pair, products, unit_rows

SIGMA, SCALE = 10.0, 1000.0  # of CMMD, as published
Kernel = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Kid:
    """KID's `mean` over subsets and their standard deviation `std`, 0 where there is one. May be below 0: unbiased."""

    mean: float
    std: float


def fid(generated: torch.Tensor, real: torch.Tensor) -> float:
    """Compute the Frechet distance, from 0, of the Gaussians with both sets' moments (Heusel et al. 2017, equation 6).

    |mu_g - mu_r|^2 + tr(S_g + S_r - 2 (S_g S_r)^(1/2)), covariances over n - 1. With S = F^T F the last trace is the sum of the
    singular values of F_g F_r^T, so no root of a matrix is taken and nothing is added to a diagonal.

    Limits: biased upwards at small n, by an amount that differs between generators: compare only at equal n, and not at all near
    n = d, from where covariances have no full rank. The published numbers are of 50,000 images in Inception's features. It sees
    two moments only.
    """
    first, second = feature_pair(generated, real)
    _at_least(2, first, second)
    (mean_g, root_g), (mean_r, root_r) = _moments(first), _moments(second)
    common = torch.linalg.svdvals(root_g @ root_r.T).sum()
    distance = (mean_g - mean_r).square().sum() + root_g.square().sum() + root_r.square().sum() - 2 * common
    return max(0.0, float(distance))


def _moments(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (d,) of rows and F, of at most d rows, with F^T F their covariance."""
    mean = rows.mean(0)
    root = (rows - mean) / (rows.shape[0] - 1) ** 0.5
    if root.shape[0] > root.shape[1]:
        root = torch.linalg.qr(root, mode="r").R
    return mean, root


def kid(
    generated: torch.Tensor, real: torch.Tensor, generator: torch.Generator, subsets: int = 100, size: int = 1000
) -> Kid:
    """Estimate the squared MMD under (x.y / d + 1)^3, unbiased (Binkowski et al. 2018, equation 4), over subsets of both sets.

    `size` rows, or as many as the smaller set has, are drawn from each without replacement with `generator` (on the CPU). Where
    neither set is larger than that, one subset says all and nothing is drawn.

    Limits: unbiased at any n from 2, so it may be negative, and is as uncertain as `std` says; cubes let outliers weigh much; its
    scale is that of the features.
    """
    first, second = feature_pair(generated, real)
    _at_least(2, first, second)
    if subsets < 1 or size < 2:
        raise SynthError(f"KID takes a subset or more of 2 rows or more, got {subsets} of {size}")
    width = first.shape[1]
    size = min(size, first.shape[0], second.shape[0])
    if size == first.shape[0] == second.shape[0]:
        subsets = 1

    def kernel(product: torch.Tensor) -> torch.Tensor:
        return (product / width + 1) ** 3

    values = []
    for _ in range(subsets):
        chosen = [
            rows[torch.randperm(len(rows), generator=generator)[:size].to(rows.device)] for rows in (first, second)
        ]
        values.append(_squared_mmd(chosen[0], chosen[1], kernel))
    each = torch.tensor(values, dtype=torch.float64)
    return Kid(float(each.mean()), float(each.std(correction=0)))


def cmmd(generated: torch.Tensor, real: torch.Tensor, *, biased: bool = False) -> float:
    """Estimate 1000 times the squared MMD of CLIP features under exp(-|x - y|^2 / (2 sigma^2)), sigma 10 (Jayasumana et al. 2024, 3.2).

    Rows are scaled to length 1 first. Unbiased as in the paper's equation 4, so it may be below 0; `biased` counts each row with
    itself as the published code does, which adds what is nothing at 30,000 images and as much as the score itself at 100.

    Limits: meant for CLIP's features (the paper's are of ViT-L/14 at 336 pixels); numbers of other towers do not compare.
    """
    first, second = feature_pair(generated, real)
    _at_least(1 if biased else 2, first, second)

    def kernel(product: torch.Tensor) -> torch.Tensor:
        return torch.exp((product - 1) / SIGMA**2)  # |x - y|^2 = 2 - 2 x.y

    return SCALE * _squared_mmd(unit_rows(first), unit_rows(second), kernel, biased)


def _squared_mmd(first: torch.Tensor, second: torch.Tensor, kernel: Kernel, biased: bool = False) -> float:
    """Estimate the squared MMD under a kernel that is a function of the inner product."""

    def within(rows: torch.Tensor) -> torch.Tensor:
        total, count = _kernel_sum(rows, rows, kernel), rows.shape[0]
        if biased:
            return total / count**2
        return (total - kernel(rows.square().sum(1)).sum()) / (count * (count - 1))

    between = _kernel_sum(first, second, kernel) / (first.shape[0] * second.shape[0])
    return float(within(first) + within(second) - 2 * between)


def _kernel_sum(first: torch.Tensor, second: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    total = first.new_zeros(())
    for _, block in products(first, second):
        total += kernel(block).sum()
    return total


def _at_least(count: int, *sets: torch.Tensor) -> None:
    fewest = min(rows.shape[0] for rows in sets)
    if fewest < count:
        raise SynthError(f"this score needs {count} images in each set, got {fewest}")
