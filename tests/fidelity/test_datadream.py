"""Fidelity of DataDream: numbers of the published code, `docs/specs/datadream.md`, numbers 1 to 13 and 21 to 27.

Tests 14 and 15 belong to data sets and folders; 16 to 20 to the sampler (tests/synth).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import inject_adapter_in_model
from safetensors import safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from synth.backends import wrap
from synth.datadream.adapt import Adaptation, Subject
from synth.datadream.config import AdaptConfig
from synth.datadream.embedding import embed
from synth.datadream.fewshot import disef_sample, natural_key
from synth.datadream.latents import Moments
from synth.datadream.lora import TEXT_TARGETS, UNET_TARGETS, LoraSet, lora_config
from synth.datadream.objective import objective_for
from synth.datadream.prompts import class_prompt
from synth.datadream.schedules import adaptation_steps, warmup_cosine
from tests.synth import making

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def count(parameters: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in parameters.values())


def adapted(module: nn.Module, targets: tuple[str, ...]) -> tuple[int, int, int]:
    """Parameters of the base, modules that got LoRA of rank 16, and its parameters."""
    base = count(dict(module.named_parameters()))
    inject_adapter_in_model(lora_config(16, 16, targets), module, "a")
    lora = {name: p for name, p in module.named_parameters() if ".lora_" in name}
    return base, len(lora) // 2, count(lora)


@pytest.mark.parametrize(
    ("shape", "base", "modules", "parameters"),
    [(SD21, 865_910_724, 128, 3_319_808), (SD15, None, 128, 3_188_736), (SDXL, None, 560, 23_224_320)],
    ids=["sd21", "sd15", "sdxl"],
)
def test_01_lora_on_the_unet(shape: dict[str, object], base: int | None, modules: int, parameters: int) -> None:
    with torch.device("meta"):
        found = adapted(UNet2DConditionModel(sample_size=64, **shape), UNET_TARGETS)
    assert found[1:] == (modules, parameters)
    assert base is None or found[0] == base


@pytest.mark.parametrize(
    ("layers", "width", "modules", "parameters"), [(23, 1024, 92, 3_014_656), (12, 768, 48, 1_179_648)]
)
def test_02_lora_on_the_text_encoder(layers: int, width: int, modules: int, parameters: int) -> None:
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64
    )
    with torch.device("meta"):
        assert adapted(CLIPTextModel(config), TEXT_TARGETS)[1:] == (modules, parameters)


def test_04_an_adapter_starts_as_the_base_with_a_of_deviation_one_over_rank() -> None:
    backend = wrap(making.sd())
    latents, times = torch.randn(2, 4, 16, 16), torch.tensor([3, 700])
    told = embed(backend, ["a dog", "a cat"])
    with torch.no_grad():
        base = backend.predict(latents, times, told)
    adapters = LoraSet(backend)
    adapters.add("dog", 16, 16, seed=1)
    adapters.activate("dog")
    with torch.no_grad():
        assert torch.equal(backend.predict(latents, times, embed(backend, ["a dog", "a cat"])), base)
    state = {**adapters.state("dog")["unet"], **adapters.state("dog")["text_encoder"]}
    down = torch.cat([t.flatten() for name, t in state.items() if "lora_A" in name])
    assert abs(float(down.std()) - 0.0625) < 0.001
    assert all(not t.any() for name, t in state.items() if "lora_B" in name)


def test_05_steps_and_learning_rates() -> None:
    assert [adaptation_steps(n, 8, 200) for n in (16, 8, 4, 160, 16 * 100)] == [400, 200, 200, 4000, 40_000]
    published = AdaptConfig(mode="reference")
    assert published.total_steps(16) == 400
    expected = {
        0: 0,
        1: 1e-6,
        50: 5e-5,
        99: 9.9e-5,
        100: 1e-4,
        150: 9.33013e-5,
        200: 7.5e-5,
        250: 5e-5,
        300: 2.5e-5,
        399: 2.74e-9,
    }
    for step, rate in expected.items():
        assert math.isclose(published.rate(step, 400), rate, rel_tol=1e-5 if step < 399 else 1e-3, abs_tol=1e-20)


def test_06_mean_rate_and_one_gradient_norm_for_unet_and_text() -> None:
    assert math.isclose(sum(1e-4 * warmup_cosine(s, 100, 400) for s in range(400)) / 400, 5e-5, rel_tol=1e-9)
    adapters = LoraSet(wrap(making.sd()))
    config = AdaptConfig(rank=2, epochs=4, learning_rate=1.0, weight_decay=0.0, warmup_steps=0, clip=1e-3)
    training = Adaptation(adapters, Subject("dog", [torch.rand(3, 32, 32)], ["a dog"]), config)
    seen: list[float] = []
    hook = lambda optimizer, *_: seen.append(  # noqa: E731
        math.sqrt(sum(float(p.grad.square().sum()) for p in optimizer.param_groups[0]["params"] if p.grad is not None))
    )
    training._optimizer.register_step_pre_hook(hook)
    training.advance()
    training.advance()
    parts = [adapters.state("dog")[part] for part in ("unet", "text_encoder")]
    assert all(any(t.any() for n, t in part.items() if "lora_B" in n) for part in parts)  # both learn
    assert all(math.isclose(norm, 1e-3, rel_tol=1e-3) for norm in seen)


def test_07_one_prompt_embedding_repeated_gives_the_gradients_of_eight() -> None:
    backend = wrap(making.sd())
    adapters = LoraSet(backend)
    adapters.add("dog", 4, 4, seed=1)
    adapters.activate("dog")
    weights = adapters.parameters("dog")
    source = torch.Generator().manual_seed(0)
    for weight in weights:  # B = 0 would leave A without a gradient
        weight.data = 0.1 * torch.randn(weight.shape, generator=source)
    latents, target = (torch.randn(8, 4, 16, 16, generator=source) for _ in range(2))
    times = torch.randint(0, 1000, (8,), generator=source)
    found = []
    for told in (embed(backend, ["a dog"]).take([0] * 8), embed(backend, ["a dog"] * 8)):
        loss = (backend.predict(latents, times, told) - target).square().mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 1e-6


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_08_kept_moments_sample_as_the_vae_does(family: str) -> None:
    backend = wrap(making.MAKERS[family]())
    images = torch.rand(3, 3, 32, 32)
    vae = backend.pipeline.vae
    with torch.no_grad():
        posterior = vae.encode(images * 2 - 1).latent_dist
        drawn = posterior.sample(torch.Generator().manual_seed(5))
    shift = vae.config.shift_factor  # SD3 and FLUX subtract one
    expected = (drawn if shift is None else drawn - shift) * vae.config.scaling_factor
    moments = Moments.of(backend, images)
    noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(moments.sample([0, 1, 2], noise), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_09_the_target_follows_the_scheduler(prediction: str) -> None:
    backend = wrap(making.sd(prediction))
    process = DDPMScheduler.from_config(backend.scheduler.config)
    latents, noise, levels = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 500, 999])
    objective = objective_for(backend.scheduler)
    expected = noise if prediction == "epsilon" else process.get_velocity(latents, noise, levels)
    assert torch.allclose(objective.target(latents, noise, levels), expected, atol=1e-6)
    assert torch.allclose(
        objective.noised(latents, noise, levels), process.add_noise(latents, noise, levels), atol=1e-6
    )


@pytest.mark.parametrize(
    ("domain", "name", "prompt"),
    [
        ("", "tench", "a photo of a tench"),
        ("", "accordion", "a photo of a accordion"),
        ("pet", "abyssinian", "a pet photo of a abyssinian"),
        ("aircraft", "707-320", "a aircraft photo of a 707-320"),
        ("aircraft", "F-16A/B", "a aircraft photo of a F-16A/B"),
        ("car", "Ram C/V Cargo Van Minivan 2012", "a car photo of a Ram C/V Cargo Van Minivan 2012"),
        ("satellite", "AnnualCrop", "a satellite photo of a AnnualCrop"),
        ("texture", "banded", "a texture photo of a banded"),
        ("flower", "rose", "a flower photo of a rose"),
        ("food", "apple_pie", "a food photo of a apple_pie"),
        ("scene", "abbey", "a scene photo of a abbey"),
    ],
)
def test_10_prompts(domain: str, name: str, prompt: str) -> None:
    assert class_prompt(name, domain) == prompt


def test_11_natural_order() -> None:
    names = ["img_10", "img_2", "img_1", "n02666196_10754", "n02666196_7225"]
    assert sorted(names, key=natural_key) == ["img_1", "img_2", "img_10", "n02666196_7225", "n02666196_10754"]


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [[49, 97, 53, 5], [133, 165, 162, 151], [238, 261, 245, 274]]),
        (1, [[17, 72, 97, 8], [132, 115, 163, 197], [257, 260, 283, 248]]),
        (5, [[79, 32, 94, 45], [188, 194, 183, 167], [203, 259, 299, 231]]),
        (10, [[73, 4, 54, 61], [173, 101, 126, 159], [262, 235, 283, 220]]),
    ],
)
def test_13_the_sampler_of_disef(seed: int, expected: list[list[int]]) -> None:
    assert list(disef_sample([place // 100 for place in range(300)], 4, seed).values()) == expected


def one_step(backend: Any, config: AdaptConfig, name: str = "dog") -> LoraSet:
    """An adapter whose every B is away from zero."""
    adapters = LoraSet(backend, text=config.train_text)
    training = Adaptation(adapters, Subject(name, [torch.rand(3, 32, 32)] * 2, ["a dog", "a cat"]), config)
    while not training.done:
        training.advance()
    return adapters


@torch.no_grad()
def outputs(backend: Any) -> torch.Tensor:
    backend.forget_prompts()
    told = backend.size_conditioning(backend.encode(["a dog", "a fox"]), (32, 32), False)
    if backend.capabilities.guidance == "embedded":
        told = told.having(guidance=torch.ones(2))
    latents = torch.randn(2, *backend.latent_shape((32, 32)), generator=torch.Generator().manual_seed(3))
    return backend.predict(latents, torch.tensor(500.0), told)


LOUD = AdaptConfig(rank=4, alpha=8, steps=2, learning_rate=0.1, warmup_steps=0, size=32)


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "sd3", "flux"])
def test_21_an_adapter_file_gives_back_the_very_outputs(family: str, tmp_path: Path) -> None:
    backend = wrap(making.MAKERS[family]())
    base = outputs(backend)
    adapters = one_step(backend, LOUD)
    trained = outputs(backend)
    assert (trained - base).abs().max() > 1e-2
    adapters.save("dog", tmp_path / "new")
    adapters.save("dog", tmp_path / "plain", text_keys="plain")
    adapters.remove("dog")
    assert torch.equal(outputs(backend), base)
    for spelling in ("new", "plain"):
        backend.load_adapter(str(tmp_path / spelling), spelling)
        backend.set_adapters(spelling)
        assert torch.equal(outputs(backend), trained)  # alpha is not the rank: the metadata has it
        backend.set_adapters(spelling, 0.0)
        assert torch.equal(outputs(backend), base)


def test_21_both_spellings_of_the_text_encoders_keys_are_written(tmp_path: Path) -> None:
    adapters = one_step(wrap(making.sd()), LOUD)
    for spelling, prefix in (("text_model", "text_encoder.text_model.encoder."), ("plain", "text_encoder.encoder.")):
        path = adapters.save("dog", tmp_path / spelling, text_keys=spelling)  # type: ignore[arg-type]
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            assert "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight" in names
            text = {name for name in names if name.startswith("text_encoder.")}
            assert f"{prefix}layers.0.self_attn.q_proj.lora_linear_layer.down.weight" in text
            assert all(name.startswith(prefix) for name in text)
