"""What a batch's steps share is computed once and changes no image: held against the same loop with all reuse off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D
from torch import nn

from synth import guided_batch
from synth.backends import load_backend, wrap
from synth.backends.step_reuse import StepReuse
from synth.datadream.lora import LoraSet
from synth.guidance import Cads
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.synth import making

TOLERANCE = 1e-5
ASKED = [Request(prompt, "bag", i) for i, prompt in enumerate(["a red bag", "a green bag", "a red bag"])]
WAYS = {
    "guided": {},
    "interval": {"interval": (0.3, 0.7)},
    "alone": {"guidance": 1.0},
    "cads": {"cads": Cads(0.2, 0.9, 0.3)},
    "encoder": {"encoder_every": 2},
}


def images(backend: Any, settings: Settings, requests: list[Request] = ASKED) -> torch.Tensor:
    [batch] = Sampler(backend, settings, run_seed=3, batch_size=4).generate(requests)
    return batch.images


def without_reuse(backend: Any, settings: Settings, requests: list[Request] = ASKED) -> torch.Tensor:
    with mock.patch.object(guided_batch, "StepReuse", return_value=StepReuse(None)):
        return images(backend, settings, requests)


def adapted(folder: Path, scheduler_of: str = "sd15") -> Any:
    """A tiny generator with two adapters whose weights are not zero."""
    pipeline = making.MAKERS[scheduler_of]()
    training = LoraSet(wrap(pipeline))
    for seed, name in enumerate(("one", "two")):
        training.add(name, 4, 8, seed)
        for number, weight in enumerate(training.parameters(name)):
            # Moderate: with weights of deviation 1 the network amplifies a difference of 1e-6 two hundred times.
            source = torch.Generator().manual_seed(number + 99 * seed)
            weight.data.copy_(0.2 * torch.randn(weight.shape, generator=source))
        training.save(name, folder / name)
    backend: Any = load_backend(making.saved(making.MAKERS[scheduler_of](), folder / "model"))
    for name in ("one", "two"):
        backend.load_adapter(str(folder / name), name)
    return backend


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "gligen", "sd3"])
def test_no_image_changes(generator: Callable[[str], Any], name: str, way: str) -> None:
    if name == "sd3" and way == "encoder":
        pytest.skip("a transformer has no encoder half")
    settings = Settings(**{"steps": 4, "guidance": 3.0, **WAYS[way]})
    backend, requests = generator(name), ASKED
    if name == "gligen":
        box = {"boxes": torch.tensor([[0.1, 0.1, 0.6, 0.7]]), "phrases": ("a bag",)}
        requests = [Request(one.prompt, one.key, one.ordinal, **box) for one in ASKED]
    want = without_reuse(backend, settings, requests)
    torch.testing.assert_close(images(backend, settings, requests), want, atol=TOLERANCE, rtol=0)
    assert float(want.std()) > 0.01


@pytest.mark.parametrize("names", [[], ["one"], ["two"], ["one", "two"]])
def test_no_image_changes_under_adapters(tmp_path: Path, names: list[str]) -> None:
    backend = adapted(tmp_path)
    settings = Settings(steps=3, guidance=2.0)
    base = images(backend, settings) if not names else None
    backend.set_adapters(names, 0.5)
    want = without_reuse(backend, settings)
    torch.testing.assert_close(images(backend, settings), want, atol=TOLERANCE, rtol=0)
    backend.set_adapters([])
    bare = without_reuse(backend, settings)
    assert base is None or not torch.equal(base, bare)  # a loaded adapter is active until something else is asked for
    assert names == [] or float((want - bare).abs().max()) > 1e-3


def test_the_model_is_as_it_was_afterwards(tmp_path: Path) -> None:
    backend = adapted(tmp_path)
    before = {name: tensor.clone() for name, tensor in backend.denoiser.state_dict().items()}
    images(backend, Settings(steps=2, guidance=2.0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backend.denoiser.state_dict().items())
    for module in backend.denoiser.modules():
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_it_is_as_it_was_after_an_error_too(generator: Callable[[str], Any]) -> None:
    unet = generator("sd15").denoiser
    with pytest.raises(RuntimeError, match="stop"), StepReuse(unet):
        raise RuntimeError("stop")
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in unet.modules())


def calls(layer: nn.Module, run: Callable[[], Any]) -> list[int]:
    """The rows of every call of a layer."""
    rows: list[int] = []
    own = type(layer).forward

    def counted(self: Any, x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        if self is layer:
            rows.append(len(x))
        return own(self, x, *more, **named)

    with mock.patch.object(type(layer), "forward", counted):
        run()
    return rows


@pytest.mark.parametrize("place", ["key", "front", "attention"])
def test_the_work_is_done_once(generator: Callable[[str], Any], place: str) -> None:
    backend = generator("sd15")
    block = backend.denoiser.down_blocks[0]
    transformer = block.attentions[0].transformer_blocks[0]
    layer = {"key": transformer.attn2.to_k, "front": block.resnets[0].conv1, "attention": transformer.attn1.to_q}[place]
    settings = Settings(steps=4, guidance=2.0, scheduler="ddim")
    backend.encode([one.prompt for one in ASKED])
    saved = calls(layer, lambda: images(backend, settings))
    plain = calls(layer, lambda: without_reuse(backend, settings))
    assert plain == [6] * 4
    assert saved == ([6] if place == "key" else [3] * 4)


def test_a_half_precision_model_keeps_its_adapters_apart(tmp_path: Path) -> None:
    backend = adapted(tmp_path)
    backend.pipeline.unet.to(torch.bfloat16)
    down = backend.denoiser.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    with StepReuse(backend.denoiser):
        assert "forward" not in down.__dict__


def test_a_compiled_model_is_left_alone(generator: Callable[[str], Any]) -> None:
    pipeline = making.sd()
    pipeline.unet.compile(backend="eager")
    with StepReuse(pipeline.unet) as reuse:
        assert not any("forward" in module.__dict__ or module._forward_hooks for module in pipeline.unet.modules())
        assert not reuse.paired


class OtherBlock(CrossAttnDownBlock2D):  # type: ignore[misc]
    """A block of a kind that is not known."""


def attention_first(self: Any, hidden_states: Any, temb: Any = None, **named: Any) -> Any:
    """A known block as another release might run it: the prompt is read before the residual block."""
    prompt = named["encoder_hidden_states"]
    outputs: tuple[Any, ...] = ()
    for resnet, attention in zip(self.resnets, self.attentions, strict=True):
        hidden_states = attention(hidden_states, encoder_hidden_states=prompt, return_dict=False)[0]
        hidden_states = resnet(hidden_states, temb)
        outputs += (hidden_states,)
    for downsampler in self.downsamplers or ():
        hidden_states = downsampler(hidden_states)
        outputs += (hidden_states,)
    return hidden_states, outputs


def test_a_block_of_an_unknown_kind_is_run_whole() -> None:
    backend: Any = wrap(making.sd())
    block = backend.denoiser.down_blocks[0]
    block.__class__ = OtherBlock
    settings = Settings(steps=3, guidance=3.0, scheduler="ddim")
    assert calls(block.resnets[0].conv1, lambda: images(backend, settings)) == [6] * 3
    torch.testing.assert_close(images(backend, settings), without_reuse(backend, settings), atol=TOLERANCE, rtol=0)


def test_blocks_that_read_the_prompt_earlier_change_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = wrap(making.sd())
    settings = Settings(steps=3, guidance=3.0, scheduler="ddim")
    monkeypatch.setattr(CrossAttnDownBlock2D, "forward", attention_first)
    want = without_reuse(backend, settings)
    resnet = backend.denoiser.down_blocks[0].resnets[0]
    assert calls(resnet.conv1, lambda: images(backend, settings)) == [6] * 3
    torch.testing.assert_close(images(backend, settings), want, atol=TOLERANCE, rtol=0)


def test_two_contexts_of_one_shape_are_told_apart(generator: Callable[[str], Any]) -> None:
    backend = generator("sd15")
    latents, time = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    contexts = [backend.encode([prompt]) for prompt in ("a red bag", "a green bag", "a shoe")]
    with torch.no_grad():
        want = [backend.predict(latents, time, one) for one in contexts]
        with StepReuse(backend.denoiser):
            for one, expected in zip(contexts * 2, want * 2, strict=True):
                torch.testing.assert_close(backend.predict(latents, time, one), expected, atol=TOLERANCE, rtol=0)
    assert float((want[0] - want[1]).abs().max()) > 10 * TOLERANCE


def test_the_dtype_follows_a_model_that_is_moved_to_another() -> None:
    backend: Any = wrap(making.sd())
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        backend.pipeline.unet.to(dtype)
        assert backend.dtype == dtype
