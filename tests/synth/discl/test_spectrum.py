"""A spectrum is its levels made one by one, in one staggered batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from synth.discl.spectrum import Spectrum, SpectrumSampler
from synth.errors import SynthError
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Cads, Settings
from tests.synth import making

Find = Callable[[str], Any]
LEVELS = (0, 10, 30, 50)


def requests(count: int, size: int = 32) -> list[Request]:
    source = torch.Generator().manual_seed(7)
    return [
        Request(f"a photo {i}", f"key{i}", i, image=torch.rand(3, size, size, generator=source)) for i in range(count)
    ]


def apart(backend: Any, wanted: list[Request], level: int, settings: Settings, **more: Any) -> torch.Tensor:
    """The latents of separate image-to-image calls, an image each."""
    sampler = Sampler(backend, settings, run_seed=3, batch_size=1, **more)
    single = [sampler.batch([replace(request, strength=100 - level)]).latents for request in wanted]
    return torch.cat([latents for latents in single if latents is not None])


def difference(one: torch.Tensor | None, other: torch.Tensor) -> float:
    """The largest difference as a share of the largest value."""
    assert one is not None
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    "more",
    [
        {"interval": (0.2, 0.7)},
        {"cads": Cads(tau1=0.1, tau2=0.9, scale=0.3)},
        {"guidance": 1.0},
        {"seeds": "reference"},
        {"negative": "blurry"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_so_they_are_under_every_setting(generator: Find, more: dict[str, Any]) -> None:
    backend, wanted = generator("sd15"), requests(2)
    settings = Settings(**{"steps": 6, "guidance": 3.0, "scheduler": "ddim", **more})
    spectrum = SpectrumSampler(backend, settings, run_seed=3, batch_size=8, starts="strength").batch(wanted, (0, 50))
    for level, generated in spectrum.items():
        assert difference(generated.latents, apart(backend, wanted, level, settings)) < 2e-6, level


@pytest.mark.parametrize("name", ["sd21", "sdxl", "sd3", "flux", "pixart"])
def test_so_they_are_in_every_family(generator: Find, name: str) -> None:
    backend, wanted = generator(name), requests(2)
    settings = Settings(steps=6, guidance=2.0, size=(32, 32))
    spectrum = SpectrumSampler(backend, settings, run_seed=3, batch_size=8, starts="strength").batch(wanted, (0, 50))
    for level, generated in spectrum.items():
        assert difference(generated.latents, apart(backend, wanted, level, settings)) < 2e-6, level


def test_a_model_call_has_no_more_rows_than_fit(generator: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, wanted = generator("sd15"), requests(2)
    settings = Settings(steps=4, guidance=3.0, scheduler="euler")
    whole = SpectrumSampler(backend, settings, run_seed=3, batch_size=4).batch(wanted, (0, 50))
    calls, predict = [], backend.predict

    def counted(latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
        calls.append(len(latents))
        return predict(latents, *arguments)

    monkeypatch.setattr(backend, "predict", counted)
    parts = SpectrumSampler(backend, settings, run_seed=3, batch_size=3).batch(wanted, (0, 50))
    assert calls == [4, 6, 2, 6, 2, 6, 2]  # two branches of two rows, and of four in parts of three and one
    for level, generated in parts.items():
        torch.testing.assert_close(generated.images, whole[level].images, atol=1e-5, rtol=0)


def test_an_image_does_not_depend_on_its_company(generator: Find) -> None:
    backend, wanted = generator("sd15"), requests(5)
    settings = Settings(steps=6, guidance=3.0, scheduler="dpmpp_2m")
    levels = (0, 30, 60)
    together = SpectrumSampler(backend, settings, run_seed=3, batch_size=20).batch(wanted, levels)
    sampler = SpectrumSampler(backend, settings, run_seed=3, batch_size=3)
    for level in levels:
        alone = sampler.batch([wanted[3]], [level])[level]
        torch.testing.assert_close(alone.images[0], together[level].images[3], atol=1e-5, rtol=0)
    again = SpectrumSampler(backend, settings, run_seed=3, batch_size=20).batch(wanted, levels)
    assert all(torch.equal(again[level].images, together[level].images) for level in levels)


def test_each_image_may_want_levels_of_its_own(generator: Find) -> None:
    backend, wanted = generator("sd15"), requests(3)
    settings = Settings(steps=10, guidance=3.0, scheduler="euler")
    sampler = SpectrumSampler(backend, settings, run_seed=3, batch_size=5, starts="strength")
    spectra = [Spectrum(request, levels) for request, levels in zip(wanted, ((50,), (0, 50), (0, 30)), strict=True)]
    assert [[len(one.levels) for one in batch] for batch in sampler.batches(spectra)] == [[1, 2, 2]]
    made = sampler.make(spectra)
    assert {level: [one.key for one in part.requests] for level, part in made.items()} == {
        50: ["key0", "key1"],
        0: ["key1", "key2"],
        30: ["key2"],
    }
    for level, part in made.items():
        assert difference(part.latents, apart(backend, list(part.requests), level, settings)) < 2e-6


def test_batches_are_cut_by_rows(generator: Find) -> None:
    sampler = SpectrumSampler(generator("sd15"), batch_size=9)
    spectra = [Spectrum(request, LEVELS) for request in requests(5)]
    assert [len(batch) for batch in sampler.batches(spectra)] == [2, 2, 1]
    wide = [Spectrum(request, tuple(range(0, 100, 10))) for request in requests(2)]
    assert [len(batch) for batch in sampler.batches(wide)] == [1, 1]


def test_one_draw_of_the_posterior_one_noise_and_one_prompt_serve_all_levels(
    generator: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = generator("sd15")
    backend.forget_prompts()
    encoded: list[int] = []
    for name in ("encode_images", "_encode_one"):
        method = getattr(backend, name)
        monkeypatch.setattr(backend, name, lambda *a, method=method: encoded.append(len(a[0])) or method(*a))  # type: ignore[func-returns-value]
    settings = Settings(steps=4, guidance=3.0, posterior="sample")
    SpectrumSampler(backend, settings, batch_size=8).batch(requests(2), (0, 50))
    prompts = [len(request.prompt) for request in requests(2) if isinstance(request.prompt, str)]
    assert sorted(encoded) == sorted([2, 0, *prompts])  # two images, the empty prompt and both prompts


def test_a_refiner_makes_low_strengths_alone_and_ends_the_others(generator: Find) -> None:
    from synth.backends import wrap

    backend, wanted = generator("sdxl"), requests(2)
    refiner: Any = wrap(making.sdxl(refiner=True))
    refiner.pipeline.vae = backend.pipeline.vae  # both have SDXL's latents
    settings = Settings(steps=10, guidance=3.0, size=(32, 32), refine_below=0.3)
    levels = (0, 50, 80)
    spectrum = SpectrumSampler(backend, settings, run_seed=3, batch_size=6, refiner=refiner, starts="strength").batch(
        wanted, levels
    )
    for level, generated in spectrum.items():
        separate = apart(backend, wanted, level, settings, refiner=refiner)
        assert difference(generated.latents, separate) < 2e-6, level
    alone = apart(refiner, wanted, 80, settings)
    assert difference(spectrum[80].latents, alone) < 2e-6
    assert difference(spectrum[50].latents, apart(refiner, wanted, 50, settings)) > 1e-3


@pytest.mark.parametrize("levels", [(100,), (0, 100), (101,), (-1,), (0, 0), (), (0.5,), (True,)])
def test_what_is_no_level_is_refused(generator: Find, levels: Any) -> None:
    with pytest.raises(SynthError, match="guidance level"):
        SpectrumSampler(generator("sd15"), batch_size=4).batch(requests(1), levels)


def test_what_has_no_levels_is_refused(generator: Find) -> None:
    sampler = SpectrumSampler(generator("sd15"), batch_size=4)
    with pytest.raises(SynthError, match="at least one"):
        sampler.batch([], LEVELS)
    with pytest.raises(SynthError, match="whole image"):
        sampler.batch([Request("a photo", "k")], LEVELS)
    with pytest.raises(SynthError, match="16x16 came where 32x32"):
        sampler.batch(requests(1, 16), LEVELS)
    with pytest.raises(SynthError, match="encoder_every"):
        SpectrumSampler(generator("sd15"), Settings(encoder_every=2))
    with pytest.raises(SynthError, match="layouts"):
        SpectrumSampler(generator("gligen"))


def test_levels_by_sigma_have_the_same_noise_on_any_schedule(generator: Find) -> None:
    published = {0: 13.1204, 10: 7.5624, 30: 3.0930, 50: 1.5192}
    for name, steps, scheduler in (
        ("sd15", 50, "euler"),
        ("sd15", 30, "dpmpp_2m"),
        ("sdxl", 40, "own"),
        ("sd3", 50, "own"),
    ):
        found = SpectrumSampler(generator(name), Settings(steps=steps, scheduler=scheduler)).starts(LEVELS)
        assert found[0].place == 0
        for level in LEVELS[1:]:
            assert abs(found[level].sigma / published[level] - 1) < 0.15, (name, level)
        sigmas = [found[level].sigma for level in LEVELS]
        assert sigmas == sorted(sigmas, reverse=True)


def test_on_the_published_schedule_both_rules_agree(generator: Find) -> None:
    levels = tuple(range(0, 100, 10))
    settings = Settings(steps=50, scheduler="euler")
    by_sigma, by_strength = (
        SpectrumSampler(generator("sd15"), settings, starts=rule).starts(levels) for rule in ("sigma", "strength")
    )
    assert by_sigma == by_strength
    assert [start.calls for start in by_sigma.values()] == [50, 45, 40, 35, 30, 25, 20, 15, 10, 5]


def test_a_level_by_sigma_is_the_sampler_from_the_same_step(generator: Find) -> None:
    backend, wanted = generator("sd3"), requests(1)
    settings = Settings(steps=10, guidance=2.0, size=(32, 32))
    sampler = SpectrumSampler(backend, settings, run_seed=3, batch_size=8)
    calls = {level: start.calls for level, start in sampler.starts((0, 50)).items()}
    assert calls[50] != 5  # of a flow with shift 3 half of the steps are not half of the noise
    made = sampler.batch(wanted, (0, 50))
    for level, count in calls.items():
        assert difference(made[level].latents, apart(backend, wanted, 100 - 10 * count, settings)) < 2e-6


def test_levels_that_few_steps_cannot_tell_apart_are_refused(generator: Find) -> None:
    sampler = SpectrumSampler(generator("sd15"), Settings(steps=4, scheduler="euler"), batch_size=4)
    assert [start.timestep for start in sampler.starts((0, 50)).values()] == [751, 501]
    with pytest.raises(SynthError, match="levels 0 and 10 begin at the same one of 4 steps"):
        sampler.batch(requests(1), (0, 10, 50))


def test_the_solver_of_two_calls_a_step_begins_at_a_step() -> None:
    from diffusers import HeunDiscreteScheduler

    from synth.backends import wrap

    pipeline = making.sd()
    pipeline.scheduler = HeunDiscreteScheduler.from_config(pipeline.scheduler.config)
    backend: Any = wrap(pipeline)
    settings = Settings(steps=8, guidance=2.0)
    made = SpectrumSampler(backend, settings, run_seed=3, batch_size=4, starts="strength").batch(requests(1), (0, 50))
    for level, generated in made.items():
        assert difference(generated.latents, apart(backend, requests(1), level, settings)) < 2e-6
    starts = SpectrumSampler(backend, settings).starts((0, 30, 50)).values()
    assert all(start.place % 2 == 0 for start in starts)


def test_adapters_are_in_all_levels(folder_of: Find, tmp_path: Any) -> None:
    from synth.backends import load_backend
    from synth.datadream.lora import LoraSet

    backend: Any = load_backend(folder_of("sd15"))
    wanted, settings = requests(1), Settings(steps=4, guidance=2.0, scheduler="ddim")
    sampler = SpectrumSampler(backend, settings, run_seed=3, batch_size=4, starts="strength")
    base = sampler.batch(wanted, (0, 50))
    training = LoraSet(backend)
    training.add("lynx", 4, 4, 0)
    for weight in training.parameters("lynx"):
        weight.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    backend.set_adapters("lynx")
    adapted = sampler.batch(wanted, (0, 50))
    for level, generated in adapted.items():
        assert difference(generated.latents, base[level].latents) > 1e-3  # type: ignore[arg-type]
        assert difference(generated.latents, apart(backend, wanted, level, settings)) < 2e-6
    backend.set_adapters([])
    assert torch.equal(sampler.batch(wanted, (0, 50))[50].images, base[50].images)
