"""Steps that leave out the UNet's encoder half: its features change little from one step to the next.

Faster Diffusion (Li et al. 2024, arXiv 2312.09608): on key steps the whole UNet runs and its skip features are stored; on the
steps between, only the decoder half runs, on the stored features and the new time embedding. A speed-up that changes the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class EncoderFeatures:
    """The encoder's last output of one batch; None before the first. The sampler sets `reuse` before each call."""

    reuse: bool = False
    skips: tuple[torch.Tensor, ...] | None = None
    middle: torch.Tensor | None = None


def run_unet(
    unet: Any, sample: torch.Tensor, timestep: torch.Tensor, keywords: dict[str, Any], features: EncoderFeatures | None
) -> torch.Tensor:
    """Call a UNet2DConditionModel and return its output (n, c, h', w').

    With `features`, its encoder half is left out where they are to be reused and of this batch's size; else it runs and they are
    overwritten.
    """
    if features is None:
        return unet(sample, timestep, return_dict=False, **keywords)[0]
    embedding, context, attention = _embeddings(unet, sample, timestep, keywords)
    if not (features.reuse and features.middle is not None and len(features.middle) == len(sample)):
        features.skips, features.middle = _encoder(unet, sample, embedding, context, attention)
    assert features.skips is not None
    assert features.middle is not None
    return _decoder(unet, features.middle, features.skips, embedding, context, attention)


def key_step(index: int, steps: int, every: int, head: int = 2, tail: int = 1) -> bool:
    """Say whether step `index` of `steps` runs the encoder: the first and last ones always, between them each `every`-th."""
    return every <= 1 or index < head or index >= steps - tail or (index - head) % every == 0


def _embeddings(
    unet: Any, sample: torch.Tensor, timestep: torch.Tensor, keywords: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any] | None]:
    context, added = keywords["encoder_hidden_states"], keywords.get("added_cond_kwargs")
    embedding = unet.time_embedding(unet.get_time_embed(sample, timestep), keywords.get("timestep_cond"))
    extra = unet.get_aug_embed(emb=embedding, encoder_hidden_states=context, added_cond_kwargs=added)
    if extra is not None:
        embedding = embedding + extra
    if unet.time_embed_act is not None:
        embedding = unet.time_embed_act(embedding)
    context = unet.process_encoder_hidden_states(encoder_hidden_states=context, added_cond_kwargs=added)
    attention = keywords.get("cross_attention_kwargs")
    if attention and "gligen" in attention:
        attention = {**attention, "gligen": {"objs": unet.position_net(**attention["gligen"])}}
    return embedding, context, attention


def _encoder(
    unet: Any, sample: torch.Tensor, embedding: torch.Tensor, context: torch.Tensor, attention: dict[str, Any] | None
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    sample = unet.conv_in(sample)
    skips: tuple[torch.Tensor, ...] = (sample,)
    for block in unet.down_blocks:
        sample, outputs = block(hidden_states=sample, temb=embedding, **_attending(block, context, attention))
        skips += tuple(outputs)
    if unet.mid_block is not None:
        sample = unet.mid_block(sample, embedding, **_attending(unet.mid_block, context, attention))
    return skips, sample


def _decoder(
    unet: Any,
    sample: torch.Tensor,
    skips: tuple[torch.Tensor, ...],
    embedding: torch.Tensor,
    context: torch.Tensor,
    attention: dict[str, Any] | None,
) -> torch.Tensor:
    for block in unet.up_blocks:
        count = len(block.resnets)
        here, skips = skips[-count:], skips[:-count]
        # The size of the next skip: right also where a side is odd, which a plain doubling would miss.
        keywords = {"upsample_size": skips[-1].shape[2:]} if skips else {}
        more = _attending(block, context, attention)
        sample = block(hidden_states=sample, temb=embedding, res_hidden_states_tuple=here, **keywords, **more)
    if unet.conv_norm_out is not None:
        sample = unet.conv_act(unet.conv_norm_out(sample))
    return unet.conv_out(sample)


def _attending(block: Any, context: torch.Tensor, attention: dict[str, Any] | None) -> dict[str, Any]:
    if not getattr(block, "has_cross_attention", False):
        return {}
    return {"encoder_hidden_states": context, "cross_attention_kwargs": attention}
