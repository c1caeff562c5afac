"""Prompts through a text encoder that is in training: with a graph and without the cache that sampling uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synth.backends.protocol import Conditioning
from synth.errors import SynthError


def embed(backend: Any, prompts: Sequence[str]) -> Conditioning:
    """Encode `prompts` to conditioning, a row each, with a graph, under the adapters now active.

    SynthError for a family that cannot be adapted.
    """
    encode, family, device = backend.pipeline.encode_prompt, backend.capabilities.family, backend.device
    texts = list(prompts)
    if family == "sd":
        context, _ = encode(texts, device, 1, False)
        return Conditioning({"context": context})
    if family == "sdxl":
        context, _, pooled, _ = encode(texts, device=device, do_classifier_free_guidance=False)
    elif family == "sd3":
        context, _, pooled, _ = encode(texts, None, None, device=device, do_classifier_free_guidance=False)
    elif family == "flux":
        context, pooled, _ = encode(texts, None, device=device)
    else:
        raise SynthError(f"a {family} model cannot be adapted here, only sd, sdxl, sd3 and flux")
    return Conditioning({"context": context, "pooled": pooled})
