"""Training objectives: noise levels, noised latents, targets and weights, by the model's own scheduler.

Diffusion models predict the noise, the velocity v or the image, as `prediction_type` says; flow models the direction from image to
noise. All of it is per sample and draws from the generator that is handed in. Formulas are in `docs/specs/generators.md`, schedules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from synth.errors import SynthError
from synth.schedules import is_flow, min_snr_weights


class Objective(Protocol):
    """One training objective. Levels are whole numbers (n,) int64 on the CPU; the rest lies on the latents' device."""

    def levels(self, count: int, generator: torch.Generator, stratified: bool) -> torch.Tensor: ...
    def timesteps(self, levels: torch.Tensor, device: torch.device) -> torch.Tensor: ...
    def noised(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor: ...
    def target(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor: ...
    def weights(self, levels: torch.Tensor, device: torch.device) -> torch.Tensor | None: ...


def objective_for(scheduler: Any, min_snr: float | None = None) -> Objective:
    """Choose the objective that the model of `scheduler` was trained with; `min_snr` is gamma of Hang et al. 2023, diffusion only.

    SynthError for `min_snr` with a flow model, or a prediction type that is not known.
    """
    if not is_flow(scheduler):
        return Diffusion(scheduler, min_snr)
    if min_snr is not None:
        raise SynthError(
            "min_snr weighs by a diffusion model's signal-to-noise ratio, and this one was trained by flow matching"
        )
    return Flow(scheduler)


def uniform_levels(count: int, steps: int, generator: torch.Generator, stratified: bool) -> torch.Tensor:
    """Draw levels (count,) int64 in [0, steps). Stratified: one from each of `count` equal parts, in random order.

    Each is still uniform, so the loss has the same mean with less variance (Kingma et al. 2021, appendix I.1).
    """
    if not stratified:
        return torch.randint(0, steps, (count,), generator=generator)
    places = torch.rand(count, generator=generator, dtype=torch.float64)
    places = (torch.randperm(count, generator=generator) + places) / count
    return (places * steps).long().clamp_(max=steps - 1)


@dataclass
class Diffusion:
    """DDPM's forward process with the betas of `scheduler`, whichever class it is.

    Prediction by `prediction_type`: epsilon, v_prediction (Salimans and Ho 2022: sqrt(abar) e - sqrt(1 - abar) x) or sample.
    """

    scheduler: Any
    min_snr: float | None = None

    def __post_init__(self) -> None:
        process = DDPMScheduler.from_config(self.scheduler.config)
        self.prediction = str(process.config.prediction_type)
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise SynthError(f"no objective is known for a model that predicts {self.prediction!r}")
        self.signal = process.alphas_cumprod  # abar, the share of the image's variance that is left, (steps,)

    def levels(self, count: int, generator: torch.Generator, stratified: bool) -> torch.Tensor:
        return uniform_levels(count, len(self.signal), generator, stratified)

    def timesteps(self, levels: torch.Tensor, device: torch.device) -> torch.Tensor:
        return levels.to(device)

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        signal, spread = self._scales(latents, levels)
        return signal * latents + spread * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return latents
        signal, spread = self._scales(latents, levels)
        return signal * noise - spread * latents

    def weights(self, levels: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        if self.min_snr is None:
            return None
        return min_snr_weights(self.signal[levels], self.min_snr, self.prediction).float().to(device)

    def _scales(self, latents: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        signal = self.signal[levels].to(latents.device, latents.dtype).view(-1, *[1] * (latents.dim() - 1))
        return signal.sqrt(), (1 - signal).sqrt()


@dataclass
class Flow:
    """Rectified flow (SD3, FLUX): x_s = (1 - s) x + s e, target e - x, levels logit-normal (Esser et al. 2024, section 3.1)."""

    scheduler: Any

    def __post_init__(self) -> None:
        process = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        self.count = int(process.config.num_train_timesteps)
        self.sigmas = process.sigmas[: self.count]  # from 1 downwards, with the model's own fixed shift

    def levels(self, count: int, generator: torch.Generator, stratified: bool) -> torch.Tensor:
        if stratified:
            even = uniform_levels(count, 1 << 30, generator, True).double().add_(0.5) / (1 << 30)
            normal = torch.special.ndtri(even)
        else:
            normal = torch.randn(count, generator=generator, dtype=torch.float64)
        return (normal.sigmoid() * self.count).long().clamp_(max=self.count - 1)

    def timesteps(self, levels: torch.Tensor, device: torch.device) -> torch.Tensor:
        return (self.sigmas[levels] * self.count).to(device)

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        share = self.sigmas[levels].to(latents.device, latents.dtype).view(-1, *[1] * (latents.dim() - 1))
        return (1 - share) * latents + share * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        return noise - latents

    def weights(self, levels: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        return None


def loss_of(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the mean squared error in float32 over all elements; `weights` (n,) weigh each sample's own mean."""
    error = (prediction.float() - target.float()).square()
    if weights is None:
        return error.mean()
    return (error.flatten(1).mean(1) * weights).mean()
