"""Guidance: the formula, when it applies, and noise on the condition. Arithmetic on tensors; no model is called here.

Sources are in `docs/specs/generators.md`, guidance.
"""

from __future__ import annotations

import torch

from synth.backends.protocol import Conditioning
from synth.errors import SynthError
from synth.settings import Cads


def combine(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Mix two outputs (n, ...) to u + w (c - u), classifier-free guidance (Ho and Salimans 2022); w 1 is the condition alone."""
    return unconditional + scale * (conditional - unconditional)


def guided(scale: float, interval: tuple[float, float], time: float) -> bool:
    """Say whether a step runs the unconditional branch: at a scale above 1, inside the interval (Kynkäänniemi et al. 2024).

    `time` is the timestep's share of the schedule in [0, 1]; the interval's lower end is left out unless it is 0.
    """
    low, high = interval
    return scale > 1 and (low < time or low == 0) and time <= high


def annealed(conditioning: Conditioning, cads: Cads, time: float, sources: list[torch.Generator]) -> Conditioning:
    """Put CADS' noise on the text embeddings of one step and return the noisy conditioning; sizes, boxes and masks stay.

    y' = sqrt(g) y + s sqrt(1 - g) n, brought back to y's mean and deviation. Draws n for each sample from its own generator in
    `sources`, and nothing where the share g that is left is 1. SynthError where there is no text embedding.
    """
    share = cads.condition_share(time)
    if share >= 1 or cads.scale == 0:
        return conditioning
    noisy = {}
    for name in ("context", "pooled"):
        if name not in conditioning.tensors:
            continue
        clean = conditioning.tensors[name].float()
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in sources]).to(clean.device)
        mixed = share**0.5 * clean + cads.scale * (1 - share) ** 0.5 * noise
        axes = tuple(range(1, clean.ndim))
        deviation = mixed.std(axes, keepdim=True).clamp_min(1e-8)
        rescaled = (mixed - mixed.mean(axes, keepdim=True)) / deviation
        rescaled = rescaled * clean.std(axes, keepdim=True) + clean.mean(axes, keepdim=True)
        noisy[name] = cads.mix * rescaled + (1 - cads.mix) * mixed
    if not noisy:
        raise SynthError("cads puts noise on a text embedding, and this model's condition is a class number")
    return conditioning.having(**noisy)
