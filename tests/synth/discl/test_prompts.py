"""Prompts of hard images' classes, and which one an image gets."""

from __future__ import annotations

from collections import Counter

import pytest

from synth.datadream.prompts import Context, ContextBank
from synth.discl.prompts import TEMPLATES, PromptBook
from synth.errors import SynthError


def test_a_template_alone_is_every_prompt() -> None:
    book = PromptBook(TEMPLATES["iwildcam"])
    assert book.candidates("ram c/v {1}") == ("a photo of ram c/v {1} in the wild",)
    assert {book.choose("lynx", "k", i, attempt, 1) for i in range(3) for attempt in range(6)} == {
        book.class_text("lynx")
    }
    assert PromptBook().class_text("lynx") == "a photo of lynx"


def test_descriptions_come_once_each_before_any_comes_again() -> None:
    book = PromptBook(descriptions={"lynx": ["a", "b ", "", "c", "a"]}, prefix="x ")
    assert book.candidates("lynx") == ("x a", "x b", "x c")
    for ordinal in range(20):
        prompts = [book.choose("lynx", "k", ordinal, attempt, 1) for attempt in range(6)]
        assert set(prompts[:3]) == {"x a", "x b", "x c"}
        assert prompts[:3] == prompts[3:]


def test_every_prompt_is_equally_likely_at_every_try() -> None:
    book = PromptBook(descriptions={"lynx": list("abcde")}, prefix="")
    for attempt in range(5):
        counts = Counter(book.choose("lynx", f"key{i}", 0, attempt, 7) for i in range(1000))
        assert len(counts) == 5
        assert min(counts.values()) > 150  # of 200 with a deviation of 13


def test_contexts_are_shuffled_over_classes() -> None:
    bank = ContextBank(
        {"b": Context("lying", "in snow"), "a": Context(background="on grass"), "c": Context("lying", "in snow")}
    )
    book = PromptBook(contexts=bank)
    assert book.candidates("lynx") == ("a photo of lynx, on grass", "a photo of lynx, lying, in snow")
    assert len({book.choose("lynx", f"key{i}", 0, 0, 1) for i in range(20)}) == 2


def test_a_prompt_belongs_to_its_image() -> None:
    book = PromptBook(descriptions={"lynx": [str(i) for i in range(100)]})
    first = book.choose("lynx", "k", 0, 0, 1)
    assert book.choose("lynx", "k", 0, 0, 1) == first
    others = [book.choose("lynx", *own) for own in (("k", 1, 0, 1), ("l", 0, 0, 1), ("k", 0, 1, 1), ("k", 0, 0, 2))]
    assert first not in others


def test_what_is_no_bank_is_refused() -> None:
    with pytest.raises(SynthError, match="where the class's name goes"):
        PromptBook("a photo")
    with pytest.raises(SynthError, match="one of the two"):
        PromptBook(descriptions={}, contexts=ContextBank({"a": Context("lying")}))
    with pytest.raises(SynthError, match="one text came: 'a lynx'"):
        PromptBook(descriptions={"lynx": "a lynx"}).require(["lynx"])
    with pytest.raises(SynthError, match="nothing for class 'lynx'"):
        PromptBook(descriptions={"lynx": [" "]}).require(["lynx"])
