"""Guidance: the formula, when it applies, and noise on the condition. Arithmetic on tensors; no model is called here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from synth.backends.protocol import Conditioning
from synth.errors import SynthError


@dataclass(frozen=True)
class Cads:
    """Condition-annealed sampling (Sadat et al. 2024, arXiv 2310.17347): more various images of the same prompt.

    The condition's noise falls from all of `scale` above `tau2` to none below `tau1`, times in [0, 1] of the schedule (1 is
    pure noise). `mix` is the share of the rescaling to the condition's own mean and deviation.
    """

    tau1: float = 0.6
    tau2: float = 0.9
    scale: float = 0.1
    mix: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.tau1 < self.tau2 <= 1 and self.scale >= 0 and 0 <= self.mix <= 1):
            raise SynthError("cads takes 0 <= tau1 < tau2 <= 1, a scale from 0 and a mix in [0, 1]")

    def keep(self, time: float) -> float:
        """gamma(t), the share of the condition that is left: 1 up to `tau1`, 0 from `tau2`, linear between."""
        return min(1.0, max(0.0, (self.tau2 - time) / (self.tau2 - self.tau1)))


def combine(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """u + w (c - u): classifier-free guidance (Ho and Salimans 2022) as diffusers writes it; w 1 is the condition alone."""
    return unconditional + scale * (conditional - unconditional)


def guided(scale: float, interval: tuple[float, float], time: float) -> bool:
    """Whether this step runs the second branch: a scale above 1, inside the interval (Kynkäänniemi et al. 2024).

    `time` is the timestep's share of the schedule in [0, 1]; the interval's lower end is left out unless it is 0.
    """
    low, high = interval
    return scale > 1 and (low < time or low == 0) and time <= high


def annealed(conditioning: Conditioning, cads: Cads, time: float, generators: list[torch.Generator]) -> Conditioning:
    """The condition of one step under CADS, sample by sample from its own generator; sizes, boxes and masks stay as they are.

    y' = sqrt(g) y + s sqrt(1 - g) n, brought back to y's mean and deviation.
    """
    keep = cads.keep(time)
    if keep >= 1 or cads.scale == 0:
        return conditioning
    noisy = {}
    for name in ("context", "pooled"):
        if name not in conditioning.tensors:
            continue
        clean = conditioning.tensors[name].float()
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators]).to(clean.device)
        mixed = keep**0.5 * clean + cads.scale * (1 - keep) ** 0.5 * noise
        axes = tuple(range(1, clean.ndim))
        deviation = mixed.std(axes, keepdim=True).clamp_min(1e-8)
        rescaled = (mixed - mixed.mean(axes, keepdim=True)) / deviation
        rescaled = rescaled * clean.std(axes, keepdim=True) + clean.mean(axes, keepdim=True)
        noisy[name] = cads.mix * rescaled + (1 - cads.mix) * mixed
    if not noisy:
        raise SynthError("cads puts noise on a text embedding, and this model's condition is a class number")
    return conditioning.having(**noisy)
