"""A class's latents at one level as a distribution to draw from: diagonal Gaussian, mixture of them, or diagonal and low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from distill.clusters import k_means
from distill.d3hr.config import SelectConfig
from distill.d3hr.moments import Moments
from distill.errors import DistillError

#: The variance of a cluster counts as much as that of all clusters together once it has so many images more than one.
PRIOR_IMAGES = 20


@dataclass(frozen=True)
class ClassModel:
    """The latents of one class: `weights` (k,) of k diagonal Gaussians of `means` and `variances` (k, D), all float32.

    `factors` (r, D): directions in which all dimensions vary together, on top of the variances; a draw is
    means[j] + sqrt(variances[j]) z + w @ factors with z (D,) and w (r,) standard normal.
    """

    weights: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor
    factors: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """The mean (D,) of the whole class."""
        return self.weights @ self.means

    @property
    def variance(self) -> torch.Tensor:
        """The variance (D,) of the whole class: within components, between them, and along the factors."""
        between = self.weights @ (self.means - self.mean).square()
        return self.weights @ self.variances + between + self.factors.square().sum(0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model as float32 arrays by name, for a file; `from_arrays` reads them back to the bit."""
        return {name: getattr(self, name).numpy() for name in ("weights", "means", "variances", "factors")}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> ClassModel:
        """Restore a model from `arrays`."""
        return ClassModel(**{name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})


def fit(latents: torch.Tensor, clean: torch.Tensor | None, ipc: int, config: SelectConfig, seed: int) -> ClassModel:
    """Fit the class model of `config` to a class's latents at the level (n, ...), flattened to (n, D).

    `clean` (n, ...): the same images' latents before inversion, which a mixture is clustered by; other models do not read it.
    `DistillError` for fewer than two images, fewer images than components, or a latent that is not finite.
    """
    if config.class_model == "mixture":
        if clean is None:
            raise DistillError("class_model mixture clusters clean latents, and there are none")
        labels = mixture_labels(clean, ipc, config, seed)
        return mixture(Moments.of(latents, labels, config.components or ipc))
    if config.class_model == "low_rank":
        return low_rank(latents, config.rank)
    return diagonal(Moments.of(latents), config)[0]


def diagonal(moments: Moments, config: SelectConfig) -> list[ClassModel]:
    """Read one diagonal Gaussian from each group of moments, for all classes at once.

    With `precision` float16 mean and variance are rounded to it, as the published files hold them.
    """
    few = (moments.count < 2).nonzero()[:, 0].tolist()
    if few:
        raise DistillError(
            f"a class needs two images to have a variance; {len(few)} classes have fewer, the first is class {few[0]} "
            f"with {int(moments.count[few[0]])}"
        )
    rounded = torch.float16 if config.settled().precision == "float16" else torch.float32
    means, variances = (part.to(rounded).float() for part in (moments.mean, moments.variance()))
    one = torch.ones(1)
    nothing = means.new_zeros(0, means.shape[1])
    return [
        ClassModel(one, mean[None], variance[None], nothing) for mean, variance in zip(means, variances, strict=True)
    ]


def mixture_labels(clean: torch.Tensor, ipc: int, config: SelectConfig, seed: int) -> torch.Tensor:
    """Split a class's clean latents (n, ...) into the components of its mixture; return labels (n,) int64."""
    components = config.components or ipc
    if len(clean) < components:
        raise DistillError(
            f"a mixture of {components} components needs as many images of the class, which has {len(clean)}; set components to "
            f"{len(clean)} or less"
        )
    return k_means(clean.flatten(1), components, seed)[1]


def mixture(moments: Moments) -> ClassModel:
    """Read a mixture from the moments of a class's clusters (k groups): share, mean, and variance shrunk to that of all clusters.

    The variance of cluster j with n_j images is ((n_j - 1) s_j^2 + 20 s^2) / (n_j - 1 + 20), s^2 being the variance within all
    clusters pooled: a cluster of one image has s^2.
    """
    total = int(moments.count.sum())
    groups = int((moments.count > 0).sum())
    if groups < len(moments.count):
        raise DistillError(f"{len(moments.count) - groups} of {len(moments.count)} components have no image")
    if total <= groups:
        raise DistillError(
            f"{groups} components of {total} images leave nothing to measure a variance within them by; set fewer"
        )
    pooled = moments.m2.sum(0) / (total - groups)
    degrees = (moments.count.double() - 1)[:, None]
    variances = (moments.m2 + PRIOR_IMAGES * pooled) / (degrees + PRIOR_IMAGES)
    weights = moments.count.double() / total
    nothing = torch.zeros(0, moments.mean.shape[1])
    return ClassModel(weights.float(), moments.mean.float(), variances.float(), nothing)


def low_rank(latents: torch.Tensor, rank: int) -> ClassModel:
    """Fit a Gaussian with the class's variances and up to `rank` directions of correlation to latents (n, ...), as (n, D).

    Directions are the largest eigenvectors of the correlation matrix. Few images of many dimensions show large eigenvalues that
    are noise: one inside the bulk, below (1 + sqrt(D / n))^2, is dropped, and one outside is shrunk to what it says of
    the covariance (Donoho, Gavish and Johnstone 2018, spiked model, Frobenius loss).
    """
    moments = Moments.of(latents)
    (base,) = diagonal(moments, SelectConfig())
    deviation = moments.variance()[0].sqrt()
    varying = deviation > 0
    standard = (latents.detach().flatten(1).double() - moments.mean[0]) / torch.where(varying, deviation, 1)
    gain, directions = _spikes(standard * varying, rank)
    # Of each dimension's variance the factors may take all, and rounding no more.
    share = gain.sqrt()[:, None] * directions
    share = share / share.square().sum(0).clamp_min(1).sqrt()
    factors = (share * deviation).float()
    residual = (base.variances - factors.square().sum(0)).clamp_min(0)
    return ClassModel(base.weights, base.means, residual, factors)


def _spikes(standard: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find up to `rank` spikes of standardised points (n, D): shrunk gain over 1 (r,), largest first, and directions (r, D)."""
    n, dimensions = standard.shape
    degrees = n - 1
    gamma = dimensions / degrees
    if dimensions <= n:
        values, vectors = torch.linalg.eigh(standard.T @ standard / degrees)
        directions = vectors.T
    else:
        values, vectors = torch.linalg.eigh(standard @ standard.T / degrees)
        directions = (vectors.T @ standard) / (values.clamp_min(1e-12) * degrees).sqrt()[:, None]
    values, directions = values.flip(0)[:rank], directions.flip(0)[:rank]
    outside = values > (1 + gamma**0.5) ** 2
    values, directions = values[outside], directions[outside]
    inner = values + 1 - gamma
    spike = (inner + (inner.square() - 4 * values).clamp_min(0).sqrt()) / 2
    cosine = (1 - gamma / (spike - 1).square()) / (1 + gamma / (spike - 1))
    return (spike - 1) * cosine.clamp_min(0), directions
