"""Guidance, its interval, CADS and encoder-free steps: what each saves, and that it is off by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from synth.backends.encoder_free import EncoderFeatures, key_step, run_unet
from synth.backends.protocol import Conditioning
from synth.errors import SynthError
from synth.guidance import annealed, combine, guided
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Cads, Settings
from tests.synth import making

Find = Callable[[str], Any]
ASKED = [Request("a photo of a dog", "dog", i) for i in range(2)]


def rows_and_images(backend: Any, **settings: Any) -> tuple[list[int], torch.Tensor]:
    rows: list[int] = []
    hook = backend.denoiser.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    made = Sampler(backend, Settings(**{"steps": 50, **settings}), run_seed=2).batch(ASKED)
    hook.remove()
    return rows, made.images


def test_17_the_formula_is_u_plus_w_times_the_difference() -> None:
    u, c = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0])
    assert combine(u, c, 2.0).tolist() == [5.0, 2.0]
    assert combine(u, c, 1.0).tolist() == c.tolist()
    assert combine(u, c, 0.0).tolist() == u.tolist()


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 2), (0.5, 2), (2.0, 4)])
def test_17_a_scale_up_to_1_runs_one_branch_in_the_same_51_calls(generator: Find, guidance: float, rows: int) -> None:
    seen, _ = rows_and_images(generator("sd15"), guidance=guidance, scheduler="pndm")
    assert seen == [rows] * 51


def test_an_interval_leaves_the_second_branch_out_elsewhere(generator: Find) -> None:
    backend = generator("sd15")
    seen, images = rows_and_images(backend, guidance=3.0, scheduler="ddim", interval=(0.3, 0.7))
    assert len(seen) == 50
    assert seen.count(4) == 20  # timesteps 681 ... 301
    assert seen[:15] == [2] * 15
    assert seen[-15:] == [2] * 15
    everywhere, plain = rows_and_images(backend, guidance=3.0, scheduler="ddim")
    assert everywhere == [4] * 50
    assert not torch.allclose(images, plain, atol=1e-4)
    assert guided(3.0, (0.0, 1.0), 0.001)
    assert guided(3.0, (0.0, 1.0), 1.0)


def test_cads_noise_falls_from_all_to_none() -> None:
    cads = Cads(tau1=0.6, tau2=0.9, scale=0.2)
    assert [round(cads.condition_share(t), 3) for t in (1.0, 0.9, 0.75, 0.6, 0.1)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    clean = Conditioning({"context": torch.randn(2, 5, 8), "time_ids": torch.ones(2, 6)})
    sources = [torch.Generator().manual_seed(i) for i in range(2)]
    assert annealed(clean, cads, 0.5, sources) is clean
    noisy = annealed(clean, cads, 0.75, sources).tensors
    assert not torch.allclose(noisy["context"], clean.tensors["context"])
    torch.testing.assert_close(noisy["context"].mean((1, 2)), clean.tensors["context"].mean((1, 2)))
    torch.testing.assert_close(noisy["context"].std((1, 2)), clean.tensors["context"].std((1, 2)))
    assert noisy["time_ids"] is clean.tensors["time_ids"]
    with pytest.raises(SynthError, match="tau1 < tau2"):
        Cads(tau1=0.9, tau2=0.6)


def test_cads_belongs_to_the_sample_and_leaves_the_start_noise(generator: Find) -> None:
    backend, settings = generator("sd15"), Settings(steps=4, guidance=2.0, cads=Cads(scale=0.5))
    sampler = Sampler(backend, settings, run_seed=2)
    together = sampler.batch(ASKED).images
    alone = torch.cat([sampler.batch([request]).images for request in ASKED])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    plain = Sampler(backend, Settings(steps=4, guidance=2.0), run_seed=2)
    assert torch.equal(plain.initial_noise(ASKED), sampler.initial_noise(ASKED))
    assert not torch.allclose(plain.batch(ASKED).images, together, atol=1e-4)


def test_cads_needs_a_text_embedding(generator: Find) -> None:
    with pytest.raises(SynthError, match="class number"):
        Sampler(generator("dit"), Settings(steps=4, cads=Cads())).batch([Request(1, "k", 0)])


@pytest.mark.parametrize("name", ["sd15", "sdxl", "gligen"])
def test_the_two_halves_of_the_unet_make_the_whole(generator: Find, name: str) -> None:
    backend = generator(name)
    told = backend.size_conditioning(backend.encode(["a dog", "a cat"]), (36, 36), null=False)
    boxes = [torch.rand(1, 4), None] if name == "gligen" else None
    if boxes is not None:
        told = backend.layout_conditioning(told, boxes, [("a",), ()])
    latents = torch.randn(2, 4, 17, 17)  # odd, where a plain doubling would miss a row
    with torch.no_grad():
        whole = backend.predict(latents, torch.tensor(500), told)
        halves = backend.predict(latents, torch.tensor(500), told, EncoderFeatures())
    torch.testing.assert_close(halves, whole, atol=1e-6, rtol=0)


def test_encoder_free_steps_run_the_encoder_on_key_steps_only(generator: Find) -> None:
    backend, calls = generator("sd15"), []
    hook = backend.denoiser.down_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1), with_kwargs=False)
    sampler = Sampler(backend, Settings(steps=20, guidance=2.0, scheduler="ddim", encoder_every=3), run_seed=2)
    quick = sampler.batch(ASKED).images
    hook.remove()
    assert len(calls) == sum(key_step(i, 20, 3) for i in range(20)) == 9
    exact = Sampler(backend, Settings(steps=20, guidance=2.0, scheduler="ddim"), run_seed=2).batch(ASKED).images
    every = Settings(steps=20, guidance=2.0, scheduler="ddim", encoder_every=1)
    assert torch.equal(Sampler(backend, every, run_seed=2).batch(ASKED).images, exact)
    assert 0 < (quick - exact).abs().mean() < 0.05


def test_key_steps_are_the_first_the_last_and_every_nth() -> None:
    assert [i for i in range(12) if key_step(i, 12, 4)] == [0, 1, 2, 6, 10, 11]
    assert all(key_step(i, 5, 1) for i in range(5))


def test_kept_features_of_another_batch_size_are_not_used() -> None:
    unet = making.unet().eval()
    kept = EncoderFeatures(reuse=True)
    with torch.no_grad():
        for rows in (4, 2):
            latents, context = torch.randn(rows, 4, 16, 16), {"encoder_hidden_states": torch.randn(rows, 3, 16)}
            halves = run_unet(unet, latents, torch.tensor(9), context, kept)
            torch.testing.assert_close(
                halves, run_unet(unet, latents, torch.tensor(9), context, None), atol=1e-6, rtol=0
            )
