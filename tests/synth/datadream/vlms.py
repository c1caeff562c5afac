"""A BLIP of a few thousand parameters with its processor."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "on", "a", "wooden", "table", "red", "wall"]


def save_blip(folder: Path) -> str:
    """Write it; with random weights, so that it says something, and always the same."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 40}
    special = {"bos_token_id": 5, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BlipConfig(
            text_config={**text, **special},
            vision_config={**tower, "image_size": 16, "patch_size": 8},
            projection_dim=8,
        )
        model = BlipForConditionalGeneration(config).eval()
    (folder).mkdir(parents=True)
    (folder / "words.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(vocab={word: place for place, word in enumerate(WORDS)})
    processor = BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
