"""A CLIP of a few thousand parameters, and a classifier on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPConfig, CLIPModel

from synth.datadream.classifier import ClipClassifier, classifier_lora
from tests.synth.making import tokenizer


def tiny_clip(side: int = 16, seed: int = 0) -> CLIPModel:
    words = len(tokenizer())
    tower = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPConfig(
            text_config={"hidden_size": 32, "vocab_size": words, **special, **tower},
            vision_config={"hidden_size": 32, "image_size": side, "patch_size": 4, **tower},
            projection_dim=32,
        )
        return CLIPModel(config).eval()


def tiny_classifier(prompts: Sequence[Sequence[str]] = (["a cat"], ["a dog"]), dropout: float = 0.1) -> ClipClassifier:
    return ClipClassifier(tiny_clip(), tokenizer(), prompts, classifier_lora(4, 8, dropout), seed=1)
