"""Guidance: the formula, when it applies, and noise on the condition. Arithmetic on tensors; no model is called here."""

from __future__ import annotations

import torch

from synth.backends.protocol import Conditioning
from synth.errors import SynthError
from synth.settings import Cads


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
