"""Few-shot manifests, prompts with a context, and who gets an adapter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from synth.datadream.fewshot import FewShot, choose, natural_sort
from synth.datadream.prompts import Context, ContextBank, domain_of, generation_prompts
from synth.datadream.subjects import adapter_name, loft_pairs, parts_of, subjects
from synth.errors import SynthError

MEMBERS = {name: [f"{name}_{i}" for i in (10, 2, 1, 30, 4)] for name in ("cat", "dog")}
BANK = ContextBank(
    {"a": Context("from the side", "on grass"), "b": Context("", "indoors"), "c": Context("seen from above")}
)


def test_natural_order_takes_the_first_and_disef_draws_by_its_seed() -> None:
    assert choose(MEMBERS, 3).keys == {"cat": ("cat_1", "cat_2", "cat_4"), "dog": ("dog_1", "dog_2", "dog_4")}
    drawn = [choose(MEMBERS, 3, "disef", seed).keys for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(set(keys) < set(MEMBERS[name]) for name, keys in drawn[0].items())


def test_natural_order_is_total() -> None:
    assert natural_sort(["a01", "a1", "b", "1", "a"]) == natural_sort(["a", "1", "b", "a1", "a01"])
    assert natural_sort(["img1b", "img1", "2", "10"]) == ["2", "10", "img1", "img1b"]


def test_a_manifest_shares_nothing_with_what_is_held_out() -> None:
    manifest = choose(MEMBERS, 2)
    manifest.require_disjoint(["cat_30", "dog_30"])
    with pytest.raises(SynthError, match="1 few-shot images are also in the test split, dog_2 first"):
        manifest.require_disjoint(["dog_2"])


def test_choices_that_cannot_be_made_are_one_sentence() -> None:
    with pytest.raises(SynthError, match="class 'cat' has 5 images, and 6 shots were asked for"):
        choose(MEMBERS, 6)
    with pytest.raises(SynthError, match="8 shots were asked of a manifest of 4"):
        choose(MEMBERS, 4).take(8)
    with pytest.raises(SynthError, match=r"order takes natural \| disef, got"):
        choose(MEMBERS, 4, "random")  # type: ignore[arg-type]
    with pytest.raises(SynthError, match="lists an image twice"):
        choose({"cat": ["a", "a"]}, 1)
    assert FewShot({}, 1, "natural").all_keys == []


def test_contexts_are_told_of_each_image_and_drawn_from_all_classes() -> None:
    assert BANK.training_prompt("dog", "a", "pet") == "a pet photo of a dog, from the side, on grass"
    assert BANK.training_prompt("dog", "b") == "a photo of a dog, indoors"
    made = generation_prompts("dog", 300, bank=BANK, run_seed=1)
    assert made[:100] == generation_prompts("dog", 100, bank=BANK, run_seed=1)
    assert made != generation_prompts("dog", 300, bank=BANK, run_seed=2)
    counts = [made.count(context.tell("a photo of a dog")) for context in BANK.by_image.values()]
    assert sum(counts) == 300
    assert min(counts) > 70
    assert generation_prompts("dog", 2, domain="pet") == ["a pet photo of a dog"] * 2
    with pytest.raises(SynthError, match="no entry for image d"):
        BANK.training_prompt("dog", "d")
    with pytest.raises(SynthError, match="no domain word is published for 'mnist'"):
        domain_of("mnist")


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
