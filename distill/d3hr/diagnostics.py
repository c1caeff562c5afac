"""How far a class's inverted latents are from the Gaussian that D3HR takes them for (`docs/specs/d3hr.md`, diagnostics).

Noising forward to the level would give mean sqrt(abar) mu_0 and variance abar sigma_0^2 + 1 - abar, and independent normal
dimensions. Inversion under strong guidance forgets the mean and spreads the variances; these numbers say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from distill.d3hr.moments import Moments
from distill.errors import DistillError

#: Dimensions whose correlations with all others are computed at once.
ROWS = 512


@dataclass(frozen=True)
class Diagnostics:
    """What became of one class at one level, or the mean of several.

    `cosine` of the class's mean to that of its clean latents (forward noising keeps the direction: 1); `mean_rms` and what noising
    forward predicts; the variance's mean, lowest and highest over dimensions, and the mean predicted; mean excess
    `kurtosis` over dimensions (Gaussian: 0); mean absolute `correlation` of two dimensions and its `floor`, which
    as many independent images would show. None where not measured.
    """

    cosine: float
    mean_rms: float
    predicted_mean_rms: float
    variance: float
    lowest_variance: float
    highest_variance: float
    predicted_variance: float
    kurtosis: float | None = None
    correlation: float | None = None
    correlation_floor: float | None = None


def diagnostics(
    moments: Moments,
    clean: Moments,
    abar: float,
    correlations: Sequence[tuple[float, float]] | None = None,
) -> list[Diagnostics]:
    """Compare each class's moments at a level with those of its clean latents; `abar` is alpha-bar of the level, in (0, 1].

    Kurtosis is measured where `moments` has fourth moments, over dimensions that vary. `correlations`: the result of
    `correlation` for each class. `DistillError` for classes of fewer than two images and for moments of other classes or dimensions.
    """
    if moments.mean.shape != clean.mean.shape:
        raise DistillError(
            f"diagnostics compare moments of the same latents, got {tuple(moments.mean.shape)} and clean {tuple(clean.mean.shape)}"
        )
    if not 0 < abar <= 1:
        raise DistillError(f"abar takes a number above 0 and up to 1, got {abar}")
    few = ((moments.count < 2) | (clean.count < 2)).nonzero()[:, 0]
    if len(few):
        raise DistillError(f"diagnostics take two images of each class, and class {int(few[0])} has fewer")
    variance, clean_variance = moments.variance(), clean.variance()
    kurtosis = None if moments.m4 is None else moments.excess_kurtosis()
    rows = []
    for place in range(len(moments.mean)):
        own, base = moments.mean[place], clean.mean[place]
        norms = float(own.norm() * base.norm())
        varies = variance[place] > 0
        shown = None if correlations is None else correlations[place]
        rows.append(
            Diagnostics(
                cosine=float(own @ base) / norms if norms else 0.0,
                mean_rms=_rms(own),
                predicted_mean_rms=abar**0.5 * _rms(base),
                variance=float(variance[place].mean()),
                lowest_variance=float(variance[place].min()),
                highest_variance=float(variance[place].max()),
                predicted_variance=abar * float(clean_variance[place].mean()) + 1 - abar,
                kurtosis=float(kurtosis[place][varies].mean()) if kurtosis is not None and bool(varies.any()) else None,
                correlation=shown and shown[0],
                correlation_floor=shown and shown[1],
            )
        )
    return rows


def correlation(latents: torch.Tensor) -> tuple[float, float]:
    """Measure the mean absolute correlation of two different dimensions of a class's latents (n, ...), and its noise floor.

    The floor is what n independent images with independent normal dimensions show in the mean. Dimensions that do not vary are left
    out; 0 where fewer than two vary. `DistillError` for fewer than three images, which correlate fully whatever they are.
    """
    exact = latents.detach().flatten(1).double()
    images = len(exact)
    if images < 3:
        raise DistillError(f"a correlation takes three images or more of a class, got {images}")
    centred = exact - exact.mean(0)
    norms = centred.norm(dim=0)
    standard = (centred / norms)[:, norms > 0]
    dimensions = standard.shape[1]
    floor = math.exp(math.lgamma((images - 1) / 2) - math.lgamma(images / 2)) / math.sqrt(math.pi)
    if dimensions < 2:
        return 0.0, floor
    total = sum(float((rows.T @ standard).abs().sum()) for rows in standard.split(ROWS, dim=1))
    return (total - dimensions) / (dimensions * (dimensions - 1)), floor


def averaged(rows: Sequence[Diagnostics]) -> Diagnostics:
    """Average the diagnostics of several classes, one or more, field by field; a field that any of them lacks is None."""
    means: dict[str, float | None] = {}
    for field in fields(Diagnostics):
        values = [getattr(row, field.name) for row in rows]
        means[field.name] = None if None in values else sum(values) / len(values)
    return Diagnostics(**means)  # type: ignore[arg-type]


def _rms(values: torch.Tensor) -> float:
    """The root mean square of values (D,)."""
    return float(values.square().mean().sqrt())
