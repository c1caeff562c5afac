"""F1 to F8, F16, F19 and F20 of D3HR: levels, moves and the loop of inversion, by the worked numbers of `docs/specs/d3hr.md`, inversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from synth.backends import wrap
from synth.backends.dit_forward import share_embedders
from synth.guidance import combine
from synth.inversion import Inverter
from synth.levels import Diffusion, Move, climb, grid
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import InversionSettings, Settings
from tests.synth import making

IMPROVED, REFERENCE = InversionSettings(), InversionSettings(mode="reference")
LINEAR: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 0}
Noise = Callable[[torch.Tensor, Move], torch.Tensor]


def linear() -> Diffusion:
    """DiT's schedule, with the rounding of diffusers' float32."""
    return Diffusion(DDIMScheduler(**LINEAR).alphas_cumprod.double().tolist())


def end_of(latents: torch.Tensor, moves: Any, noise: Noise) -> torch.Tensor:
    *_, last = climb(latents, moves, noise)
    return last


def tiny(classes: int = 1000, seed: int = 0) -> Any:
    """F7's random DiT: 2 layers, 2 heads of 16, latents (4, 8, 8)."""
    torch.manual_seed(seed)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=16,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=classes,
    )
    scheduler = DDIMScheduler(**LINEAR, clip_sample=False)
    return wrap(DiTPipeline(transformer=transformer, vae=making.vae(scaling_factor=0.18215), scheduler=scheduler))


def normal(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def resumed(backend: Any, latents: torch.Tensor, prompts: list[int], guidance: float, inversion: Any) -> torch.Tensor:
    """The clean latents that sampling makes of `latents` at level 600."""
    requests = [Request(p, "k", i, latents=latents[i], level=600) for i, p in enumerate(prompts)]
    sampler = Sampler(backend, Settings(guidance=guidance), batch_size=len(prompts), inversion=inversion)
    latents = sampler.batch(requests).latents
    assert latents is not None
    return latents


def relative(difference: torch.Tensor, of: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt() / of.square().mean().sqrt())


def test_f01_signal_of_the_linear_schedule() -> None:
    expected = {
        0: 0.999900, 1: 0.999780, 20: 0.993735, 480: 0.094869, 500: 0.077797, 580: 0.032460, 600: 0.025567, 620: 0.019977,
        760: 0.002833, 980: 0.000059,
    }  # fmt: skip
    levels = grid(tiny(), IMPROVED, (16, 16))
    assert isinstance(levels, Diffusion)
    signal = levels.signal
    assert {t: signal[t] for t in expected} == pytest.approx(expected, abs=1e-6)
    assert signal[600] ** 0.5 == pytest.approx(0.15990, abs=1e-5)
    assert (1 - signal[600]) ** 0.5 == pytest.approx(0.98713, abs=1e-5)
    assert float(torch.tensor(signal[600] / (1 - signal[600])).log()) == pytest.approx(-3.641, abs=1e-3)


def test_f02_levels_and_places_of_the_grid() -> None:
    scheduler = DDIMScheduler(**LINEAR, clip_sample=False)
    scheduler.set_timesteps(50)
    timesteps = scheduler.timesteps.tolist()
    assert (timesteps[18], timesteps[19], timesteps[::-1][24], timesteps[::-1][38]) == (620, 600, 480, 760)
    assert [move.timestep for move in linear().downwards(IMPROVED, IMPROVED.place(600))] == timesteps[19:49]
    assert [move.timestep for move in linear().downwards(REFERENCE, REFERENCE.place(600))] == timesteps[18:]
    assert [move.level for move in linear().upwards(REFERENCE, REFERENCE.place(760))][23:] == list(range(480, 780, 20))


def test_f03_zero_and_constant_noise() -> None:
    latents = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    up = list(linear().upwards(IMPROVED, 30))
    factor = (linear().signal[600] / linear().signal[0]) ** 0.5
    assert factor == pytest.approx(0.15990636, abs=5e-9)
    inverted = end_of(latents, up, lambda seen, _: torch.zeros_like(seen))
    torch.testing.assert_close(inverted, factor * latents, rtol=0, atol=1e-12)
    constant = end_of(latents, up, lambda seen, _: torch.full_like(seen, 2.0))
    shift = (1 - linear().signal[600]) ** 0.5 - factor * (1 - linear().signal[0]) ** 0.5
    assert shift == pytest.approx(0.98553429, abs=5e-9)
    torch.testing.assert_close(constant, factor * latents + 2 * shift, rtol=0, atol=1e-12)
    published = list(linear().downwards(REFERENCE, 30))
    for moves, error, within in ((published[1:], 0.00012, 1e-6), (published, 0.131, 5e-4)):
        back = end_of(inverted, moves, lambda seen, _: torch.zeros_like(seen))
        assert relative(back - latents, latents) == pytest.approx(error, abs=within)
    aligned = end_of(inverted, linear().downwards(IMPROVED, 30), lambda seen, _: torch.zeros_like(seen))
    torch.testing.assert_close(aligned, latents, rtol=0, atol=1e-12)


def test_f04_guidance_changes_nothing_where_both_branches_agree() -> None:
    backend = tiny(classes=10)
    for block in backend.denoiser.transformer_blocks:
        table = block.norm1.emb.class_embedder.embedding_table.weight
        table.copy_(table[-1:].expand_as(table))
    latents = normal(2)
    one, four = (
        Inverter(backend, InversionSettings(guidance=scale)).invert(latents, [1, 2])[600] for scale in (1.0, 4.0)
    )
    torch.testing.assert_close(one, four, rtol=0, atol=1e-5)
    assert torch.equal(combine(one, one, 4.0), one)


def test_f05_junk_in_the_sigma_half_changes_nothing() -> None:
    backend, latents = tiny(), normal(2)
    before = Inverter(backend, REFERENCE).invert(latents, [1, 2], [600])[600]
    last = backend.denoiser.proj_out_2
    rows = torch.arange(last.out_features) % 8 >= 4  # channels are the fastest of a token's outputs
    last.weight[rows] = 1e6
    last.bias[rows] = -1e6
    assert torch.equal(Inverter(backend, REFERENCE).invert(latents, [1, 2], [600])[600], before)


@pytest.mark.parametrize(
    ("spread", "slope", "intercept", "aligned", "published"),
    [
        (0.25, 3.739346, -2.423853, 0.155, 0.163),
        (0.5, 1.985433, -1.218327, 0.078, 0.089),
        (1.0, 1.034710, -0.574107, 0.035, 0.047),
        (2.0, 0.545935, -0.249295, 0.033, 0.048),
    ],
)
def test_f06_exact_noise_of_normal_data(
    spread: float, slope: float, intercept: float, aligned: float, published: float
) -> None:
    schedule = linear()

    def noise(seen: torch.Tensor, move: Move) -> torch.Tensor:
        abar = schedule.signal[int(move.timestep)]
        return (1 - abar) ** 0.5 * (seen - abar**0.5 * 0.7) / (abar * spread**2 + 1 - abar)

    zero, one = end_of(torch.tensor([[0.0], [1.0]], dtype=torch.float64), schedule.upwards(IMPROVED, 30), noise)
    assert float(one - zero) == pytest.approx(slope, abs=1e-5)
    assert float(zero) == pytest.approx(intercept, abs=1e-5)
    # The published round trips are of a sample that is not named, which is worth some per cent.
    normal = torch.randn(2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean = 0.7 + spread * (normal - normal.mean()) / normal.std()
    inverted = end_of(clean, schedule.upwards(IMPROVED, 30), noise)
    down = list(schedule.downwards(REFERENCE, 30))
    for moves, expected in ((down[1:], aligned), (down, published)):
        error = (end_of(inverted, moves, noise) - clean).square().mean().sqrt() / spread
        assert float(error) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_f07_the_loop_of_diffusers_and_round_trips(seed: int, guidance: float) -> None:
    backend, latents, prompts = tiny(seed=seed), normal(4, seed), [0, 1, 2, 3]
    scheduler = DDIMInverseScheduler(**LINEAR, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(50)
    expected, labels = latents, torch.tensor([*prompts, *[1000] * 4])
    for timestep in scheduler.timesteps[1:31]:
        with torch.no_grad():
            both = backend.denoiser(torch.cat([expected] * 2), timestep.expand(8), labels, return_dict=False)[0][:, :4]
        noise = both[4:] + guidance * (both[:4] - both[4:])
        expected = scheduler.step(noise, int(timestep), expected, return_dict=False)[0]
    inversion = InversionSettings(guidance=guidance)
    inverted = Inverter(backend, inversion).invert(latents, prompts)[600]
    torch.testing.assert_close(inverted, expected, rtol=0, atol=1e-5)
    aligned = relative(resumed(backend, inverted, prompts, guidance, inversion) - latents, latents)
    published = relative(resumed(backend, inverted, prompts, guidance, REFERENCE) - latents, latents)
    assert aligned < (0.15 if guidance == 1 else 0.3)
    assert aligned < 0.75 * published


@pytest.mark.parametrize(
    ("inversion", "up", "down"),
    [
        (REFERENCE, 38, 32),
        (IMPROVED, 30, 30),
        (InversionSettings(end="one"), 31, 31),
        (InversionSettings(passes=1), 60, 30),
    ],
)
def test_f08_evaluations(inversion: InversionSettings, up: int, down: int) -> None:
    backend, rows = tiny(classes=10), []
    backend.denoiser.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    inverter = Inverter(backend, inversion)
    inverted = inverter.invert(normal(1), [3], [480, 600])
    assert list(inverted) == [480, 600]
    assert len(rows) == inverter.evaluations([480, 600]) == up
    assert set(rows) == {2 if inversion.mode == "reference" else 1}
    rows.clear()
    resumed(backend, inverted[600], [3], 4.0, inversion)
    assert rows == [2] * down


def test_f16_the_null_class_follows_the_last_one() -> None:
    backend, latents = tiny(classes=10), normal(2)
    asked: list[list[int]] = []
    backend.denoiser.register_forward_pre_hook(
        lambda _, given, named: asked.append(named["class_labels"].tolist()), with_kwargs=True
    )
    first, second = (Inverter(backend, REFERENCE).invert(latents, [1, 2])[600] for _ in range(2))
    assert asked[0] == [10, 10, 1, 2]
    assert torch.equal(first, second)
    with pytest.raises(IndexError):
        backend.denoiser(latents, torch.tensor([20, 20]), class_labels=torch.tensor([1000, 1000]))
    backend.denoiser.train()
    torch.manual_seed(0)
    assert not torch.equal(
        *(Inverter(backend, REFERENCE).invert(latents.repeat(4, 1, 1, 1), [1] * 8)[600] for _ in "ab")
    )


def test_f19_parameters_of_the_xl_with_and_without_its_embedder_copies() -> None:
    with torch.device("meta"):
        model = DiTTransformer2DModel(
            sample_size=32,
            num_layers=28,
            patch_size=2,
            attention_head_dim=72,
            num_attention_heads=16,
            in_channels=4,
            out_channels=8,
            num_embeds_ada_norm=1000,
        )
    blocks: Any = model.transformer_blocks

    def count(module: Any) -> int:
        return sum(weight.numel() for weight in module.parameters())

    assert count(model) == 749_826_464
    assert sum(count(block.norm1.emb) for block in blocks) == 77_769_216
    small = tiny(classes=10).denoiser
    for block in blocks[1:]:
        block.norm1.emb = blocks[0].norm1.emb
    assert count(model) == 674_834_720
    before, first = count(small), small.transformer_blocks[0].norm1.emb
    small.transformer_blocks[1].norm1.emb.load_state_dict(first.state_dict())
    assert share_embedders(small)
    assert count(small) == before - count(first)


@pytest.mark.parametrize("inversion", [IMPROVED, REFERENCE])
def test_f20_a_batch_is_its_images_one_by_one(inversion: InversionSettings) -> None:
    backend, latents, prompts = tiny(classes=10), normal(3), [0, 3, 9]
    together = Inverter(backend, inversion).invert(latents, prompts)[600]
    alone = [Inverter(backend, inversion).invert(latents[i : i + 1], [prompts[i]])[600] for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    made = resumed(backend, together, prompts, 4.0, inversion)
    lone = [resumed(backend, together[i : i + 1], [prompts[i]], 4.0, inversion) for i in range(3)]
    torch.testing.assert_close(made, torch.cat(lone), rtol=0, atol=1e-5)
