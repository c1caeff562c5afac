"""The tokenizer of the reference family: CLIP's byte-pair encoding, its merges learnt from the captions it will meet."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import CLIPTokenizer

from synth.family.shapes import BOS, EOS


def tokenizer(captions: Iterable[str], length: int, vocabulary: int = 1024) -> CLIPTokenizer:
    """Texts to `length` ids, padded with the end token. The same captions in the same order give the same ids."""
    blank = CLIPTokenizer(vocab={"<|startoftext|>": BOS, "<|endoftext|>": EOS}, merges=[])
    made: CLIPTokenizer = blank.train_new_from_iterator(list(captions), vocab_size=vocabulary, show_progress=False)
    made.model_max_length = length
    return made
