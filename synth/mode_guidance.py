"""Mode guidance: each sample's denoised estimate is pulled to a latent of its own, a mode of its class, in the first steps.

MGD3 (Chan-Santiago et al. 2025); facts, and which sign is right, in `docs/specs/d3hr.md`, mode guidance. Arithmetic on tensors; no
model is called here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from synth import schedules
from synth.errors import SynthError
from synth.requests import Request
from synth.settings import ModeGuidance


def denoised(output: torch.Tensor, noisy: torch.Tensor, signal: float, prediction: str) -> torch.Tensor:
    """Return the estimate of the clean latents (n, ...) in a model's `output` at latents `noisy` with `signal` = abar of them left.

    `prediction` says what the output is: `epsilon`, `v_prediction` or `sample`. `signal` is above 0.
    """
    if prediction == "sample":
        return output
    noise = (1 - signal) ** 0.5
    if prediction == "v_prediction":
        return signal**0.5 * noisy - noise * output
    return (noisy - noise * output) / signal**0.5


def pulled(
    output: torch.Tensor, noisy: torch.Tensor, modes: torch.Tensor, scale: torch.Tensor, signal: float, prediction: str
) -> torch.Tensor:
    """Change a model's `output` (n, ...) at latents `noisy` so that the estimate of the clean latents moves towards `modes` (n, ...).

    Of a noise prediction: eps' = eps - scale sigma (mode - x0hat) with sigma = sqrt(1 - abar), so that
    x0hat' = x0hat + scale sigma^2 / sqrt(abar) (mode - x0hat); the other predictions are changed by what changes x0hat as much.
    `scale` broadcasts over (n, ...), `signal` is abar of the step.
    """
    way = scale * (modes - denoised(output, noisy, signal, prediction))
    noise = 1 - signal
    if prediction == "sample":
        return output + noise / signal**0.5 * way
    if prediction == "v_prediction":
        return output - (noise / signal) ** 0.5 * way
    return output - noise**0.5 * way


@dataclass(frozen=True, eq=False)
class ModePull:
    """The modes of one batch: `modes` (n, c, h', w') float32, `scale` (n, 1, 1, 1), 0 for a request that has none.

    `signal` (levels,) float64 is abar by timestep, `stop` the share of the steps after which nothing is pulled any more.
    """

    modes: torch.Tensor
    scale: torch.Tensor
    signal: torch.Tensor
    prediction: str
    stop: float

    @classmethod
    def of(
        cls, requests: Sequence[Request], latents: torch.Tensor, own: Any, guidance: ModeGuidance
    ) -> ModePull | None:
        """Gather the modes of `requests`, whose latents begin as `latents` (n, c, h', w'); None where none has a mode.

        `own` is the model's scheduler, whose noise schedule says what is left of an image at each timestep, whatever solver runs.
        SynthError for a mode of another shape or with a value that is not finite, and for a flow, whose levels are no abar.
        """
        if all(request.mode is None for request in requests):
            return None
        if schedules.is_flow(own):
            raise SynthError(
                "mode guidance needs the noise levels of a diffusion, and this model was trained by flow matching"
            )
        modes, scale = torch.zeros_like(latents), latents.new_zeros(len(latents), 1, 1, 1)
        for row, mode in enumerate(request.mode for request in requests):
            if mode is None:
                continue
            if mode.shape != latents.shape[1:]:
                raise SynthError(f"a mode of {tuple(mode.shape)} came where latents are {tuple(latents.shape[1:])}")
            if not bool(mode.isfinite().all()):
                raise SynthError("a mode has a value that is not a finite number")
            modes[row], scale[row] = mode.to(latents), guidance.scale
        signal = schedules.make("ddim", own).alphas_cumprod.double()
        return cls(modes, scale, signal, own.config.get("prediction_type", "epsilon"), guidance.stop)

    def __call__(
        self, output: torch.Tensor, noisy: torch.Tensor, timestep: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return the pulled `output` of a step at `timestep`, or as it is from `stop` on; `progress` in [0, 1) is the share of steps
        before this one. `noisy` is what the model saw. A level without any signal (zero terminal SNR) has no estimate to pull."""
        signal = float(self.signal[int(timestep)])
        if progress >= self.stop or signal <= 0:
            return output
        return pulled(output, noisy, self.modes, self.scale, signal, self.prediction)
