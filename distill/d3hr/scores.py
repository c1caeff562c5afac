"""The published score of a group of latents against its class: mean, deviation and skew (`docs/specs/d3hr.md`, selection)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Scores:
    """The parts of one group's score, in units of the latents: smaller is nearer to the class.

    `mean` is the distance of the group's mean from the class's, `deviation` that of its standard deviations; `skew` is the published
    term, which is no skewness of any dimension. Of a group of one, `deviation` and `skew` have no meaning and are None.
    """

    mean: float
    deviation: float | None
    skew: float | None

    def total(self, weights: Sequence[float]) -> float:
        """Return the weighted sum of the parts that there are."""
        parts = (self.mean, self.deviation or 0.0, self.skew or 0.0)
        return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def score(members: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> Scores:
    """Score a group (n, D) against a class's mean and standard deviation (D,), in float64."""
    measured = measure(members.double()[None])
    distance = float((measured.means[0] - mean.double()).norm())
    if len(members) < 2:
        return Scores(distance, None, None)
    spread = float((measured.off[0] + 1 - deviation.double()).norm())
    return Scores(distance, spread, float(measured.skew[0]))


@dataclass(frozen=True)
class Measured:
    """What scores ask of draws of standard noise: `means` (m, D), unbiased deviations less 1 `off` (m, D), and `skew` (m,)."""

    means: torch.Tensor
    off: torch.Tensor
    skew: torch.Tensor


def measure(noise: torch.Tensor) -> Measured:
    """Measure draws (m, n, D) of n members each; of one member, deviation and skew count as 0.

    The skew term is the norm over members of q_i = D / ((D - 1)(D - 2)) sum_d z_id^3, z standardised by the draw's own mean and
    deviation; a dimension in which the members do not differ counts as 0.
    """
    members, dimensions = noise.shape[1:]
    means = noise.mean(1)
    if members == 1:
        return Measured(means, torch.zeros_like(means), means.new_zeros(len(means)))
    centred = noise - means[:, None]
    squares = centred.square()
    deviation = (squares.sum(1) / (members - 1)).sqrt_()
    cubes = squares.mul_(centred)
    scale = torch.where(deviation > 0, deviation, torch.inf).pow(-3)
    factor = dimensions / max(1, (dimensions - 1) * (dimensions - 2))
    skew = torch.bmm(cubes, scale[:, :, None])[:, :, 0].norm(dim=1)
    return Measured(means, deviation - 1, factor * skew)


def totals(measured: Measured, variances: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Compute the score (m, c) of each draw as a group of each class, whose `variances` are (D, c).

    It is that of the members mean + deviation * noise, by one product.
    """
    squares = torch.cat((measured.means, measured.off)).square_()
    mean, off = (squares @ variances).sqrt_().split(len(measured.means))
    return mean.mul_(weights[0]).add_(off, alpha=weights[1]).add_(measured.skew[:, None], alpha=weights[2])


def published_total(
    members: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, weights: Sequence[float]
) -> torch.Tensor:
    """Compute the score (m,) of groups (m, n, D) as published: float16 throughout, every intermediate result rounded to it.

    Mean and deviation (D,) are float16 too. A score that is no number can win nothing: infinity.
    """
    dimensions = members.shape[2]
    own_mean, own_deviation = members.mean(1), members.std(1)
    standard = (members - own_mean[:, None]) / own_deviation[:, None]
    skew = dimensions / ((dimensions - 1) * (dimensions - 2)) * standard.pow(3).sum(2)
    total = (
        weights[0] * (own_mean - mean).norm(dim=1)
        + weights[1] * (own_deviation - deviation).norm(dim=1)
        + weights[2] * skew.norm(dim=1)
    )
    return total.nan_to_num(nan=torch.inf)
