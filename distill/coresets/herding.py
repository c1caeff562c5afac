"""Herding: images whose running mean stays as close to the class's mean as it can (Welling 2009; Rebuffi et al. 2017, algorithm 4)."""

from __future__ import annotations

import torch

from distill.errors import DistillError


def herd(features: torch.Tensor, count: int) -> torch.Tensor:
    """Choose `count` of features (n, d), one after another; return their places (count,) int64, in the order of the choice.

    Next is the one that takes the mean of the chosen closest to the mean of all, none twice; of several as close the first. It is
    computed in float64. Nested in `count`. `DistillError` for more than there are.
    """
    if not 1 <= count <= len(features):
        raise DistillError(f"herding chooses from 1 to {len(features)} of {len(features)} images, got {count}")
    exact = features.double()
    mean = exact.mean(0)
    total, places = torch.zeros_like(mean), []
    left = torch.ones(len(exact), dtype=torch.bool, device=exact.device)
    for already in range(count):
        # ||mean - (total + x) / (already + 1)||, scaled: that of x to what would make the mean right
        wanted = (already + 1) * mean - total
        distances = (exact - wanted).square().sum(1).masked_fill(~left, torch.inf)
        places.append(int(distances.argmin()))
        left[places[-1]] = False
        total += exact[places[-1]]
    return torch.tensor(places)
