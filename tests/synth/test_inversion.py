"""Inversion and sampling from latents at a level: every family there and back, one level to a batch, one sentence for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, EulerDiscreteScheduler

from synth.backends import load_backend, wrap
from synth.errors import SynthError
from synth.inversion import Inverter
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import InversionSettings, Settings
from tests.synth import making

Find = Callable[[str], Any]
#: Ten steps: the grid's levels are multiples of 100.
TEN = {"steps": 10, "size": (32, 32)}


def clean(backend: Any, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *backend.latent_shape((32, 32)), generator=torch.Generator().manual_seed(0))


def prompts(backend: Any, count: int = 2) -> list[Any]:
    return list(range(count)) if backend.capabilities.class_conditional else ["a red bag", "a dog", "a cat"][:count]


def resumed(backend: Any, latents: torch.Tensor, level: int, inversion: InversionSettings, guidance: float) -> Any:
    requests = [
        Request(prompt, "k", i, latents=latents[i], level=level)
        for i, prompt in enumerate(prompts(backend, len(latents)))
    ]
    return Sampler(backend, Settings(guidance=guidance, size=(32, 32)), inversion=inversion).batch(requests).latents


@pytest.mark.parametrize("name", sorted(making.MAKERS))
def test_fixed_points_bring_every_family_back_to_its_latents(generator: Find, name: str) -> None:
    backend, guidance = generator(name), 2.0
    latents = clean(backend)
    errors = []
    for passes in (0, 6):
        inversion = InversionSettings(**TEN, guidance=guidance, passes=passes)
        inverted = Inverter(backend, inversion).invert(latents, prompts(backend), [300])[300]
        assert (inverted - latents).abs().max() > 0.01
        errors.append(float((resumed(backend, inverted, 300, inversion, guidance) - latents).abs().max()))
    assert errors[1] < 0.1 * errors[0]
    assert errors[1] < 5e-3


@pytest.mark.parametrize("end", ["first", "one"])
def test_resuming_equals_diffusers_sampler_from_the_level(end: Any) -> None:
    backend: Any = wrap(making.dit())
    latents = clean(backend)
    inversion = InversionSettings(**TEN, end=end)
    made = resumed(backend, latents, 500, inversion, 4.0)
    own = {**backend.scheduler.config, "clip_sample": False, "set_alpha_to_one": True}
    scheduler = DDIMScheduler.from_config(own)
    scheduler.set_timesteps(10)
    expected, labels = latents, torch.tensor([0, 1, 10, 10])
    with torch.no_grad():
        for timestep in [t for t in scheduler.timesteps if int(t) <= 500 and (end == "one" or int(t) > 0)]:
            both = backend.denoiser(torch.cat([expected] * 2), timestep.expand(4), labels, return_dict=False)[0][:, :4]
            noise = both[2:] + 4.0 * (both[:2] - both[2:])
            expected = scheduler.step(noise, int(timestep), expected, return_dict=False)[0]
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


def test_an_end_at_no_noise_is_diffusers_inverse_from_its_first_timestep() -> None:
    backend: Any = wrap(making.dit())
    latents = clean(backend)
    scheduler = DDIMInverseScheduler.from_config({**backend.scheduler.config, "clip_sample": False})
    scheduler.set_timesteps(10)
    expected = latents
    with torch.no_grad():
        for timestep in scheduler.timesteps[:6]:
            noise = backend.denoiser(expected, timestep.expand(2), torch.tensor([0, 1]), return_dict=False)[0][:, :4]
            expected = scheduler.step(noise, int(timestep), expected, return_dict=False)[0]
    inverted = Inverter(backend, InversionSettings(**TEN, end="one")).invert(latents, [0, 1], [500])[500]
    torch.testing.assert_close(inverted, expected, rtol=0, atol=1e-5)


class SamePrediction:
    """Wraps a stepped generator that predicts noise as one that predicts velocities or clean latents, of the same model."""

    def __init__(self, backend: Any, prediction: str) -> None:
        self._backend, self._prediction = backend, prediction
        self.scheduler = type(backend.scheduler).from_config(
            {**backend.scheduler.config, "prediction_type": prediction}
        )
        self.signal = DDIMScheduler.from_config(backend.scheduler.config).alphas_cumprod.double()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Any, features: Any = None) -> Any:
        noise = self._backend.predict(latents, timestep, conditioning, features).double()
        abar = self.signal[int(timestep)]
        denoised = (latents.double() - (1 - abar) ** 0.5 * noise) / abar**0.5
        velocity = abar**0.5 * noise - (1 - abar) ** 0.5 * denoised
        return (denoised if self._prediction == "sample" else velocity).float()


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_one_model_is_inverted_alike_however_it_is_parametrised(generator: Find, prediction: str) -> None:
    backend = generator("sd15")
    other: Any = SamePrediction(backend, prediction)
    latents, inversion = clean(backend), InversionSettings(**TEN, guidance=2.0)
    expected = Inverter(backend, inversion).invert(latents, prompts(backend), [500])[500]
    inverted = Inverter(other, inversion).invert(latents, prompts(backend), [500])[500]
    torch.testing.assert_close(inverted, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        resumed(other, inverted, 500, inversion, 2.0),
        resumed(backend, expected, 500, inversion, 2.0),
        rtol=0,
        atol=1e-3,
    )


def test_one_pass_gives_each_level_as_a_pass_of_its_own(generator: Find) -> None:
    inverter = Inverter(generator("dit"), InversionSettings(**TEN))
    latents = clean(inverter.backend)
    together = inverter.invert(latents, [0, 1], [700, 300, 500, 300])
    assert list(together) == [300, 500, 700]
    for level, inverted in together.items():
        assert torch.equal(inverter.invert(latents, [0, 1], [level])[level], inverted)
    assert inverter.evaluations([700, 300]) == 7


def test_a_grid_of_tens_as_published_stops_at_the_same_share(generator: Find) -> None:
    inverter = Inverter(generator("dit"), InversionSettings(**TEN, mode="reference"))
    assert inverter.evaluations([400]) == 7
    assert inverter.settings.scale == 4.0
    assert inverter.settings.posterior == "sample"
    assert InversionSettings().posterior == "mean"


def test_a_model_that_takes_its_guidance_as_an_input_runs_one_branch(generator: Find) -> None:
    backend, rows = generator("flux"), []
    hook = backend.denoiser.register_forward_pre_hook(
        lambda _, given, named: rows.append((len(named["hidden_states"]), named["guidance"].tolist())), with_kwargs=True
    )
    Inverter(backend, InversionSettings(**TEN, guidance=3.5)).invert(clean(backend), ["a", "b"], [100])
    hook.remove()
    assert rows == [(2, [3.5, 3.5])]


def test_half_precision_keeps_a_float32_state(folder_of: Find) -> None:
    from synth.backends import GeneratorOptions

    backend = load_backend(GeneratorOptions(folder_of("dit"), dtype="bfloat16", device="cpu"))
    latents = clean(backend)
    inverted = Inverter(backend, InversionSettings(**TEN)).invert(latents, [0, 1], [500])[500]
    assert inverted.dtype == torch.float32
    assert not torch.equal(inverted, inverted.bfloat16().float())


def test_batches_hold_one_level_each(generator: Find) -> None:
    backend = generator("dit")
    latents = clean(backend, 1)[0]
    sampler = Sampler(backend, Settings(steps=10, guidance=1.0), batch_size=4)
    levels = [500, 500, 300, None, None, 300]
    asked = [
        Request(1, "k", i, latents=None if level is None else latents, level=level) for i, level in enumerate(levels)
    ]
    assert [[request.level for request in batch] for batch in sampler.batches(asked)] == [
        [500, 500], [300], [None, None], [300],
    ]  # fmt: skip
    with pytest.raises(SynthError, match="several levels"):
        sampler.batch(asked)
    assert [batch.images.shape[0] for batch in sampler.generate(asked)] == [2, 1, 2, 1]


def test_latents_at_a_level_need_no_noise_and_no_offset(generator: Find) -> None:
    """Whatever steps_offset a folder has: the grid is one and the same up and down."""
    backend = generator("sd21")
    assert backend.scheduler.config.steps_offset == 1
    latents, inversion = clean(backend), InversionSettings(**TEN, passes=3)
    inverted = Inverter(backend, inversion).invert(latents, prompts(backend), [500])[500]
    runs = [
        Sampler(backend, Settings(guidance=1.0, scheduler=name), run_seed=seed, inversion=inversion).batch(
            [Request(p, "k", i, latents=inverted[i], level=500) for i, p in enumerate(prompts(backend))]
        )
        for seed, name in ((1, "own"), (2, "ddim"))
    ]
    assert torch.equal(runs[0].images, runs[1].images)
    torch.testing.assert_close(runs[0].latents, latents, rtol=0, atol=1e-3)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(SynthError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_inverted_is_refused_in_a_sentence(generator: Find) -> None:
    backend = generator("dit")
    inverter, latents = Inverter(backend, InversionSettings(**TEN)), clean(backend)
    nan = latents.clone()
    nan[1, 0, 0, 0] = float("nan")
    assert "number 1, hold a value that is no finite" in refused(lambda: inverter.invert(nan, [0, 1]))
    assert "latents of 4x8x16 came where this model has 4x16x16" in refused(
        lambda: inverter.invert(latents[:, :, :8], [0, 1])
    )
    assert "2 latents came with 1 prompts" in refused(lambda: inverter.invert(latents, [0]))
    assert "at least one" in refused(lambda: inverter.invert(latents, [0, 1], []))
    assert "multiple of 100 from 100 to 900" in refused(lambda: inverter.invert(latents, [0, 1], [550]))
    assert "class numbers from 0 to 9, got 10" in refused(lambda: inverter.invert(latents, [0, 10]))
    assert "only called whole" in refused(lambda: Inverter(wrap(making.sana())))
    assert "trained by flow matching" in refused(
        lambda: Inverter(generator("sd3"), InversionSettings(mode="reference"))
    )
    odd: Any = wrap(making.sd())
    odd.pipeline.scheduler = EulerDiscreteScheduler(num_train_timesteps=500)
    assert "trained on 500" in refused(lambda: Inverter(odd))


def test_settings_that_mean_nothing_stop_before_work() -> None:
    assert "got 610" in refused(lambda: InversionSettings(level=610))
    assert "from 20 to 760 at 50 steps in mode reference, got 780" in refused(
        lambda: InversionSettings(mode="reference", level=780)
    )
    assert "leave passes and end out" in refused(lambda: InversionSettings(mode="reference", passes=1))
    assert "passes takes" in refused(lambda: InversionSettings(passes=-1))
    assert "guidance takes" in refused(lambda: InversionSettings(guidance=-1.0))
    assert "steps takes" in refused(lambda: InversionSettings(steps=1))


def test_requests_with_latents_that_cannot_be_resumed_are_refused(generator: Find) -> None:
    backend = generator("dit")
    latents = clean(backend)[0]
    assert "give both or neither" in refused(lambda: Request(1, "k", latents=latents))
    assert "got both" in refused(lambda: Request(1, "k", latents=latents, level=600, image=torch.rand(3, 32, 32)))

    def made(settings: Settings, **more: Any) -> Any:
        return Sampler(backend, settings).batch([Request(1, "dog", 3, **{"latents": latents, "level": 600, **more})])

    assert "level takes a multiple of 20" in refused(lambda: made(Settings(), level=610))
    assert "taken on by ddim" in refused(lambda: made(Settings(scheduler="dpmpp_2m")))
    assert "latents of 4x8x8 came" in refused(lambda: made(Settings(), latents=latents[:, :8, :8]))
    assert "the latents of dog, number 3, hold" in refused(lambda: made(Settings(), latents=latents / 0))
    whole = wrap(making.sana())
    assert "from text alone" in refused(
        lambda: Sampler(whole, Settings(steps=2)).batch([Request("a", "k", latents=latents, level=600)])
    )
