"""Fidelity of DataDream's classifier: `docs/specs/datadream.md`, numbers 3 and 22 to 27."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from peft import inject_adapter_in_model
from transformers import CLIPConfig, CLIPModel

from synth.datadream.accuracy import classifier_accuracy
from synth.datadream.classifier import classifier_lora, token_rows
from synth.datadream.config import Mode
from synth.datadream.pooled import Pool, mixed, pooled_loss, repeats
from synth.datadream.schedules import classifier_rates
from tests.synth.datadream.clips import tiny_classifier
from tests.synth.datadream.examples import InMemory
from tests.synth.making import tokenizer


def test_03_lora_on_clip() -> None:
    config = CLIPConfig(
        text_config={"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12},
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "patch_size": 16, "image_size": 224},
        projection_dim=512,
    )
    with torch.device("meta"):
        model = CLIPModel(config)
        assert sum(p.numel() for p in model.parameters()) == 149_620_737
        inject_adapter_in_model(classifier_lora(), model, "default")
    counts = {"vision": 0, "text": 0}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            counts["vision" if "vision_model" in name else "text"] += parameter.numel()
    assert counts == {"vision": 589_824, "text": 393_216}
    layer = model.vision_model.encoder.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 2.0


def test_03_only_lora_trains_and_the_temperature_is_frozen() -> None:
    classifier = tiny_classifier()
    names = [name for name, p in classifier.named_parameters() if p.requires_grad]
    assert names
    assert all(".lora_" in name for name in names)
    assert not classifier.model.logit_scale.requires_grad


def test_22_lambda_weighs_the_parts_and_an_empty_part_adds_nothing() -> None:
    # Cross-entropies of 1 and 2 by construction: with two classes CE is log(1 + exp(-margin)).
    margins = [-math.log(math.exp(ce) - 1) for ce in (1.0, 2.0)]
    logits = torch.tensor([[margins[0], 0.0], [margins[1], 0.0]], dtype=torch.float64)
    labels, real = torch.zeros(2, dtype=torch.long), torch.tensor([True, False])
    for weight, expected in ((0.8, 1.2), (0.0, 2.0), (1.0, 1.0)):
        assert math.isclose(float(pooled_loss(logits, labels, real, weight)), expected, rel_tol=1e-9)
    assert math.isclose(float(pooled_loss(logits[:1], labels[:1], real[:1], 0.8)), 0.8, rel_tol=1e-9)
    assert math.isclose(float(pooled_loss(logits[1:], labels[1:], real[1:], 0.8)), 0.4, rel_tol=1e-9)
    soft = torch.nn.functional.one_hot(labels, 2).double()
    assert math.isclose(float(pooled_loss(logits, soft, real, 0.8)), 1.2, rel_tol=1e-9)


def test_23_repeats_of_the_real_images() -> None:
    assert [repeats(n, k) for n, k in ((500, 16), (100, 16), (20, 16), (500, 8), (200, 16))] == [31, 6, 1, 62, 12]
    assert 500 + 16 * repeats(500, 16) == 996
    with pytest.warns(
        UserWarning, match="8 synthetic images a class are fewer than the 16 real ones, which are left out"
    ):
        assert repeats(8, 16) == 0


def test_24_learning_rates() -> None:
    rates = classifier_rates(50, 79, peak=1e-4, warmup_epochs=3, floor=1e-8)
    assert len(rates) == 3950
    assert rates[0] == 1e-8
    assert [i for i, rate in enumerate(rates) if math.isclose(rate, 1e-4, rel_tol=1e-12)] == [236, 237]
    assert math.isclose(rates[-1], 1.0018e-8, rel_tol=1e-4)


def test_25_batches_of_an_epoch() -> None:
    assert Pool(5000, 0, 1, 64).batches == 79
    pooled = Pool(5000, 160, repeats(500, 16), 64)
    assert (len(pooled), pooled.batches) == (9960, 156)
    for even in (True, False):
        made = Pool(5000, 160, 31, 64, even).epoch(3, run_seed=1)
        assert [len(batch) for batch in made] == [64] * 155 + [40]
        assert sorted(np.concatenate(made).tolist()) == list(range(9960))


def test_26_a_fifth_of_the_batches_is_mixed_and_soft_labels_sum_to_one() -> None:
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    soft = blended = 0
    for step in range(1000):
        changed, targets = mixed(images, labels, 3, p=0.2, run_seed=1, step=step, part="real")
        assert torch.allclose(targets.sum(1), torch.ones(6))
        if not torch.equal(changed, images):
            soft += 1
            # MixUp makes values that none of the images has; CutMix only moves them about.
            blended += not torch.isin(changed, images).all()
    assert abs(soft - 200) < 4 * math.sqrt(1000 * 0.2 * 0.8)
    assert abs(blended - soft / 2) < 4 * math.sqrt(soft / 4)


def steps_mixed(mode: Mode, part: str) -> list[bool]:
    images, labels = torch.rand(6, 1, 64, 64), torch.arange(6) % 3
    every = (mixed(images, labels, 3, p=0.2, run_seed=1, step=step, part=part, mode=mode) for step in range(1000))
    return [bool((targets.amax(1) < 1).any() or not torch.equal(made, images)) for made, targets in every]


def test_26_as_published_one_coin_a_batch_decides_for_both_parts() -> None:
    real, made = (steps_mixed("reference", part) for part in ("real", "synthetic"))
    assert real == made
    assert abs(sum(real) - 200) < 4 * math.sqrt(1000 * 0.2 * 0.8)
    real, made = (steps_mixed("improved", part) for part in ("real", "synthetic"))
    together = sum(one and other for one, other in zip(real, made, strict=True))
    assert abs(together - 40) < 4 * math.sqrt(1000 * 0.04)  # each its own


def test_26_as_published_an_image_is_paired_with_the_one_before_it() -> None:
    """torchvision's v2 rolls images and labels by one: no image meets itself."""
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 8, 8) / 10
    kinds = set()
    for step in range(40):
        made, targets = mixed(images, torch.arange(5), 5, p=1.0, run_seed=2, step=step, part="real", mode="reference")
        share = targets[0, 0]
        expected = share * torch.eye(5) + (1 - share) * torch.eye(5).roll(1, 0)
        assert torch.allclose(targets, expected, atol=1e-6)
        # The label's share is that of the pixels: a blend's weight, or the area that a patch leaves.
        own = images * share + images.roll(1, 0) * (1 - share)
        assert torch.allclose(made.mean((1, 2, 3)), own.mean((1, 2, 3)), atol=1e-5)
        kinds.add(bool(torch.isin(made, images).all()))
    assert kinds == {True, False}


def test_27_cut_token_rows_and_kept_texts_change_nothing() -> None:
    prompts = [["a cat"], ["a photo of a dog", "a dog"], ["a satellite photo of a field"]]
    classifier = tiny_classifier(prompts).eval()
    words = tokenizer()
    full = words(
        [text for texts in prompts for text in texts], padding="max_length", max_length=77, return_tensors="pt"
    )
    assert classifier.tokens.shape[1] < 77
    assert torch.equal(
        token_rows(words, ["a cat"], 77)[0], full.input_ids[0, : token_rows(words, ["a cat"], 77).shape[1]]
    )
    with torch.no_grad():
        short = classifier.text_features()
        classifier.tokens = full.input_ids
        assert (classifier.text_features() - short).abs().max() < 1e-5
        images = torch.rand(5, 3, 16, 16)
        kept, fresh = classifier(images, short), classifier(images)
    assert (kept - fresh).abs().max() < 1e-4
    examples = InMemory([str(i) for i in range(5)], torch.arange(5) % 3, images)
    found = classifier_accuracy(classifier, examples, batch_size=2)
    assert found.accuracy == float((fresh.argmax(1) == examples.labels).double().mean())


def test_several_prompts_of_a_class_are_averaged_and_normalised_again() -> None:
    texts = [["a cat"], ["a photo of a dog", "a dog", "dog"], ["a fox", "fox"]]
    classifier = tiny_classifier(texts).eval()
    with torch.no_grad():
        found = classifier.text_features()
        for number, own in enumerate(texts):
            each = torch.cat([tiny_classifier([[text]]).eval().text_features() for text in own])
            expected = torch.nn.functional.normalize(each.mean(0), dim=0)
            assert (found[number] - expected).abs().max() < 1e-5
