"""The tokenizer of the reference family: CLIP's byte-pair encoding, its merges learnt from the captions it will meet.

Learnt here and not by `tokenizers`, whose trainer numbers the letters at the ends of words in the order of a hash map: the same
captions would give other ids in another process, and a text tower would not know the words of its own tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from synth.family.shapes import BOS, EOS

_END = "</w>"
_SPECIAL = {"<|startoftext|>": BOS, "<|endoftext|>": EOS}


def tokenizer(captions: Iterable[str], length: int, vocabulary: int = 1024) -> CLIPTokenizer:
    """Learn a tokenizer from `captions`: texts to `length` ids, padded with the end token, from `vocabulary` tokens at most.

    The same captions in any order give the same ids, on any machine.
    """
    backend: Any = CLIPTokenizer(vocab=_SPECIAL, merges=[]).backend_tokenizer
    words: Counter[str] = Counter()
    for caption, count in Counter(captions).items():
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption)):
            words[word] += count
    vocab, merges = byte_pairs(words, vocabulary)
    clip: Any = CLIPTokenizer
    return clip(vocab=vocab, merges=merges, model_max_length=length)


def byte_pairs(words: Counter[str], vocabulary: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn byte-pair ids and merges from `words` with counts (Sennrich et al. 2016): the commonest pair of neighbours becomes a
    token, again and again.

    Of equally common pairs the one of lower ids is first. Ids: the two special tokens, all bytes, the bytes that end a word, then
    the merges in their order.
    """
    split = {word: [*word[:-1], word[-1] + _END] for word in sorted(words)}
    ends = sorted({letters[-1] for letters in split.values()})
    vocab = dict(_SPECIAL)
    for token in [*sorted(ByteLevel.alphabet()), *ends]:
        vocab[token] = len(vocab)
    merges: list[tuple[str, str]] = []
    while len(vocab) < vocabulary:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, letters in split.items():
            for pair in pairwise(letters):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], vocab[pair[0]], vocab[pair[1]]))
        merges.append(best)
        vocab.setdefault("".join(best), len(vocab))
        split = {word: _joined(letters, best) for word, letters in split.items()}
    return vocab, merges


def _joined(letters: Sequence[str], pair: tuple[str, str]) -> list[str]:
    tokens: list[str] = []
    place = 0
    while place < len(letters):
        both = tuple(letters[place : place + 2]) == pair
        tokens.append("".join(pair) if both else letters[place])
        place += 2 if both else 1
    return tokens
