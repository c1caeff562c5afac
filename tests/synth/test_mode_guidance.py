"""Mode guidance: the arithmetic by hand, the direction of the pull, when it ends, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from synth import schedules
from synth.errors import SynthError
from synth.mode_guidance import denoised, pulled
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import ModeGuidance, Settings
from tests.synth import making

Find = Callable[[str], Any]
SHAPE = (4, 16, 16)


def latents(seed: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_step_written_out() -> None:
    """abar 0.64: sqrt 0.8, sigma 0.6. x 1, eps 0.5, so x0hat (1 - 0.3) / 0.8 = 0.875; the mode is 1.875, one above; lambda 0.1."""
    x, eps, mode = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (1.0, 0.5, 1.875))
    scale = torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    assert float(denoised(eps, x, 0.64, "epsilon")) == pytest.approx(0.875, abs=1e-15)
    guided = pulled(eps, x, mode, scale, 0.64, "epsilon")
    assert float(guided) == pytest.approx(0.5 - 0.1 * 1 * 0.6, abs=1e-15)
    moved = 0.1 * 0.36 / 0.8
    assert float(denoised(guided, x, 0.64, "epsilon")) == pytest.approx(0.875 + moved, abs=1e-15)
    # The same latent as a velocity (0.8 eps - 0.6 x0hat) and as a sample.
    velocity = pulled(torch.full_like(x, 0.8 * 0.5 - 0.6 * 0.875), x, mode, scale, 0.64, "v_prediction")
    assert float(denoised(velocity, x, 0.64, "v_prediction")) == pytest.approx(0.875 + moved, abs=1e-15)
    assert float(pulled(torch.full_like(x, 0.875), x, mode, scale, 0.64, "sample")) == pytest.approx(
        0.875 + moved, abs=1e-15
    )


@pytest.mark.parametrize("signal", [0.9999, 0.6, 0.3])
def test_the_estimate_moves_to_the_mode_and_the_printed_sign_would_move_it_away(signal: float) -> None:
    x, eps, mode = latents(0), latents(1), latents(2)
    scale = torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)

    def distance(output: torch.Tensor) -> float:
        return float((mode - denoised(output, x, signal, "epsilon")).norm())

    printed = eps + scale * (mode - denoised(eps, x, signal, "epsilon")) * (1 - signal) ** 0.5
    assert distance(pulled(eps, x, mode, scale, signal, "epsilon")) < distance(eps) < distance(printed)


@pytest.mark.parametrize("name", ["dit", "sd21"])
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmpp_2m"])
def test_under_every_solver_images_end_nearer_to_their_modes(
    generator: Find, monkeypatch: pytest.MonkeyPatch, name: str, scheduler: Any
) -> None:
    """The network is the exact one for latents of N(0.7, 0.25), as noise and as velocity."""
    backend, modes = generator(name), 0.7 + 0.5 * latents(3, 2).float()
    signal = schedules.make("ddim", backend.scheduler).alphas_cumprod
    prompts: list[Any] = [3, 4] if name == "dit" else ["a bag", "a dog"]

    def exact(x: torch.Tensor, timestep: torch.Tensor, *_: Any) -> torch.Tensor:
        share = signal[int(timestep)]
        eps = (1 - share).sqrt() * (x - share.sqrt() * 0.7) / (share * 0.25 + 1 - share)
        clean = (x - (1 - share).sqrt() * eps) / share.sqrt()
        return eps if name == "dit" else share.sqrt() * eps - (1 - share).sqrt() * clean

    monkeypatch.setattr(backend, "predict", exact)
    settings = Settings(steps=20, guidance=1.0, scheduler=scheduler, size=(32, 32))

    def away(scale: float) -> torch.Tensor:
        requests = [Request(prompt, "k", place, mode=modes[place]) for place, prompt in enumerate(prompts)]
        made = Sampler(backend, settings, run_seed=1, modes=ModeGuidance(scale=scale)).batch(requests).latents
        assert made is not None
        return (made - modes).flatten(1).norm(dim=1)

    free, held, tight = (away(scale) for scale in (0.0, 0.1, 0.3))
    assert (held < 0.97 * free).all()
    assert (tight < held).all()


def test_the_sampler_pulls_the_first_half_of_the_steps(generator: Find) -> None:
    """The loop of DDIM with classifier-free guidance and the pull, written out in float64."""
    backend, mode = generator("dit"), latents(3)
    settings = Settings(steps=4, guidance=4.0, scheduler="ddim")
    sampler = Sampler(backend, settings, run_seed=5, modes=ModeGuidance(scale=0.1, stop=0.5))
    request = Request(7, "k", 0, mode=mode[0].float())
    made = sampler.batch([request]).latents
    signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    x = sampler.initial_noise([request]).double()
    labels, null = backend.encode([7]), backend.encode_null(1)
    for index, t in enumerate((750, 500, 250, 0)):
        time = torch.tensor(t)
        conditional, unconditional = (backend.predict(x.float(), time, rows).double() for rows in (labels, null))
        eps = unconditional + 4 * (conditional - unconditional)
        sigma = (1 - signal[t]).sqrt()
        if index < 2:
            eps = eps - 0.1 * sigma * (mode - (x - sigma * eps) / signal[t].sqrt())
        clean = (x - sigma * eps) / signal[t].sqrt()
        before = signal[t - 250] if t else torch.tensor(1.0, dtype=torch.float64)
        x = before.sqrt() * clean + (1 - before).sqrt() * eps
    torch.testing.assert_close(made, x.float(), atol=2e-4, rtol=1e-4)


def test_a_request_without_a_mode_is_made_as_ever(generator: Find) -> None:
    backend = generator("dit")
    free = [Request(place, "k", place) for place in range(3)]
    pulled_too = [free[0], Request(1, "k", 1, mode=latents(3)[0].float()), free[2]]
    plain, mixed = (Sampler(backend, Settings(steps=4), run_seed=1).batch(asked).images for asked in (free, pulled_too))
    assert torch.equal(plain[[0, 2]], mixed[[0, 2]])
    assert not torch.equal(plain[1], mixed[1])


def test_a_level_without_signal_has_nothing_to_pull(generator: Find) -> None:
    """Zero terminal SNR: the first of the steps starts at abar 0, where the estimate would be divided by it."""
    from diffusers import DDIMScheduler

    pipeline = making.sd("v_prediction", DDIMScheduler)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    from synth.backends.unet import StableDiffusion

    backend = StableDiffusion(pipeline)
    settings = Settings(steps=4, guidance=2.0, scheduler="ddim", size=(32, 32))
    [made] = Sampler(backend, settings).generate([Request("a dog", "k", 0, mode=latents(3)[0].float())])
    assert float(schedules.make("ddim", pipeline.scheduler).alphas_cumprod[-1]) == 0
    assert not made.broken.any()


def test_what_cannot_be_pulled_is_one_sentence(generator: Find) -> None:
    dit, mode = generator("dit"), latents(3)[0].float()
    with pytest.raises(SynthError, match=r"a mode of \(4, 8, 8\) came where latents are \(4, 16, 16\)"):
        Sampler(dit, Settings(steps=2)).batch([Request(1, "k", mode=mode[:, :8, :8])])
    with pytest.raises(SynthError, match="not a finite number"):
        Sampler(dit, Settings(steps=2)).batch([Request(1, "k", mode=mode * float("nan"))])
    with pytest.raises(SynthError, match="flow matching"):
        Sampler(generator("sd3"), Settings(steps=2, size=(32, 32))).batch([Request("a", "k", mode=mode)])
    with pytest.raises(SynthError, match="a scale from 0 on and a stop from 0 to 1"):
        ModeGuidance(stop=1.5)
