"""What all steps of a batch repeat in a UNet, done once: the same images to the rounding of float32.

* Both branches of a guided step get the same latents, so everything in front of the first cross-attention (a convolution, a
  residual block and a self-attention at full size) is computed for one of them and copied to the other.
* A prompt's keys and values in the cross-attentions are the same at every step.
* An adapter's two thin products and their sum are folded into the layer's weight, W + sBA: in float32 only, where that rounds no
  more than the sum itself would. The model's own weights are never written to.

Layers get a stand-in `forward` while a batch is made and their own back afterwards. Compiled models, and those whose parts
accelerate brings to the device one by one, are left as they are. One batch at a time runs on a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional as F

KEPT_CONTEXTS = 2  # the condition alone, and both branches: what the two kinds of steps are told


class Savings:
    """In force while it is entered: around the steps of one batch. `model` is a UNet, or another network, which nothing is done to.

    `fixed_context`: the model is told the same tensor at every step (not so under CADS). `twins` is set by the sampler before each
    call: the rows are two halves with the same latents.
    """

    def __init__(self, model: Any, fixed_context: bool = True) -> None:
        self.twins = False
        self.fixed_context = fixed_context
        self._model = model if _can_be_changed(model) else None
        self._changed: list[nn.Module] = []
        self._hooks: list[Any] = []

    @torch.no_grad()
    def __enter__(self) -> Savings:
        if self._model is not None:
            self._fold()
            if self.fixed_context:
                for layer in _projections(self._model):
                    self._stand_in(layer, _Kept(layer.forward))
            for module in _front(self._model):
                self._hooks.append(module.register_forward_pre_hook(self._halve, with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._double))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.twins = False
        for layer in self._changed:
            layer.__dict__.pop("forward", None)
        for hook in self._hooks:
            hook.remove()
        self._changed, self._hooks = [], []

    def _stand_in(self, layer: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
        layer.__dict__["forward"] = forward
        self._changed.append(layer)

    def _fold(self) -> None:
        assert self._model is not None
        for layer in self._model.modules():
            # Exactly peft's own linear layer with plain LoRA: DoRA and its kin are no sum of weights.
            if type(layer) is not Linear or layer.merged or getattr(layer, "lora_variant", None):
                continue
            base = layer.get_base_layer()
            if type(base) is not nn.Linear or base.weight.dtype != torch.float32:
                continue
            active = [] if layer.disable_adapters else [name for name in layer.active_adapters if name in layer.lora_A]
            weight = base.weight
            for name in active:
                weight = weight + layer.get_delta_weight(name).to(weight.dtype)
            self._stand_in(layer, _Folded(weight, base.bias))

    def _halve(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not self.twins:
            return None
        return tuple(_first_half(one) for one in inputs), {name: _first_half(one) for name, one in named.items()}

    def _double(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> Any:
        return torch.cat([output, output]) if self.twins else None


class _Kept:
    """A projection of the context, computed when a context is first seen; known by identity, and held so that it stays itself."""

    def __init__(self, forward: Callable[..., torch.Tensor]) -> None:
        self._forward = forward
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, context: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        for known, projected in self._seen:
            if known is context:
                return projected
        projected = self._forward(context, *more, **named)
        self._seen = [*self._seen, (context, projected)][-KEPT_CONTEXTS:]
        return projected


class _Folded:
    """A linear layer with its adapters in its weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, rows: torch.Tensor, *_more: Any, **_named: Any) -> torch.Tensor:
        return F.linear(rows, self._weight, self._bias)


def _first_half(value: Any) -> Any:
    return value[: len(value) // 2] if isinstance(value, torch.Tensor) and value.ndim > 1 else value


def _can_be_changed(model: Any) -> bool:
    if not isinstance(model, UNet2DConditionModel):
        return False
    network: Any = model
    if network._compiled_call_impl is not None:
        return False
    return not any(hasattr(module, "_hf_hook") or "forward" in module.__dict__ for module in network.modules())


def _projections(unet: Any) -> Iterator[nn.Module]:
    """The key and value layers of every cross-attention to the prompt."""
    for name, module in unet.named_modules():
        if name.endswith(".attn2") and module.is_cross_attention:
            yield module.to_k
            yield module.to_v


def _front(unet: Any) -> Iterator[nn.Module]:
    """The modules before anything differs between two rows with the same latents: before the first cross-attention, and where
    time is embedded with something of the prompt or a class, the first convolution alone."""
    yield unet.conv_in
    config = unet.config
    if any(getattr(config, name, None) for name in ("addition_embed_type", "class_embed_type", "num_class_embeds")):
        return
    for block in unet.down_blocks:
        if getattr(block, "has_cross_attention", False):
            yield from _front_of_block(block)
            return
        yield from block.resnets
        yield from block.downsamplers or ()


def _front_of_block(block: Any) -> Iterator[nn.Module]:
    yield block.resnets[0]
    attention = block.attentions[0]
    layers = getattr(attention, "transformer_blocks", None)
    if layers is None or not getattr(attention, "is_input_continuous", False):
        return
    yield attention.norm
    yield attention.proj_in
    first = layers[0]
    if first.norm_type == "layer_norm" and not first.only_cross_attention:
        yield first.norm1
        yield first.attn1
