"""Reuse, within one batch, of what every step computes again: the same images to the rounding of float32. In a UNet:

* Both branches of a guided step get the same latents, so everything in front of the first cross-attention (a convolution, a
  residual block and a self-attention at full size) is computed for one of them and copied to the other.
* A prompt's keys and values in the cross-attentions are the same at every step.
* An adapter's two thin products and their sum are folded into the layer's weight, W + sBA: in float32 only, where that rounds no
  more than the sum itself would. The model's own weights are never written to.

Layers get a stand-in `forward` while a batch is made and their own back afterwards. Compiled models, and those whose parts
accelerate brings to the device one by one, are left as they are. One batch at a time runs on a model. A DiT's whole forward pass is
replaced, by `synth.backends.dit_forward`.

The first of the three relies on the order in which diffusers' blocks call their parts. Blocks of an unknown kind are left alone,
and the rows that a module gets are compared at the first paired call of a batch: where the halves differ, nothing is halved from
then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, DownBlock2D
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional as F

from synth.backends.dit_forward import DiTForward, is_published_dit

#: The condition alone, and both branches: what the two kinds of steps hand to the model.
KEPT_CONTEXTS = 2
#: Halves with the same content differ by rounding only, to this share of the largest value; two prompts differ by far more.
SAME_ROWS = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}


class StepReuse:
    """A context for the steps of one batch on `model`, a UNet or a DiT; any other network is left as it is.

    `fixed_context`: the model gets the same context tensor at every step (not so under CADS). The caller sets `paired` before each
    call: whether the rows are two halves with the same latents. Entering replaces layers' `forward` and adds hooks; leaving, also by
    an error, puts everything back.
    """

    def __init__(self, model: Any, fixed_context: bool = True) -> None:
        self.paired = False
        self.fixed_context = fixed_context
        self._model: Any = model if _can_be_changed(model) else None
        self._changed: list[nn.Module] = []
        self._hooks: list[Any] = []
        self._compared: set[nn.Module] = set()
        self._halves_differ = False

    @torch.no_grad()
    def __enter__(self) -> StepReuse:
        if is_published_dit(self._model):
            self._replace_forward(self._model, DiTForward(self._model))
        elif self._model is not None:
            self._fold_adapters()
            if self.fixed_context:
                for layer in _projections(self._model):
                    self._replace_forward(layer, CachedProjection(layer.forward))
            for module in _before_prompt(self._model):
                self._hooks.append(module.register_forward_pre_hook(self._halve, with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._double, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.paired = False
        for layer in self._changed:
            layer.__dict__.pop("forward", None)
        for hook in self._hooks:
            hook.remove()
        self._changed, self._hooks, self._compared, self._halves_differ = [], [], set(), False

    def _replace_forward(self, layer: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
        layer.__dict__["forward"] = forward
        self._changed.append(layer)

    def _fold_adapters(self) -> None:
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
            self._replace_forward(layer, FoldedLinear(weight, base.bias))

    def _halve(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self.paired and module not in self._compared:
            self._compared.add(module)
            self._halves_differ |= not all(map(_has_equal_halves, (*inputs, *named.values())))
        if not self.paired or self._halves_differ:
            return None
        return tuple(map(_first_half, inputs)), {name: _first_half(value) for name, value in named.items()}

    def _double(self, module: nn.Module, _inputs: Any, _named: Any, output: torch.Tensor) -> Any:
        return torch.cat([output, output]) if self.paired and not self._halves_differ else None


class CachedProjection:
    """A layer's `forward` that computes the projection of a context when it first sees it and returns the same tensor afterwards.

    Contexts are told apart by identity, and held so that an identity is not given away; the last `KEPT_CONTEXTS` are remembered.
    """

    def __init__(self, forward: Callable[..., torch.Tensor]) -> None:
        self._forward = forward
        self._projections: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, context: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        for seen, projection in self._projections:
            if seen is context:
                return projection
        projection = self._forward(context, *more, **named)
        self._projections = [*self._projections, (context, projection)][-KEPT_CONTEXTS:]
        return projection


class FoldedLinear:
    """A linear layer's `forward` with adapters added to its weight: rows (..., in) to (..., out) by one product."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, rows: torch.Tensor, *_more: Any, **_named: Any) -> torch.Tensor:
        return F.linear(rows, self._weight, self._bias)


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 1


def _first_half(value: Any) -> Any:
    return value[: len(value) // 2] if _has_rows(value) else value


def _has_equal_halves(value: Any) -> bool:
    """Say whether both halves of the rows are the same to rounding; waits for the device. True of whatever has no rows."""
    if not _has_rows(value):
        return True
    first, second = value.chunk(2)
    if first.shape != second.shape:
        return False
    tolerance = SAME_ROWS.get(value.dtype, 0.0) * value.abs().amax()
    return bool(((first - second).abs() <= tolerance).all() | ~value.isfinite().all())


def _can_be_changed(model: Any) -> bool:
    if not isinstance(model, UNet2DConditionModel) and not is_published_dit(model):
        return False
    network: Any = model
    if network._compiled_call_impl is not None:
        return False
    return not any(hasattr(module, "_hf_hook") or "forward" in module.__dict__ for module in network.modules())


def _projections(unet: Any) -> Iterator[nn.Module]:
    """Yield the key and value layers of every cross-attention to the prompt."""
    for name, module in unet.named_modules():
        if name.endswith(".attn2") and type(module) is Attention and module.is_cross_attention:
            yield module.to_k
            yield module.to_v


def _before_prompt(unet: Any) -> Iterator[nn.Module]:
    """Yield the modules that run before anything differs between two rows with the same latents, that is before the first cross-attention.

    Only the first convolution where time is embedded with something of the prompt or a class, and up to the first block of a kind
    that is not known.
    """
    yield unet.conv_in
    config = unet.config
    if any(getattr(config, name, None) for name in ("addition_embed_type", "class_embed_type", "num_class_embeds")):
        return
    for block in unet.down_blocks:
        if type(block) is not DownBlock2D:
            if type(block) is CrossAttnDownBlock2D:
                yield from _before_prompt_in_block(block)
            return
        yield from block.resnets
        yield from block.downsamplers or ()


def _before_prompt_in_block(block: Any) -> Iterator[nn.Module]:
    yield block.resnets[0]
    attention = block.attentions[0]
    if type(attention) is not Transformer2DModel or not attention.is_input_continuous:
        return
    yield attention.norm
    yield attention.proj_in
    first = attention.transformer_blocks[0]
    if type(first) is BasicTransformerBlock and first.norm_type == "layer_norm" and not first.only_cross_attention:
        yield first.norm1
        yield first.attn1
