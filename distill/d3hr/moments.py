"""Central moments of latents, of many groups at once, in any number of parts.

Parts are merged by the update of Chan, Golub and LeVeque (1979), its third and fourth moments by Pébay (2008), in float64: the
order of parts and their number change nothing beyond rounding (`docs/specs/d3hr.md`, selection). Sums of squares would lose the variance
to a common offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from distill.errors import DistillError


@dataclass(frozen=True)
class Moments:
    """Count (g,) int64, mean (g, D) and sums of powers of deviations from it, `m2` to `m4` (g, D), all float64, of g groups.

    `m3` and `m4` are None where only mean and variance are wanted. A group without members has zeros.
    """

    count: torch.Tensor
    mean: torch.Tensor
    m2: torch.Tensor
    m3: torch.Tensor | None = None
    m4: torch.Tensor | None = None

    @staticmethod
    def of(
        latents: torch.Tensor, groups: torch.Tensor | None = None, count: int | None = None, higher: bool = False
    ) -> Moments:
        """Measure latents (n, ...), flattened to (n, D), by group (n,) int64 in 0..count-1; None is one group.

        `higher` takes the third and fourth moments too. `DistillError` for a latent that is not finite, naming its row.
        """
        exact = latents.detach().flatten(1).double()
        broken = (~exact.isfinite()).any(1).nonzero()[:, 0]
        if len(broken):
            raise DistillError(
                f"{len(broken)} of {len(exact)} latents are not finite, the first is latent {int(broken[0])}"
            )
        if groups is None:
            groups = torch.zeros(len(exact), dtype=torch.int64, device=exact.device)
        size = count if count is not None else int(groups.max()) + 1 if len(groups) else 1
        if len(groups) != len(exact) or (len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < size):
            raise DistillError(
                f"groups take one number from 0 to {size - 1} for each of {len(exact)} latents, got {len(groups)}"
            )
        sizes = groups.bincount(minlength=size)
        zeros = exact.new_zeros(size, exact.shape[1])
        mean = zeros.index_add(0, groups, exact) / sizes.clamp_min(1)[:, None]
        deviation = exact - mean[groups]
        powers = [zeros.index_add(0, groups, deviation**power) for power in ((2, 3, 4) if higher else (2,))]
        return Moments(sizes, mean, *powers)

    def merge(self, other: Moments) -> Moments:
        """Merge the moments of two sets of latents, group by group; higher moments where both have them."""
        if self.mean.shape != other.mean.shape:
            raise DistillError(
                f"moments of {tuple(self.mean.shape)} and {tuple(other.mean.shape)} groups and dimensions cannot be merged"
            )
        mine, others = self.count.double()[:, None], other.count.double()[:, None]
        total = (mine + others).clamp_min(1)
        delta = other.mean - self.mean
        mean = self.mean + delta * others / total
        m2 = self.m2 + other.m2 + delta.square() * mine * others / total
        if self.m3 is None or self.m4 is None or other.m3 is None or other.m4 is None:
            return Moments(self.count + other.count, mean, m2)
        step = delta / total
        m3 = (
            self.m3
            + other.m3
            + delta * step.square() * mine * others * (mine - others)
            + 3 * step * (mine * other.m2 - others * self.m2)
        )
        m4 = (
            self.m4
            + other.m4
            + delta * step**3 * mine * others * (mine.square() - mine * others + others.square())
            + 6 * step.square() * (mine.square() * other.m2 + others.square() * self.m2)
            + 4 * step * (mine * other.m3 - others * self.m3)
        )
        return Moments(self.count + other.count, mean, m2, m3, m4)

    @staticmethod
    def merged(parts: Iterable[Moments]) -> Moments:
        """Merge parts in their order; at least one."""
        return reduce(Moments.merge, parts)

    def variance(self) -> torch.Tensor:
        """Compute the unbiased variance (g, D) float64; NaN for a group of fewer than two."""
        return self.m2 / torch.where(self.count > 1, self.count - 1, torch.nan)[:, None]

    def excess_kurtosis(self) -> torch.Tensor:
        """Compute n m4 / m2^2 - 3 (g, D) float64, which is 0 for a Gaussian; NaN where nothing varies. Needs `higher` moments."""
        if self.m4 is None:
            raise DistillError("these moments end at the variance; measure them with higher")
        return self.count.double()[:, None] * self.m4 / self.m2.square() - 3

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the moments as arrays by name, for a file; `from_arrays` reads them back to the bit."""
        named = {"count": self.count, "mean": self.mean, "m2": self.m2, "m3": self.m3, "m4": self.m4}
        return {name: value.cpu().numpy() for name, value in named.items() if value is not None}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Moments:
        """Restore moments from `arrays`; `DistillError` for a name that is missing."""
        for name in ("count", "mean", "m2"):
            if name not in arrays:
                raise DistillError(f"moments have arrays count, mean and m2, and {name} is missing")
        return Moments(**{name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
