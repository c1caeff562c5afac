"""Noise schedules by name: which diffusers scheduler, its timesteps, and where image-to-image starts. No model is called here.
Sources are in `docs/specs/generators.md`, schedules.

`own` is the scheduler of the model folder as shipped (its class decides how often the model is called: 50 steps of PNDM are 51
calls). The others are built from the model's own noise schedule (betas, prediction type, spacing, offset), so a name means the
same process with another solver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import diffusers
import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from synth.errors import SynthError
from synth.settings import SchedulerName


def is_flow(scheduler: Any) -> bool:
    """Say whether the scheduler's model was trained by flow matching (SD3, FLUX, Sana): sigma is linear in time, without betas."""
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowMatch")  # Euler's, Heun's and LCM's have no class in common
        or config.get("use_flow_sigmas") is True
        or config.get("prediction_type") == "flow_prediction"
    )


def load(model: str, revision: str | None = None) -> Any:
    """Load the scheduler of a folder or id as shipped, and none of its weights; OSError where it has none."""
    config: Any = DDIMScheduler.load_config(model, subfolder="scheduler", revision=revision)  # the same of every class
    return getattr(diffusers, config["_class_name"]).from_config(config)


def make(name: SchedulerName, own: Any) -> Any:
    """Build a scheduler without history: the solver `name` on the noise schedule of `own`, the model's.

    SynthError for a solver that the schedule does not suit. DDIM never clips: `clip_sample` is DDIMScheduler's default and clamps a
    latent's prediction to [-1, 1], which destroys it.
    """
    config = dict(own.config)
    if name == "own":
        return type(own).from_config(own.config)
    if is_flow(own):
        return _make_flow(name, own)
    if name == "ddim":
        return DDIMScheduler.from_config(own.config, clip_sample=False, thresholding=False)
    if name == "pndm":
        return PNDMScheduler.from_config(own.config, skip_prk_steps=True)
    if name == "euler":
        return EulerDiscreteScheduler.from_config(own.config)
    if name == "euler_ancestral":
        return EulerAncestralDiscreteScheduler.from_config(own.config)
    if name == "dpmpp_2m":
        # DiT's folders ask for learned_range, which this solver of the mean has no use for.
        variance = {"variance_type": None} if config.get("variance_type", "").startswith("learned") else {}
        return DPMSolverMultistepScheduler.from_config(
            own.config, algorithm_type="dpmsolver++", solver_order=2, thresholding=False, **variance
        )
    raise SynthError(f"scheduler takes {' | '.join(get_args(SchedulerName))}, got {name!r}")


def _make_flow(name: str, own: Any) -> Any:
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler.from_config(own.config)
    if name == "dpmpp_2m":
        return DPMSolverMultistepScheduler.from_config(
            own.config,
            algorithm_type="dpmsolver++",
            solver_order=2,
            use_flow_sigmas=True,
            prediction_type="flow_prediction",
            flow_shift=own.config.get("shift", 1.0),
        )
    raise SynthError(
        f"scheduler {name!r} needs betas, and this model was trained by flow matching: take own, euler or dpmpp_2m"
    )


def prepare(
    scheduler: Any, steps: int, device: torch.device | str = "cpu", arguments: Mapping[str, Any] | None = None
) -> torch.Tensor:
    """Set `steps` inference steps on `scheduler` and return the timesteps (calls,) in order, one model call for each.

    `arguments` are the model's own for `set_timesteps`: FLUX's sigmas and shift, for one size of image.
    """
    if steps < 1:
        raise SynthError(f"steps takes a whole number from 1, got {steps}")
    options = dict(arguments or {})
    if "sigmas" not in options:
        options["num_inference_steps"] = steps
    scheduler.set_timesteps(device=device, **options)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler.timesteps


def resolution_shift(tokens: int, config: Any, end: float = 1.15) -> float:
    """Return mu, the shift of a flow schedule for `tokens` image tokens: linear in their number, as FLUX has it.

    Esser et al. 2024, arXiv 2403.03206, section 5.3.2. `end` is mu at the most tokens where `config` does not say.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    start, end = config.get("base_shift", 0.5), config.get("max_shift", end)
    slope = (end - start) / (high - low)
    return tokens * slope + start - slope * low


def start_step(steps: int, percent: int, flow: bool = False) -> int:
    """Return the step, from 0, where image-to-image at `percent` strength starts; `steps` less that many are left.

    Whole percents, because a product of floats is a step short now and then: int(50 * (1 - 0.9)) is 4, not 5. Stable Diffusion
    rounds the steps that are left down, flow models up (17 and 18 of 50 at 35 %).
    """
    if not isinstance(percent, int) or not 1 <= percent <= 100:
        raise SynthError(f"strength takes whole percents from 1 to 100, got {percent!r}")
    left = -(-steps * percent // 100) if flow else steps * percent // 100
    if left == 0:
        raise SynthError(f"a strength of {percent} % of {steps} steps is no step at all: raise one of them")
    return steps - left


def start_place(scheduler: Any, steps: int, percent: int) -> int:
    """Return `start_step` as a place among a prepared scheduler's timesteps, of which Heun and KDPM2 have two a step."""
    return start_step(steps, percent, is_flow(scheduler)) * int(getattr(scheduler, "order", 1))


def min_snr_weights(signal: torch.Tensor, gamma: float, prediction: str) -> torch.Tensor:
    """Return min-SNR weights (n,) float64 of squared errors at noise levels with `signal` (n,), abar in [0, 1], left of the image.

    min(snr, gamma) over snr for `epsilon`, over snr + 1 for `v_prediction`, alone for `sample` (Hang et al. 2023). Where nothing is
    left (zero terminal SNR) the first is its limit, 1; the others are 0.
    """
    signal = signal.double()
    ratio = signal / (1 - signal)
    cut = ratio.clamp(max=gamma)
    if prediction == "epsilon":
        return torch.where(ratio > 0, cut / ratio, 1.0)
    return cut / (ratio + 1) if prediction == "v_prediction" else cut


def add_noise(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Bring `latents` (n, ...) to the noise level of one `timestep` of a prepared schedule, with `noise` of their shape."""
    times = timestep.reshape(1).expand(len(latents)).to(latents.device)
    if hasattr(scheduler, "scale_noise"):  # flow matching's word for it
        return scheduler.scale_noise(latents, times, noise)
    return scheduler.add_noise(latents, noise, times)


def noise_ratios(scheduler: Any, own: Any) -> list[float]:
    """Return the noise at each timestep of a prepared `scheduler`: its deviation over what is left of the image, infinite for all noise.

    sqrt((1 - abar) / abar) on the schedule of `own`, the model's, linear between its timesteps as Euler has it; of a flow s / (1 - s).
    """
    timesteps = scheduler.timesteps.double().cpu().numpy()
    if is_flow(own):
        shares = timesteps / scheduler.config.num_train_timesteps
        return [share / (1 - share) if share < 1 else math.inf for share in shares.tolist()]
    signal = make("ddim", own).alphas_cumprod.double().numpy()
    ratios = np.sqrt((1 - signal) / np.maximum(signal, np.finfo(np.float64).tiny))
    return np.interp(timesteps, np.arange(len(ratios)), ratios).tolist()


def model_input(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Return what the model sees of `latents` at a step: divided by what Euler's variable adds, for most solvers the same."""
    return scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents


def start_scale(scheduler: Any) -> float:
    """Return the start noise's standard deviation in this solver's own variable (about 14 for Euler, 1 for DDIM)."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))
