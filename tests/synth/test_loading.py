"""Where a generator is looked for, how it is held, and the one sentence when it is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from synth.backends import Backend, Conditioning, GeneratorOptions, SteppedBackend, WholeBackend, load_backend, wrap
from synth.backends.loading import resolve_dtype
from synth.backends.prompts import PromptCache
from synth.errors import SynthError
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.synth import making

Find = Callable[[str], Any]


def refused(options: GeneratorOptions | str) -> str:
    with pytest.raises(SynthError) as caught:
        load_backend(options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def broken(folder_of: Find, tmp_path: Path) -> Path:
    """A copy of a folder, to break."""
    return Path(shutil.copytree(folder_of("sd15"), tmp_path / "model"))


def test_a_missing_folder_is_named_with_its_whole_path(tmp_path: Path) -> None:
    message = refused(str(tmp_path / "nowhere"))
    assert f"{tmp_path}/nowhere is not a folder" in message
    assert "save_pretrained" in message


def test_a_folder_without_an_index_says_what_it_lacks(tmp_path: Path) -> None:
    assert "has no model_index.json" in refused(str(tmp_path))


def test_an_id_that_is_nowhere_names_folder_cache_and_hub() -> None:
    message = refused("nobody/no-such-model")
    assert "no folder" in message
    assert "Hub" in message
    assert "hf download nobody/no-such-model" in message


def test_an_index_that_is_not_json_or_names_nothing(broken: Path) -> None:
    (broken / "model_index.json").write_text("{")
    assert "is not JSON" in refused(str(broken))
    (broken / "model_index.json").write_text("{}")
    assert "names no _class_name" in refused(str(broken))
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDM2Pipeline"}))
    assert "AudioLDM2Pipeline, which makes no images" in refused(str(broken))


def test_missing_and_damaged_weights_are_one_sentence(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "StableDiffusionPipeline" in refused(str(broken))
    weights.unlink()
    assert "diffusion_pytorch_model.safetensors" in refused(str(broken))


def test_options_that_cannot_be_met_are_refused(folder_of: Find) -> None:
    folder = folder_of("sd15")
    assert "dtype takes auto" in refused(GeneratorOptions(folder, dtype="int8"))  # type: ignore[arg-type]
    assert "offload takes none" in refused(GeneratorOptions(folder, offload="disk"))  # type: ignore[arg-type]
    assert "device takes auto" in refused(GeneratorOptions(folder, device="gpu7?"))
    assert "needs one" in refused(GeneratorOptions(folder, device="cpu", offload="model"))
    assert "attention 'lightning' is not available" in refused(GeneratorOptions(folder, attention="lightning"))
    assert "CUDA devices" in refused(GeneratorOptions(folder, device="cuda:99"))


def test_type_and_device_are_found_when_not_given(folder_of: Find) -> None:
    assert resolve_dtype("auto", torch.device("cpu")) is torch.float32
    backend = load_backend(GeneratorOptions(folder_of("sd15"), device="cpu"))
    assert isinstance(backend, SteppedBackend)
    assert backend.device.type == "cpu"
    assert {p.dtype for p in backend.denoiser.parameters()} == {torch.float32}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "dit"])
def test_half_precision_weights_still_give_float32_images(folder_of: Find, name: str) -> None:
    backend = load_backend(GeneratorOptions(folder_of(name), dtype="bfloat16", device="cpu"))
    prompt: Any = 1 if name == "dit" else "a dog"
    made = Sampler(backend, Settings(steps=2, size=(32, 32))).batch([Request(prompt, "k", 0)])
    assert made.images.dtype == torch.float32
    assert not made.broken.any()


def test_an_autoencoder_that_overflows_in_half_precision_is_held_in_float32() -> None:
    pipeline = making.sdxl()
    assert pipeline.vae.config.force_upcast
    pipeline.to(dtype=torch.float16)
    backend: Any = wrap(pipeline)
    assert backend.pipeline.vae.dtype == torch.float32
    assert backend.dtype == torch.float16


def test_another_autoencoder_can_be_taken(folder_of: Find, tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = making.vae(scaling_factor=0.5)
    other.save_pretrained(tmp_path / "vae")
    backend: Any = load_backend(GeneratorOptions(folder_of("sd15"), vae=str(tmp_path / "vae"), vae_slicing=True))
    assert isinstance(backend.pipeline.vae, AutoencoderKL)
    assert backend.pipeline.vae.config.scaling_factor == 0.5
    assert backend.pipeline.vae.use_slicing


def test_sliced_attention_gives_the_same_image(folder_of: Find, generator: Find) -> None:
    sliced = load_backend(GeneratorOptions(folder_of("sd15"), attention="slicing"))
    request, settings = [Request("a dog", "k", 0)], Settings(steps=2, guidance=2.0)
    plain = Sampler(generator("sd15"), settings).batch(request).images
    torch.testing.assert_close(Sampler(sliced, settings).batch(request).images, plain, atol=1e-5, rtol=0)


def test_the_safety_checker_and_the_watermarker_are_off(broken: Path) -> None:
    index = json.loads((broken / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (broken / "model_index.json").write_text(json.dumps(index))  # its weights are not even there
    backend: Any = load_backend(str(broken))
    assert backend.pipeline.safety_checker is None
    marking = making.sdxl()
    marking.watermark = object()
    assert wrap(marking).pipeline.watermark is None  # type: ignore[attr-defined]


def test_everything_is_frozen_and_in_eval_mode(generator: Find) -> None:
    for name in ("sd15", "dit", "flux"):
        for component in generator(name).pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                assert not component.training
                assert not any(p.requires_grad for p in component.parameters())


def test_a_refiner_is_told_apart_from_its_base(tmp_path: Path) -> None:
    backend = load_backend(making.saved(making.sdxl(refiner=True), tmp_path / "refiner"))
    made = Sampler(backend, Settings(steps=4)).batch([Request("a", "k", 0, image=torch.rand(3, 32, 32), strength=50)])
    assert made.images.shape == (1, 3, 32, 32)


def test_an_inpainting_model_asks_for_an_image_and_a_mask() -> None:
    backend = wrap(making.sd(channels=9))
    assert not backend.capabilities.text_to_image
    with pytest.raises(SynthError, match="give an image and a mask"):
        Sampler(backend, Settings(steps=2)).batch([Request("a", "k", 0)])
    with pytest.raises(SynthError, match="every request needs an image and a mask"):
        Sampler(backend, Settings(steps=2)).batch([Request("a", "k", 0, image=torch.rand(3, 32, 32))])


def test_capabilities_say_what_each_family_can_do(generator: Find) -> None:
    sd, dit, flux, gligen = (generator(name).capabilities for name in ("sd15", "dit", "flux", "gligen"))
    assert (sd.family, sd.native_size, sd.prediction) == ("sd", (32, 32), "epsilon")
    assert generator("sd21").capabilities.prediction == "v_prediction"
    assert sd.text_to_image
    assert sd.adapters
    assert not sd.class_conditional
    assert (dit.class_conditional, dit.classes, dit.text_to_image) == (True, 10, False)
    assert flux.guidance == "embedded"
    assert generator("schnell").capabilities.guidance == "classifier_free"
    assert (gligen.layout, gligen.max_boxes) == (True, 30)


def test_other_pipelines_are_called_whole(tmp_path: Path) -> None:
    backend: Any = load_backend(making.saved(making.sana(), tmp_path / "model"))
    assert isinstance(backend, Backend)
    assert isinstance(backend, WholeBackend)
    assert not isinstance(backend, SteppedBackend)
    asked = [Request(prompt, "k", i) for i, prompt in enumerate(["a dog", "a red bag", "a dog"])]
    settings = Settings(steps=3, guidance=2.0)
    encoded: list[int] = []
    backend.pipeline.text_encoder.register_forward_pre_hook(lambda *_: encoded.append(1))
    together = Sampler(backend, settings, run_seed=4).batch(asked).images
    alone = torch.cat([Sampler(backend, settings, run_seed=4).batch([request]).images for request in asked])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.shape == (3, 3, 32, 32)
    assert len(encoded) == 4  # two prompts, each with the empty one beside it
    made = backend.generate(["a", "b"], seeds(), size=(32, 32), steps=3, guidance=2.0, scheduler="own", negative=None)
    arguments = {"num_inference_steps": 3, "guidance_scale": 2.0, "height": 32, "width": 32, "output_type": "pt"}
    want = backend.pipeline(["a", "b"], generator=seeds(), use_resolution_binning=False, **arguments).images
    torch.testing.assert_close(made, want, atol=1e-5, rtol=0)
    with pytest.raises(SynthError, match="only called whole"):
        Sampler(backend, Settings(interval=(0.2, 0.8)))
    with pytest.raises(SynthError, match="from text alone"):
        Sampler(backend, settings).batch([Request("a", "k", 0, image=torch.rand(3, 32, 32))])


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(2)]


def test_a_module_that_is_brought_to_a_device_computes_there() -> None:
    from types import SimpleNamespace

    from synth.backends.base import _runs_on

    module = torch.nn.Linear(2, 2)
    assert _runs_on(module) == torch.device("cpu")
    module._hf_hook = SimpleNamespace(execution_device=1)  # type: ignore[assignment]
    assert _runs_on(module) == torch.device("cuda", 1)


def test_kept_prompts_stay_below_their_bytes() -> None:
    cache, made = PromptCache(limit=3000), []

    def make() -> Conditioning:
        made.append(1)
        return Conditioning({"context": torch.zeros(1, 250)})  # 1000 bytes

    for key in ("a", "b", "c", "a", "d", "a", "b"):
        cache.get(key, make)
    assert len(cache) == 3
    assert len(made) == 5  # b was the oldest when d came
    cache.clear()
    assert len(cache) == 0


def test_a_model_that_is_kept_in_main_memory_runs_its_unet_whole(
    folder_of: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synth.backends.loading._place", lambda *_: None)  # there may be no GPU here
    backend = load_backend(GeneratorOptions(folder_of("sd15"), device="cpu", offload="model"))
    with pytest.raises(SynthError, match="encoder_every leaves out"):
        Sampler(backend, Settings(encoder_every=3))
