"""Schedules by name: which timesteps the model meets, how often it is called, and where image-to-image starts."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from synth import schedules
from synth.errors import SynthError
from tests.synth.making import SD_SCHEDULE


@pytest.fixture
def own() -> PNDMScheduler:
    """What the folders of SD 1.5 and 2.1-base ship: no timestep_spacing is written in them."""
    return PNDMScheduler.from_config({**SD_SCHEDULE, "num_train_timesteps": 1000, "skip_prk_steps": True})


def steps_of(name: schedules.SchedulerName, own: object, steps: int) -> list[int]:
    return schedules.prepare(schedules.make(name, own), steps).tolist()


def test_16_pndm_50_is_51_calls_with_961_twice(own: PNDMScheduler) -> None:
    times = steps_of("pndm", own, 50)
    assert len(times) == 51
    assert times[:4] == [981, 961, 961, 941]
    assert times[-2:] == [21, 1]
    assert steps_of("own", own, 50) == times


def test_16_ddim_50_is_50_calls_from_981_to_1(own: PNDMScheduler) -> None:
    assert steps_of("ddim", own, 50) == list(range(981, 0, -20))


def test_16_dpmpp_20_is_20_calls_over_the_whole_range(own: PNDMScheduler) -> None:
    times = steps_of("dpmpp_2m", own, 20)
    assert len(times) == 20
    assert times[:2] == [999, 949]
    assert times[-1] == 50


def test_16_euler_starts_at_a_large_sigma(own: PNDMScheduler) -> None:
    euler = schedules.make("euler", own)
    assert len(schedules.prepare(euler, 30)) == 30
    assert 10 < schedules.start_scale(euler) < 20
    assert schedules.start_scale(schedules.make("ddim", own)) == 1


def test_ddim_never_clips_a_latent(own: PNDMScheduler) -> None:
    clipping = DDIMScheduler(**SD_SCHEDULE, clip_sample=True)
    assert schedules.make("ddim", clipping).config.clip_sample is False
    assert schedules.make("own", clipping).config.clip_sample is True
    assert schedules.make("ddim", own).config.clip_sample is False


def test_the_models_betas_and_prediction_are_kept_by_every_solver() -> None:
    own = PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True, prediction_type="v_prediction")
    for name in ("ddim", "pndm", "euler", "euler_ancestral", "dpmpp_2m"):
        made = schedules.make(name, own)
        assert made.config.prediction_type == "v_prediction", name
        torch.testing.assert_close(made.alphas_cumprod, own.alphas_cumprod)


def test_a_learned_variance_does_not_keep_dit_from_dpmpp() -> None:
    own = DDPMScheduler(variance_type="learned_range")
    assert len(steps_of("dpmpp_2m", own, 10)) == 10


def test_each_scheduler_is_fresh() -> None:
    own = FlowMatchEulerDiscreteScheduler()
    first, second = schedules.make("own", own), schedules.make("own", own)
    assert first is not second
    assert first is not own


def test_a_flow_model_takes_euler_and_dpmpp_and_says_so() -> None:
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert schedules.is_flow(own)
    assert schedules.is_flow(schedules.make("dpmpp_2m", own))
    assert len(steps_of("euler", own, 7)) == 7
    with pytest.raises(SynthError, match="flow matching: take own, euler or dpmpp_2m"):
        schedules.make("ddim", own)


def test_an_unknown_name_lists_the_known_ones(own: PNDMScheduler) -> None:
    with pytest.raises(SynthError, match=r"own \| ddim \| pndm \| euler .*got 'heun'"):
        schedules.make("heun", own)  # type: ignore[arg-type]


@pytest.mark.parametrize(("percent", "left"), [(10, 5), (30, 15), (50, 25), (70, 35), (90, 45), (100, 50), (35, 17)])
def test_a_strength_in_whole_percents_leaves_the_steps_of_the_sheet(percent: int, left: int) -> None:
    assert 50 - schedules.start_step(50, percent) == left


def test_flow_models_round_the_steps_that_are_left_up() -> None:
    assert 50 - schedules.start_step(50, 35, flow=True) == 18
    assert 50 - schedules.start_step(50, 1, flow=True) == 1


#: What a text-to-image folder may ship, as far as it needs no other package.
SOLVERS = (
    *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
    *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler"),
    *(
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
        "TCDScheduler",
    ),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"),
)


@pytest.mark.parametrize("percent", [35, 50, 75, 100])
@pytest.mark.parametrize("name", SOLVERS)
def test_image_to_image_starts_where_diffusers_pipelines_do(name: str, percent: int) -> None:
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    given = {word: value for word, value in {**SD_SCHEDULE, "skip_prk_steps": True}.items() if word in known}
    mine, theirs = kind(**given), kind(**given)
    times = schedules.prepare(mine, 20)
    theirs.set_timesteps(20)
    assert schedules.is_flow(mine) == name.startswith("FlowMatch")
    pipeline = (
        diffusers.StableDiffusion3Img2ImgPipeline
        if schedules.is_flow(mine)
        else diffusers.StableDiffusionImg2ImgPipeline
    )
    left, _ = pipeline.get_timesteps(SimpleNamespace(scheduler=theirs), 20, percent / 100, "cpu")
    assert torch.equal(times[schedules.start_place(mine, 20, percent) :], left)


def test_min_snr_at_no_signal_is_its_limit() -> None:
    """Hang et al. 2023: min(snr, gamma) / snr is 1 wherever snr is below gamma, so at 0 too."""
    kept = torch.tensor([0.9, 0.5, 1e-9, 0.0])
    snr = kept.double() / (1 - kept.double())
    assert torch.allclose(
        schedules.min_snr_weights(kept, 5.0, "epsilon"), torch.tensor([5 / snr[0], 1, 1, 1]).double(), rtol=1e-6
    )
    assert torch.equal(schedules.min_snr_weights(kept, 5.0, "v_prediction"), snr.clamp(max=5) / (snr + 1))
    assert torch.equal(schedules.min_snr_weights(kept, 5.0, "sample"), snr.clamp(max=5))


def test_a_strength_of_no_step_is_refused() -> None:
    with pytest.raises(SynthError, match="1 % of 50 steps is no step at all"):
        schedules.start_step(50, 1)
    with pytest.raises(SynthError, match=r"whole percents from 1 to 100, got 0\.5"):
        schedules.start_step(50, 0.5)  # type: ignore[arg-type]


def test_dpmpp_on_a_flow_model_keeps_the_models_shift() -> None:
    plain = schedules.make("dpmpp_2m", FlowMatchEulerDiscreteScheduler())
    shifted = schedules.make("dpmpp_2m", FlowMatchEulerDiscreteScheduler(shift=3.0))
    schedules.prepare(plain, 5)
    schedules.prepare(shifted, 5)
    sigmas = plain.sigmas[:5]
    torch.testing.assert_close(shifted.sigmas[:5], 3 * sigmas / (1 + 2 * sigmas))
