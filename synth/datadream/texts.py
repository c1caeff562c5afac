"""Checks that a model can tell the classes' texts apart: by the tokens that it reads, not by the letters.

A tokenizer folds case, knows no word of what it was not trained on (digits, ids, other scripts), and is cut at a number of tokens.
Two classes that end in the same tokens are one class to the model, and whatever is trained on them has chance accuracy between
them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from synth.errors import SynthError


@dataclass(frozen=True)
class Reader:
    """The reading of a text tower: at most `length` tokens of a text, and where it is pooled at its `end` token, none behind the first.

    `end` None is a tower whose whole sequence is used.
    """

    tokenizer: Any
    length: int
    end: int | None = None

    @classmethod
    def of_clip(cls, tokenizer: Any, text_config: Any) -> Reader:
        """Make the reader of a CLIP that pools one token; old configurations have an `eos_token_id` of 2 and pool the largest id."""
        end = text_config.eos_token_id
        if end == 2:
            end = max(tokenizer(["a"]).input_ids[0])
        return cls(tokenizer, text_config.max_position_embeddings, end)

    def read(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that count."""
        row = self.tokenizer(text, truncation=True, max_length=self.length).input_ids
        return tuple(row[: row.index(self.end) + 1] if self.end in row else row)

    def cuts(self, text: str) -> bool:
        """Say whether a text is longer than what is read of it."""
        return len(self.tokenizer(text, truncation=False, verbose=False).input_ids) > self.length


def require_distinct(
    names: Sequence[str], prompts: Sequence[str | Sequence[str]], readers: Sequence[Reader], key: str = "names"
) -> None:
    """Raise SynthError when two classes have the same texts to every one of `readers`; warn of a text that is cut by all of them.

    `prompts`: a text, or several, for each of `names`; `key` is the parameter that gives classes other names.
    """
    texts = [[prompt] if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    first: dict[Any, int] = {}
    same: list[tuple[int, int]] = []
    for place, own in enumerate(texts):
        seen = tuple(frozenset(reader.read(text) for text in own) for reader in readers)
        if seen in first:
            same.append((first[seen], place))
        first.setdefault(seen, place)
    if same:
        one, other = same[0]
        more = f" ({len(same) - 1} more like it)" if len(same) > 1 else ""
        lengths = " or ".join(sorted({str(reader.length) for reader in readers}))
        raise SynthError(
            f"classes {names[one]!r} and {names[other]!r} are the same text to the model{more}: of {texts[one][0]!r} and "
            f"{texts[other][0]!r} it reads the same tokens, since it folds case, knows no such word, or reads no more than {lengths} "
            f"tokens; give each class words of its own in {key}"
        )
    for name, own in zip(names, texts, strict=True):
        if any(all(reader.cuts(text) for reader in readers) for text in own):
            warnings.warn(
                f"the text of class {name!r} is longer than the model reads, and is cut: {own[0]!r}", stacklevel=2
            )
