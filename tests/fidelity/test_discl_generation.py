"""Fidelity of DisCL's generating half: numbers of the published code, `docs/specs/discl.md`, numbers 28 to 34, and its defects."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from synth.backends import wrap
from synth.discl.levels import REAL, REFERENCE, even_levels, level_of, output_size, published_sigma
from synth.discl.spectrum import SpectrumSampler
from synth.errors import SynthError
from synth.requests import Request
from synth.sampling import Sampler
from synth.schedules import start_step
from synth.settings import Settings
from tests.synth import making

STRENGTHS = tuple(range(10, 101, 10))


def steps_left(strength: int, flow: bool = False) -> int:
    return 50 - start_step(50, strength, flow)


def test_f28_steps_of_each_strength() -> None:
    assert [steps_left(strength) for strength in STRENGTHS] == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert sum(steps_left(strength) for strength in STRENGTHS) == 275
    assert sum(steps_left(REAL - level) for level in REFERENCE["imagenet_lt"]) == 155
    assert sum(steps_left(REAL - level) for level in REFERENCE["iwildcam"]) == 45


def test_f28_flow_models_round_the_other_way() -> None:
    for strength in (35, 10, 1):
        share = strength / 100
        assert steps_left(strength, flow=True) == 50 - int(50 - 50 * share)
    assert (steps_left(35), steps_left(35, flow=True)) == (17, 18)


def test_defect_09_strength_is_no_difference_of_floats() -> None:
    assert int(50 * (1 - 0.9)) == 4
    assert steps_left(REAL - 90) == 5


def test_f29_noise_at_the_start_of_each_strength() -> None:
    sigmas = [0.3006, 0.5270, 0.7789, 1.0939, 1.5192, 2.1354, 3.0930, 4.6917, 7.5624, 13.1204]
    signal = [0.9577, 0.8847, 0.7889, 0.6747, 0.5498, 0.4241, 0.3076, 0.2085, 0.1311, 0.0760]
    for strength, sigma, left in zip(STRENGTHS, sigmas, signal, strict=True):
        assert published_sigma(REAL - strength) == pytest.approx(sigma, abs=5e-5)
        assert 1 / math.sqrt(1 + published_sigma(REAL - strength) ** 2) == pytest.approx(left, abs=5e-5)


def test_f29_the_sampler_starts_there() -> None:
    sampler = SpectrumSampler(wrap(making.sdxl()), Settings(steps=50), starts="strength")
    starts = sampler.starts([REAL - strength for strength in STRENGTHS]).values()
    assert [start.timestep for start in starts] == [81, 181, 281, 381, 481, 581, 681, 781, 881, 981]
    assert [start.sigma for start in starts] == pytest.approx(
        [published_sigma(start.level) for start in starts], rel=1e-5
    )


@pytest.fixture(scope="module")
def stable_diffusion() -> Any:
    """Stable Diffusion's layers, tiny and with random weights."""
    return wrap(making.sd())


def hard_images(count: int) -> list[Request]:
    source = torch.Generator().manual_seed(7)
    return [Request(f"a photo {i}", f"key{i}", i, image=torch.rand(3, 32, 32, generator=source)) for i in range(count)]


@pytest.mark.parametrize("scheduler", ["euler", "dpmpp_2m", "ddim", "own", "euler_ancestral"])
def test_f30_a_staggered_batch_is_its_separate_calls(stable_diffusion: Any, scheduler: Any) -> None:
    images, levels = hard_images(2), (0, 30, 50)
    settings = Settings(steps=6, guidance=3.0, scheduler=scheduler, posterior="sample")
    sampler = SpectrumSampler(stable_diffusion, settings, run_seed=3, batch_size=8, starts="strength")
    spectrum = sampler.batch(images, levels)
    assert list(spectrum) == list(levels)
    alone = Sampler(stable_diffusion, settings, run_seed=3, batch_size=1)
    for level, generated in spectrum.items():
        assert generated.latents is not None
        for image, latents in zip(images, generated.latents, strict=True):
            separate = alone.batch([replace(image, strength=REAL - level)]).latents
            assert separate is not None
            assert float((latents - separate[0]).abs().max() / separate.abs().max()) <= 2e-6, level


def test_f30_fifty_calls_of_310_rows(stable_diffusion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, predict = [], stable_diffusion.predict

    def counted(latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
        calls.append(len(latents))
        return predict(latents, *arguments)

    monkeypatch.setattr(stable_diffusion, "predict", counted)
    settings = Settings(steps=50, guidance=10.0, scheduler="euler")
    sampler = SpectrumSampler(stable_diffusion, settings, batch_size=4, starts="strength")
    sampler.batch(hard_images(1), REFERENCE["imagenet_lt"])
    assert (len(calls), sum(calls)) == (50, 310)


def test_f31_the_level_of_a_strength_is_rounded() -> None:
    assert (int(0.29 * 100), int(0.57 * 100)) == (28, 56)
    assert (level_of(0.29), level_of(0.57), level_of(1.0), level_of(0.1)) == (71, 43, 0, 90)
    for strength in (0.0, 1.01, 0.005, float("nan")):
        with pytest.raises(SynthError, match="whole hundredths"):
            level_of(strength)


def test_f32_sizes_are_rounded_down_to_eight() -> None:
    assert output_size(270, 480) == (264, 480)
    assert output_size(375, 500) == (368, 496)
    with pytest.raises(SynthError, match="smaller"):
        output_size(7, 480)


def test_even_levels_have_sigmas_of_one_ratio() -> None:
    assert even_levels(4) == (0, 13, 30, 50)
    sigmas = [published_sigma(level) for level in even_levels(4)]
    ratios = [first / second for first, second in pairwise(sigmas)]
    assert max(ratios) / min(ratios) < 1.05
    with pytest.raises(SynthError, match="take fewer"):
        even_levels(5, 40, 42)
