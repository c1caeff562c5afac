"""Scores from neighbours in feature space: precision, recall, density, coverage; diversity; the nearest real image of each.

Features are (n, d) of any float type; everything is computed in float64 and does not depend on the order of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from synth.errors import SynthError
from synth.quality.arrays import feature_pair, feature_rows, products, squared_distances, unit_rows

CLOSE = 1e-12  # of the squared size of the sets: distances this near are equal, and float64 cannot say which is larger
EQUAL_COSINE = 1e-9


@dataclass(frozen=True)
class Manifold:
    """How two sets lie round each other: shares in [0, 1], and `density`, which has no upper end."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(generated: torch.Tensor, real: torch.Tensor, k: int = 5) -> Manifold:
    """Compare the regions that both sets cover: balls round each image, to its k-th nearest other image of its own set, rim included.

    `precision` is the share of generated images in any real ball and `recall` that of real images in any generated ball
    (Kynkäänniemi et al. 2019, equations 1-2; they take k = 3). `density` is the number of real balls that a generated image lies
    in, over k, and `coverage` the share of real balls with a generated image inside (Naeem et al. 2020, equations 3-4; k = 5).

    Limits: needs k + 1 images in each set, and all four depend on n and k: compare at equal n. An outlier's ball is large, which
    flatters precision and recall; density and coverage were made against it. Equal sets have density (k + 1) / k, for then each
    image also lies in its own ball.
    """
    first, second = feature_pair(generated, real)
    if k < 1 or min(len(first), len(second)) <= k:
        raise SynthError(
            f"neighbours take k from 1 and more than k images in each set, got k = {k}, {len(first)} and {len(second)}"
        )
    centre = second.mean(0)  # far from the origin squares lose digits
    first, second = first - centre, second - centre
    slack = CLOSE * float(torch.cat((first, second)).square().sum(1).max())
    around_generated, around_real = _radii(first, k) + slack, _radii(second, k) + slack
    balls = first.new_zeros(len(first))
    recalled, covered = (torch.zeros(len(second), dtype=torch.bool, device=second.device) for _ in range(2))
    for rows, distances in squared_distances(first, second):
        inside = distances <= around_real
        balls[rows] = inside.sum(1).double()
        covered |= inside.any(0)
        recalled |= (distances <= around_generated[rows, None]).any(0)
    return Manifold(
        precision=float((balls > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(balls.mean()) / k,
        coverage=float(covered.double().mean()),
    )


def _radii(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Return the squared distance (n,) of each row to its k-th nearest other row."""
    radii = rows.new_empty(len(rows))
    for block, distances in squared_distances(rows, rows):
        own = torch.arange(block.start, block.stop, device=rows.device)
        distances[torch.arange(len(own), device=rows.device), own] = torch.inf
        radii[block] = distances.kthvalue(k, dim=1).values
    return radii


def vendi(features: torch.Tensor) -> float:
    """Compute the effective number of different images: exp of the entropy of K / n's eigenvalues, K of cosines (Friedman and Dieng 2023).

    1 where all are equal, n where all are orthogonal. Limits: it never exceeds n nor d, so compare at equal n; it sees no real
    image, so noise is diverse; and features whose cosines are all high, as CLIP's are, keep it low.
    """
    rows = unit_rows(feature_rows(features))
    if not len(rows):
        raise SynthError("this score needs 1 image, got 0")
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows  # the same eigenvalues but zeros
    values = torch.linalg.eigvalsh(gram / len(rows)).clamp(min=0)
    return float(torch.special.entr(values).sum().exp())


def nearest(features: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find each row's nearest of `references` (m, d); returns its cosine (n,) float64 and its row (n,) int64.

    Among equals (to 1e-9) the first is taken.
    """
    first, second = feature_pair(features, references)
    if not len(second):
        raise SynthError("there is no image to be near to: give one reference or more")
    cosines, indices = [first.new_empty(0)], [torch.empty(0, dtype=torch.int64, device=first.device)]
    for _, block in products(unit_rows(first), unit_rows(second)):
        best = block.amax(1)
        indices.append((block >= best[:, None] - EQUAL_COSINE).to(torch.uint8).argmax(1))
        cosines.append(best)
    return torch.cat(cosines).clamp(-1, 1), torch.cat(indices)
