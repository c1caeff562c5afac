"""A DiT's forward pass without what every row and every block repeats: the same outputs to the rounding of float32.

* diffusers gives each block its own copy of the embedder of timestep and label, as the published conversion does. Copies that hold equal
  weights are shared; fine-tuned ones may differ, and are kept.
* A block's shifts, scales and gates depend on timestep and label alone: they are computed once for each distinct label of a batch.
* Queries, keys and values are one product. A bias of the keys adds the same to all of a row's scores, and softmax does not see it; the
  values' bias is carried through the output's weight.

What is measured is in `docs/specs/d3hr.md`, speed. Blocks of any other make than the published DiT's run as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.activations import GELU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.normalization import AdaLayerNormZero
from torch import nn
from torch.nn import functional as F

#: The condition alone, and both branches: what the two kinds of steps hand to the model.
KEPT_LABELS = 2


def share_embedders(model: Any) -> bool:
    """Let all blocks of a DiT use the first one's embedder where all hold equal weights, and say whether they do now.

    Changes the model: of the XL's 749.8 million parameters 674.8 are left. Waits for the device.
    """
    embedders = [block.norm1.emb for block in model.transformer_blocks]
    first = embedders[0].state_dict()
    for other in embedders[1:]:
        if other is not embedders[0] and not _equal(first, other.state_dict()):
            return False
    for block in model.transformer_blocks:
        block.norm1.emb = embedders[0]
    return True


def is_published_dit(model: Any) -> bool:
    """Say whether `model` is built as `DiTForward` computes it: diffusers' DiT in eval mode, all its parts of the kinds it comes with."""
    if type(model) is not DiTTransformer2DModel:
        return False
    network: Any = model
    return not network.training and all(map(_is_known, network.transformer_blocks))


class DiTForward:
    """The `forward` of one DiT for the steps of one batch, made anew for the next: it holds products of the weights.

    Takes what the model's own takes, and hands on to that where gradients are wanted or rows have timesteps of their own.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._plain = model.forward
        self._blocks = [_Block(block) for block in model.transformer_blocks]
        self._distinct: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Predict (n, out, h, w) from latents `hidden_states` (n, in, h, w), one `timestep` (n,) for all, and `class_labels` (n,)."""
        is_one_time = timestep.ndim == 1 and (len(timestep) == 1 or timestep.stride(0) == 0)
        if torch.is_grad_enabled() or cross_attention_kwargs or return_dict or not is_one_time:
            return self._plain(hidden_states, timestep, class_labels, cross_attention_kwargs, return_dict)
        model, blocks = self._model, self._model.transformer_blocks
        tokens = model.pos_embed(hidden_states)
        labels, rows = self._labels(class_labels)
        embedder, condition = None, tokens
        for number, (block, weights) in enumerate(zip(blocks, self._blocks, strict=True)):
            if block.norm1.emb is not embedder:
                embedder = block.norm1.emb
                # For one row: the same timestep for all of them.
                times = embedder.timestep_embedder(embedder.time_proj(timestep[:1]).to(tokens.dtype))
                condition = F.silu(times + embedder.class_embedder.embedding_table(labels))
            if number == 0:
                shift, scale = model.proj_out_1(condition)[rows][:, None].chunk(2, dim=2)
            table = block.norm1.linear(condition)
            weights.advance(block, tokens, table[rows][:, None])
        tokens = model.proj_out_2(_modulated(tokens, model.norm_out.eps, shift, scale))
        count, patch = len(tokens), model.patch_size
        side = int(tokens.shape[1] ** 0.5)
        cells = tokens.view(count, side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
        return (cells.reshape(count, -1, side * patch, side * patch),)

    def _labels(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct `labels` and the place (n,) of each row's among them. Told apart by identity: steps repeat them."""
        for seen, distinct, rows in self._distinct:
            if seen is labels:
                return distinct, rows
        distinct, rows = labels.unique(return_inverse=True)
        self._distinct = [*self._distinct, (labels, distinct, rows)][-KEPT_LABELS:]
        return distinct, rows


class _Block:
    """One block's projections, joined."""

    def __init__(self, block: Any) -> None:
        attention = block.attn1
        self._projection = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
        self._query_bias = attention.to_q.bias
        output = attention.to_out[0]
        self._output_bias = output.bias + output.weight @ attention.to_v.bias

    def advance(self, block: Any, tokens: torch.Tensor, table: torch.Tensor) -> None:
        """Run `block` on `tokens` (n, t, d) in place; `table` (n, 1, 6d) has shifts, scales and gates of both halves."""
        shift, scale, gate, later_shift, later_scale, later_gate = table.chunk(6, dim=2)
        attended = self._attend(block.attn1, _modulated(tokens, block.norm1.norm.eps, shift, scale))
        tokens.addcmul_(gate, attended)
        first, last = block.ff.net[0], block.ff.net[2]
        wide = first.proj(_modulated(tokens, block.norm3.eps, later_shift, later_scale))
        tokens.addcmul_(later_gate, last(F.gelu(wide, approximate="tanh")))

    def _attend(self, attention: Any, tokens: torch.Tensor) -> torch.Tensor:
        count, length, width = tokens.shape
        joined = F.linear(tokens, self._projection).view(count, length, 3, attention.heads, -1)
        joined[:, :, 0] += self._query_bias.view(attention.heads, -1)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(count, length, width)
        return F.linear(attended, attention.to_out[0].weight, self._output_bias)


def _modulated(tokens: torch.Tensor, eps: float, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=eps).mul_(1 + scale).add_(shift)


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    if first.keys() != second.keys():
        return False
    # Weights that accelerate keeps elsewhere are on no device until they are used.
    pairs = [(first[name], second[name]) for name in first]
    return all(a.device == b.device and not a.is_meta and torch.equal(a, b) for a, b in pairs)


def _is_known(block: Any) -> bool:
    attention, first, norm = block.attn1, block.ff.net[0], block.norm1
    processor: Any = attention.processor
    layers = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0], norm.linear, block.ff.net[2])
    plain_attention = (
        isinstance(attention, Attention)
        and type(processor) is AttnProcessor2_0
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and all(
            part is None for part in (attention.norm_q, attention.norm_k, attention.group_norm, attention.spatial_norm)
        )
    )
    return (
        plain_attention
        and block.attn2 is None
        and block._chunk_size is None
        and type(norm) is AdaLayerNormZero
        and norm.emb is not None
        and type(first) is GELU
        and first.approximate == "tanh"
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in (*layers, first.proj))
        and all(part.weight is None for part in (norm.norm, block.norm3))
    )
