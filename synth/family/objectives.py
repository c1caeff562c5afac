"""What the models of the reference family minimise. Plain functions of tensors; every mean is over all elements."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from synth.schedules import min_snr_weights


def reconstruction(model: Any, images: Tensor, generator: torch.Generator, kl: float) -> tuple[Tensor, Tensor]:
    """Reconstruct images (n, 3, h, w) in [-1, 1]; returns the loss, with a graph, and the mean squared error.

    Mean absolute error, half that of the differences between neighbours (edges stay sharp without a discriminator), and `kl` times
    the mean divergence of a latent from N(0, 1) (Kingma and Welling 2014).
    """
    posterior = model.encode(images).latent_dist
    mean, spread = posterior.mean.float(), posterior.logvar.float()
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    decoded = model.decode(mean + torch.exp(0.5 * spread) * noise).sample.float()
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean.square() + spread.exp() - 1.0 - spread).mean()
    return error.abs().mean() + 0.5 * edges + kl * divergence, error.detach().square().mean()


def contrast(images: Tensor, texts: Tensor, log_scale: Tensor, same: Tensor) -> Tensor:
    """Compute CLIP's symmetric cross-entropy (Radford et al. 2021) of embeddings (n, d); `same` (n, n) bool marks equal texts.

    A small vocabulary repeats its captions: pairs with the same text share the target's mass instead of being told apart.
    """
    logits = log_scale.exp() * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
    target = same.float() / same.sum(1, keepdim=True)
    return 0.5 * (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target))


def denoising(
    predicted: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor, schedule: Any, gamma: float
) -> Tensor:
    """Compute the squared error (scalar) of a predicted noise or velocity (n, ...), weighted by min-SNR with `gamma`."""
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, timesteps) if velocity else noise
    signal = schedule.alphas_cumprod.to(latents.device)[timesteps]
    weight = min_snr_weights(signal, gamma, schedule.config.prediction_type).to(target)
    return ((predicted.float() - target).square().flatten(1).mean(1) * weight).mean()
