"""Contrastive fine-tuning of a whole CLIP: it learns, is chosen on validation, goes on to the same bits, and follows a curriculum."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from pipelines.artifacts.families import embedded_family, family_files, load_family
from synth.datadream.accuracy import classifier_accuracy
from synth.datadream.classifier import ClipHead
from synth.datadream.selection import Fitted
from synth.discl.config import FlypConfig
from synth.discl.flyp import contrastive_loss, fine_tune, true_class_probabilities
from synth.discl.mix import Mix, draw_epoch
from synth.discl.progress import AdaptiveRule, best_level, level_progress
from synth.discl.schedules import Mode
from synth.errors import SynthError
from synth.family.assemble import built
from tests.synth.datadream.clips import tiny_clip
from tests.synth.datadream.examples import InMemory
from tests.synth.datadream.test_fit import as_they_are, colours
from tests.synth.making import tokenizer

FAST = FlypConfig(epochs=5, batch_size=16, learning_rate=3e-3, warmup_steps=2)
MODES: tuple[Mode, ...] = ("reference", "improved")
PROMPTS = [["a photo of a cat", "a cat in the wild"], ["a photo of a dog"]]


def tiny_head() -> ClipHead:
    return ClipHead(tiny_clip(), tokenizer(), PROMPTS)


def test_all_weights_train_and_two_colours_are_learnt() -> None:
    head = tiny_head()
    before = head.state()
    fitted = fine_tune(head, colours(64, 1), colours(40, 3), FAST, views=as_they_are)
    assert fitted.best_accuracy >= 0.95
    after = head.state()
    unchanged = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert not unchanged  # nothing is frozen
    measured = true_class_probabilities(head, colours(60, 4))
    assert measured.shape == (60,)
    assert classifier_accuracy(head, colours(60, 4)).accuracy == pytest.approx((measured > 0.5).mean())


def test_a_run_that_was_interrupted_ends_with_the_bits_of_an_unbroken_one() -> None:
    saved: list[bytes] = []

    def save(state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        saved.append(buffer.getvalue())

    def trained(**how: Any) -> tuple[Fitted, dict[str, torch.Tensor]]:
        head = tiny_head()
        validation = replace(colours(30, 3), labels=torch.arange(30) // 3 % 2)
        return fine_tune(head, colours(40, 1), validation, replace(FAST, epochs=3), run_seed=3, **how), head.state()

    whole, weights = trained(checkpoint=save)
    assert len(saved) == 2
    for state in saved:
        again, same = trained(resume=torch.load(io.BytesIO(state), weights_only=True))
        assert again == whole
        assert all(torch.equal(same[name], weights[name]) for name in weights)


def test_an_epoch_has_the_rows_that_a_curriculum_names() -> None:
    seen: list[list[str]] = []

    def noted(images: torch.Tensor, keys: Any, epoch: int) -> torch.Tensor:
        seen.append([key.split("/")[0] for key in keys])
        return images

    lists = [np.array([0, 1, 2, 3, 2, 3, 2]), np.array([4, 5, 6, 7, 0, 1, 2])]
    config = replace(FAST, epochs=2, batch_size=4)
    fine_tune(tiny_head(), colours(8, 1), colours(4, 3), config, positions=lists.__getitem__, views=noted)
    # Second batches are not full, and are left out.
    assert seen == [["1-0", "1-1", "1-2", "1-3"], ["1-4", "1-5", "1-6", "1-7"]]
    lists[1] = lists[1][:3]
    with pytest.raises(SynthError, match="epoch 2 has 3 images, unlike those before"):
        fine_tune(
            tiny_head(), colours(16, 1), colours(4, 3), replace(config, batch_size=3), positions=lists.__getitem__
        )


def test_an_adaptive_curriculum_asks_the_network_that_is_being_trained() -> None:
    head, validation = tiny_head(), colours(24, 5)
    levels = np.repeat([30, 100], 12)
    rule, chosen, measured = AdaptiveRule(levels), list[int](), list[np.ndarray]()
    synthetic_levels, tail = np.repeat([30, 60], 8), np.arange(24) >= 16

    def positions(epoch: int) -> np.ndarray:
        measured.append(true_class_probabilities(head, validation))
        if epoch % 2 == 0:
            rule.begin_uniform(measured[-1])
            level = 100
        else:
            level = rule.end_uniform(measured[-1])
        chosen.append(level)
        return draw_epoch(0, epoch, Mix(12, 8, 4), (level,), tail, synthetic_levels).positions

    fine_tune(head, colours(40, 1), colours(8, 3), replace(FAST, epochs=4, batch_size=8), positions=positions)
    for first, second, level in ((0, 1, chosen[1]), (2, 3, chosen[3])):
        gains = level_progress(measured[second], measured[first], levels)
        assert level == best_level(gains)
    assert chosen[0::2] == [100, 100]
    assert all(not np.array_equal(early, late) for early, late in pairwise(measured))


def test_the_loss_is_clips_and_another_text_of_the_class_is_not_wrong() -> None:
    head = tiny_head().eval()
    pixels = colours(4, 1).pixels
    texts = torch.tensor([0, 0, 1, 2])  # the first class has two texts
    with torch.no_grad():
        images, words = head.image_features(pixels).double(), head.prompt_features().double()[texts]
        logits = float(head.model.logit_scale.exp()) * images @ words.T
        rows, columns = logits.log_softmax(1), logits.log_softmax(0)
        published = -(rows.diagonal().mean() + columns.diagonal().mean()) / 2
        target = torch.eye(4, dtype=torch.float64)
        target[:3, :3] = 1 / 3
        shared = -((rows * target).sum(1).mean() + (columns * target).sum(0).mean()) / 2
        ours = [contrastive_loss(head, pixels, texts, replace(FAST, mode=mode)) for mode in MODES]
    assert float(ours[0]) == pytest.approx(float(published), rel=1e-5)
    assert float(ours[1]) == pytest.approx(float(shared), rel=1e-5)
    assert abs(float(published) - float(shared)) > 1e-6


def test_the_logit_scale_is_brought_below_clips_limit() -> None:
    head = tiny_head()
    head.model.logit_scale.data.fill_(6.0)
    fine_tune(head, colours(32, 1), colours(8, 3), replace(FAST, epochs=1), views=as_they_are)
    assert math.log(100) - 0.1 < float(head.model.logit_scale.detach()) < math.log(100) + 1e-6


def test_a_clip_that_diverged_is_told_and_so_is_nothing_to_train_on() -> None:
    broken = colours(16, 1)
    broken.pixels[3] = torch.nan
    with pytest.raises(SynthError, match=r"the CLIP diverged: .* in epoch 1 of 5; lower learning_rate"):
        fine_tune(tiny_head(), broken, colours(4, 3), FAST, views=as_they_are)
    with pytest.raises(SynthError, match="2 images or more"):
        fine_tune(tiny_head(), colours(1, 1), colours(4, 3), FAST)
    with pytest.raises(SynthError, match="no validation image"):
        fine_tune(tiny_head(), colours(8, 1), colours(0, 3), FAST)
    with pytest.raises(SynthError, match="batch_size takes 2 or more"):
        FlypConfig(batch_size=1)


def test_the_embedded_clip_gets_surer_of_what_it_is_shown() -> None:
    stored = load_family(family_files(embedded_family()), "embedded")
    model = built("clip", stored.family, stored.parts["clip"])
    names = stored.family.classes[:2]
    head = ClipHead(model, stored.load_tokenizer(), [[f"a photo of a {name}"] for name in names])
    height, width = head.size
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 2
    pixels = 0.4 * torch.rand(24, 3, height, width, generator=source)
    pixels[labels == 0, :, : height // 2] += 0.5
    shown = InMemory([str(row) for row in range(24)], labels, pixels)
    before = true_class_probabilities(head, shown).mean()
    fine_tune(head, shown, shown, FlypConfig(epochs=3, batch_size=12, learning_rate=1e-4))
    assert true_class_probabilities(head, shown).mean() > before + 0.1
