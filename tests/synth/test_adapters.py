"""Adapters are swapped, not reloaded; weight 0 is the base model, and prompt embeddings follow the text encoder's adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict

from synth.backends import load_backend
from synth.errors import SynthError
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.synth import making

ASKED = [Request("a photo of a dog", "dog", i) for i in range(2)]


def write_lora(folder: Path, seed: int, text: bool = True) -> str:
    """LoRA files in diffusers' format with random (not zero) weights."""
    pipeline = making.sd()
    torch.manual_seed(seed)
    states: dict[str, Any] = {}
    parts = {"unet": ["to_q", "to_k", "to_v", "to_out.0"]} | (
        {"text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"]} if text else {}
    )
    for name, targets in parts.items():
        module = getattr(pipeline, name)
        module.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=targets))
        state = get_peft_model_state_dict(module)
        states[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
    StableDiffusionPipeline.save_lora_weights(str(folder), **states)
    return str(folder)


def images(backend: Any) -> torch.Tensor:
    return Sampler(backend, Settings(steps=3, guidance=2.0), run_seed=1).batch(ASKED).images


@pytest.fixture
def backend(folder_of: Callable[[str], str]) -> Any:
    return load_backend(folder_of("sd15"))


def test_21_weight_0_is_exactly_the_base_and_adapters_swap(backend: Any, tmp_path: Path) -> None:
    base = images(backend)
    backend.load_adapter(write_lora(tmp_path / "dog", 1), "dog")
    backend.load_adapter(write_lora(tmp_path / "cat", 2), "cat")
    backend.set_adapters("dog")
    dog = images(backend)
    backend.set_adapters("cat")
    cat = images(backend)
    backend.set_adapters(["dog", "cat"], [0.5, 0.5])
    both = images(backend)
    for first, second in ((base, dog), (base, cat), (dog, cat), (both, dog), (both, cat)):
        assert (first - second).abs().max() > 1e-3
    backend.set_adapters("dog", 0.0)
    assert torch.equal(images(backend), base)
    backend.set_adapters([])
    assert torch.equal(images(backend), base)
    backend.set_adapters("dog", 1.0)
    assert torch.equal(images(backend), dog)


def test_prompts_are_encoded_once_for_each_state_of_the_text_encoder(backend: Any, tmp_path: Path) -> None:
    calls: list[int] = []
    backend.pipeline.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    images(backend), images(backend)
    assert len(calls) == 2  # the prompt and the empty one
    base = backend.encode(["a photo of a dog"]).tensors["context"]
    backend.load_adapter(write_lora(tmp_path / "dog", 1), "dog")
    backend.set_adapters("dog")
    adapted, null = backend.encode(["a photo of a dog"]).tensors["context"], backend.encode_null(1)
    assert not torch.allclose(adapted, base)
    assert len(calls) == 4
    backend.set_adapters("dog", 0.5)
    assert not torch.allclose(backend.encode_null(1).tensors["context"], null.tensors["context"])
    backend.set_adapters("dog", 1.0)
    before = len(calls)
    assert torch.equal(backend.encode(["a photo of a dog"]).tensors["context"], adapted)
    assert len(calls) == before
    backend.forget_prompts()
    backend.encode(["a photo of a dog"])
    assert len(calls) == before + 1


def test_an_embedding_does_not_depend_on_the_prompts_beside_it(backend: Any) -> None:
    together = backend.encode(["a", "b", "a", "c"]).tensors["context"]
    backend.forget_prompts()
    assert torch.equal(backend.encode(["c"]).tensors["context"][0], together[3])
    assert torch.equal(together[0], together[2])


def test_an_adapter_for_the_unet_alone_keeps_the_embeddings(backend: Any, tmp_path: Path) -> None:
    backend.load_adapter(write_lora(tmp_path / "dog", 1, text=False), "dog")
    calls: list[int] = []
    backend.pipeline.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for weight in (1.0, 0.5, 0.0):
        backend.set_adapters("dog", weight)
        images(backend)
    assert len(calls) == 2


def test_a_deleted_and_reloaded_name_is_not_taken_for_the_old_one(backend: Any, tmp_path: Path) -> None:
    made = []
    for seed in (1, 2):
        backend.load_adapter(write_lora(tmp_path / str(seed), seed), "class")
        backend.set_adapters("class")
        made.append(images(backend))
        backend.delete_adapters("class")
    assert (made[0] - made[1]).abs().max() > 1e-3


def test_adapters_that_are_not_there_are_one_sentence(backend: Any, generator: Any, tmp_path: Path) -> None:
    with pytest.raises(SynthError, match="no adapter called 'dog' is loaded, only none"):
        backend.set_adapters("dog")
    backend.load_adapter(write_lora(tmp_path / "dog", 1), "dog")
    with pytest.raises(SynthError, match="'cat' is loaded, only dog"):
        backend.set_adapters(["dog", "cat"])
    with pytest.raises(SynthError, match="1 adapters were named with 2 weights"):
        backend.set_adapters("dog", [0.1, 0.2])
    with pytest.raises(SynthError, match="no LoRA adapter for this sd model in"):
        backend.load_adapter(str(tmp_path / "nowhere"), "x")
    with pytest.raises(SynthError, match="takes no LoRA"):
        generator("dit").load_adapter("x", "x")


def test_a_loaded_adapter_drops_nothing_out_and_draws_nothing(backend: Any, tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "dog", 1)
    before = torch.random.get_rng_state()
    backend.load_adapter(folder, "dog")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(module.training for module in backend.pipeline.unet.modules())
    assert not any(module.training for module in backend.pipeline.text_encoder.modules())
