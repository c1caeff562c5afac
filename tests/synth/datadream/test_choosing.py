"""Prompts with a context, and who gets an adapter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from synth.datadream.prompts import Context, ContextBank, generation_prompts
from synth.datadream.subjects import adapter_name, loft_pairs, parts_of, subjects
from synth.errors import SynthError

BANK = ContextBank(
    {"a": Context("from the side", "on grass"), "b": Context("", "indoors"), "c": Context("seen from above")}
)


def test_contexts_are_told_of_each_image_and_drawn_from_all_classes() -> None:
    assert BANK.training_prompt("dog", "a", "pet") == "a pet photo of a dog, from the side, on grass"
    assert BANK.training_prompt("dog", "b") == "a photo of a dog, indoors"
    prompts = generation_prompts("dog", 300, bank=BANK, run_seed=1)
    assert prompts[:100] == generation_prompts("dog", 100, bank=BANK, run_seed=1)
    assert prompts != generation_prompts("dog", 300, bank=BANK, run_seed=2)
    counts = [prompts.count(context.added_to("a photo of a dog")) for context in BANK.by_image.values()]
    assert sum(counts) == 300
    assert min(counts) > 70
    assert generation_prompts("dog", 2, domain="pet") == ["a pet photo of a dog"] * 2
    with pytest.raises(SynthError, match="no entry for image d"):
        BANK.training_prompt("dog", "d")


@pytest.mark.parametrize(
    "name", ["F-16A/B", "Ram C/V Cargo Van Minivan 2012", "St. Bernard", "a+b", "50%", "größe", "..", "a%2Eb"]
)
def test_15_a_class_name_becomes_a_folder_name_and_comes_back(name: str) -> None:
    escaped = adapter_name(name, "key.1")
    assert not set("./\\") & set(escaped)
    assert parts_of(escaped) == (name, "key.1")


def test_adapters_for_classes_the_data_set_or_images() -> None:
    images = {"dog": {"a": torch.rand(3, 8, 8), "b": torch.rand(3, 8, 8)}, "cat": {"c": torch.rand(3, 8, 8)}}
    by_class = subjects(images, "cls", domain="pet")
    assert [(s.name, len(s.images), s.prompts) for s in by_class] == [
        ("dog", 2, ["a pet photo of a dog"] * 2),
        ("cat", 1, ["a pet photo of a cat"]),
    ]
    (whole,) = subjects(images, "dset")
    assert whole.prompts == ["a photo of a dog"] * 2 + ["a photo of a cat"]
    assert [s.name for s in subjects(images, "loft")] == ["dog+a", "dog+b", "cat+c"]
    assert subjects(images, "cls", bank=BANK)[0].prompts == [
        "a photo of a dog, from the side, on grass",
        "a photo of a dog, indoors",
    ]
    with pytest.raises(SynthError, match="variant takes"):
        subjects(images, "all")  # type: ignore[arg-type]


def test_loft_mixes_all_pairs_before_any_comes_twice() -> None:
    names = [f"dog+{i}" for i in range(4)]
    pairs = loft_pairs(names, 12, key="dog")
    assert len(set(pairs[:6])) == 6
    assert pairs[6:] == pairs[:6]
    assert loft_pairs(names[::-1], 12, key="dog") == pairs
    assert loft_pairs(names, 6, key="cat") != pairs[:6]
    assert loft_pairs(["dog+0"], 2, key="dog") == [("dog+0",)] * 2
