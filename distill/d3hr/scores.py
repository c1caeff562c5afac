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
    members, mean, deviation = members.double(), mean.double(), deviation.double()
    distance = float((members.mean(0) - mean).norm())
    if len(members) < 2:
        return Scores(distance, None, None)
    own = members.std(0)
    spread = float((own - deviation).norm())
    return Scores(distance, spread, float(skew_norm(members[None])[0]))


def skew_norm(members: torch.Tensor) -> torch.Tensor:
    """Compute the norm (m,) over members of q_i = D / ((D - 1)(D - 2)) sum_d z_id^3 of groups (m, n, D).

    z is standardised by the group's own mean and unbiased deviation; a dimension in which the members do not differ counts as 0.
    """
    dimensions = members.shape[2]
    centred = members - members.mean(1, keepdim=True)
    spread = (centred.square().sum(1, keepdim=True) / (members.shape[1] - 1)).sqrt()
    standard = centred / torch.where(spread > 0, spread, torch.inf)
    factor = dimensions / max(1, (dimensions - 1) * (dimensions - 2))
    return (factor * standard.pow(3).sum(2)).norm(dim=1)


def factorised_totals(noise: torch.Tensor, variances: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Compute the score (m, c) of each draw of standard noise (m, n, D) as a group of each class, whose `variances` are (D, c).

    It is that of the members mean + deviation * noise. Of groups of one only the mean counts.
    """
    means = noise.mean(1)
    if noise.shape[1] == 1:
        return weights[0] * (means.square() @ variances).sqrt()
    off = ((noise - means[:, None]).square_().sum(1) / (noise.shape[1] - 1)).sqrt_().sub_(1)
    mean, deviation = (torch.cat((means, off)).square_() @ variances).sqrt_().split(len(noise))
    return weights[0] * mean + weights[1] * deviation + weights[2] * skew_norm(noise)[:, None]


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
