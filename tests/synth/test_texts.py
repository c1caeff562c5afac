"""Classes that are one text to the model are refused before anything is trained on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from transformers import CLIPConfig, CLIPTokenizer

from pipelines import sample
from synth.datadream.classifier import ClipClassifier
from synth.datadream.prompts import class_prompt
from synth.datadream.texts import Reader, require_distinct
from synth.errors import SynthError
from synth.quality.features import ClipFeatures
from tests.synth.datadream.clips import tiny_clip
from tests.synth.making import tokenizer

LONG = 2 * "the very long scientific name of a species of beetle "


def embedded() -> Reader:
    """The embedded family's CLIP, which knows the words of its own scenes."""
    words = CLIPTokenizer.from_pretrained(Path(sample.folder("generator")) / "tokenizer")
    return Reader(words, 32, words.eos_token_id)


def letters() -> Reader:
    """A tokenizer that knows every letter, 77 tokens long."""
    config: Any = tiny_clip().config
    return Reader.of_clip(tokenizer(), config.text_config)


def told(names: Sequence[str], reader: Reader) -> None:
    require_distinct(names, [class_prompt(name) for name in names], [reader])


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "Cat"],
        ["cat", "cat "],
        ["n01440764", "n01443537"],
        [LONG + "one", LONG + "two"],
    ],
)
@pytest.mark.parametrize("reader", [embedded, letters])
def test_classes_of_one_text_are_refused(names: list[str], reader: Any) -> None:
    if reader is letters and names[0].startswith("n0"):
        told(names, letters())  # it knows digits
        return
    with pytest.raises(
        SynthError, match=r"same text to the model.*give each class words of its own in names"
    ) as raised:
        told(names, reader())
    assert repr(names[0]) in str(raised.value)


def test_digits_without_words_are_refused_and_counted() -> None:
    with pytest.raises(SynthError, match=r"'0' and '\d' are the same text to the model \(\d more like it\)"):
        told([str(digit) for digit in range(10)], embedded())


def test_what_differs_in_its_first_tokens_is_told_apart_however_long() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        told(["one " + LONG, "two " + LONG], letters())
    assert ["is cut" in str(one.message) for one in seen] == [True, True]


def test_a_second_encoder_that_tells_them_apart_is_enough() -> None:
    names = ["n01440764", "n01443537"]
    require_distinct(names, [class_prompt(name) for name in names], [embedded(), letters()])


def test_several_prompts_of_a_class_are_read_together() -> None:
    with pytest.raises(SynthError, match="same text"):
        require_distinct(["a", "b"], [["a cat", "a pet"], ["a PET", "a cat"]], [letters()])
    require_distinct(["a", "b"], [["a cat", "a pet"], ["a dog", "a pet"]], [letters()])


def test_the_classifier_and_the_judge_ask_the_same_rule() -> None:
    with pytest.raises(SynthError, match="same text"):
        ClipClassifier(tiny_clip(), tokenizer(), [["a cat"], ["A Cat"]])
    with pytest.raises(SynthError, match="same text"):
        ClipFeatures(tiny_clip()).texts(tokenizer(), ["a cat", "A Cat"])


def test_old_configurations_pool_the_largest_id() -> None:
    config: Any = CLIPConfig(text_config={"eos_token_id": 2}).text_config
    assert Reader.of_clip(tokenizer(), config).end == len(tokenizer()) - 1
