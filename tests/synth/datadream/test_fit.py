"""The classifier learns from both kinds of images, is chosen on validation, and is the same every time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from synth.datadream.accuracy import center_resize, classifier_accuracy
from synth.datadream.config import FitConfig
from synth.datadream.fit import fit
from synth.datadream.pooled import Pool
from synth.datadream.selection import Fitted
from synth.datadream.views import published_views
from synth.errors import SynthError
from tests.synth.datadream.clips import tiny_classifier
from tests.synth.datadream.examples import InMemory


def colours(count: int, seed: int, noise: float = 0.2) -> InMemory:
    """Class 0 is reddish, class 1 bluish."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = noise * torch.rand(count, 3, 16, 16, generator=source)
    for row, label in enumerate(labels.tolist()):
        pixels[row, 2 * label] += 0.7
    return InMemory([f"{seed}-{i}" for i in range(count)], labels, pixels)


def as_they_are(images: torch.Tensor, keys: Sequence[str], epoch: int) -> torch.Tensor:
    return images


FAST = FitConfig(epochs=6, warmup_epochs=1, batch_size=16, learning_rate=1e-2)


@pytest.mark.parametrize("which", ["both", "real", "synthetic"])
def test_it_learns_two_colours(which: str) -> None:
    classifier = tiny_classifier()
    real = colours(8, 1) if which != "synthetic" else None
    made = colours(64, 2, noise=0.3) if which != "real" else None
    config = FAST if which != "real" else FitConfig(epochs=30, warmup_epochs=1, batch_size=8, learning_rate=1e-2)
    fitted = fit(classifier, real, made, colours(40, 3), config, run_seed=1, views=as_they_are)
    assert fitted.best_accuracy >= 0.95
    tested = classifier_accuracy(classifier, colours(60, 4))
    assert tested.accuracy >= 0.95
    assert tested.count == 60
    assert np.mean(tested.per_class) == pytest.approx(tested.accuracy)


def test_the_same_seed_gives_the_same_weights_and_leaves_global_generators_alone() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(states))
        before = torch.random.get_rng_state()
        classifier = tiny_classifier()
        config = FitConfig(epochs=2, warmup_epochs=1, batch_size=16, learning_rate=1e-2)
        fit(classifier, colours(8, 1), colours(32, 2), colours(8, 3), config, run_seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append(classifier.state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_best_validation_epoch_is_kept_and_the_first_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, seen = tiny_classifier(), []
    accuracies = iter([0.5, 0.9, 0.9, 0.7])

    def judged(*_: object) -> object:
        seen.append(classifier.state())
        return type("Found", (), {"accuracy": next(accuracies), "loss": 1.0})

    monkeypatch.setattr("synth.datadream.selection.classifier_accuracy", judged)
    config = FitConfig(epochs=4, warmup_epochs=0, batch_size=16, learning_rate=1e-2)
    fitted: Fitted = fit(classifier, None, colours(16, 2), colours(4, 3), config, views=as_they_are)
    assert (fitted.best_epoch, fitted.best_accuracy) == (2, 0.9)
    assert [line["epoch"] for line in fitted.history] == [1, 2, 3, 4]
    kept = classifier.state()
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)


def test_a_fit_that_was_interrupted_ends_with_the_bits_of_an_unbroken_one() -> None:
    config = FitConfig(epochs=5, warmup_epochs=1, batch_size=16, learning_rate=1e-2, mix=0.5)

    def fitted(**how: Any) -> tuple[Fitted, dict[str, torch.Tensor], list[float]]:
        classifier, epochs = tiny_classifier(), list[float]()
        given = colours(8, 1), colours(32, 2, noise=0.3), replace(colours(30, 3), labels=torch.arange(30) // 3 % 2)
        done = fit(classifier, *given, config, run_seed=3, report=lambda line: epochs.append(line["epoch"]), **how)
        return done, classifier.state(), epochs

    saved: list[bytes] = []

    def save(state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        saved.append(buffer.getvalue())

    whole, weights, _ = fitted(checkpoint=save)
    assert len(saved) == 4
    assert whole.best_accuracy < 1  # some labels are wrong, so the best epoch is no matter of course
    for after in (1, 3):
        state = torch.load(io.BytesIO(saved[after - 1]), weights_only=True)
        again, same, told = fitted(resume=state)
        assert again == whole
        assert told == list(range(after + 1, 6))
        assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_improved_batches_all_have_both_kinds_and_published_ones_may_not() -> None:
    for even in (True, False):
        pool = Pool(88, 12, 1, 10, even)
        shares = [sum(int(place) >= 88 for place in batch) for epoch in range(20) for batch in pool.epoch(epoch, 1)]
        assert sum(shares) == 240
        assert (min(shares) == 0) is (not even)
        if even:
            assert max(shares) == 2


def test_places_of_a_pool_are_rows_and_repetitions() -> None:
    pool = Pool(3, 2, 2, 8)
    assert pool.split(np.arange(7)) == ([0, 1, 2], [0, 1, 0, 1], [0, 0, 1, 1])
    assert len(Pool(3, 2, 0, 8)) == 3
    with pytest.raises(SynthError, match="neither a real nor a synthetic"):
        Pool(0, 2, 0, 8)


def test_an_epoch_needs_no_memory_of_the_one_before() -> None:
    pool = Pool(30, 10, 3, 8)
    first, again = pool.epoch(4, 1), pool.epoch(4, 1)
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    assert any((one != other).any() for one, other in zip(first, pool.epoch(5, 1), strict=True))


def test_a_repeated_real_image_is_seen_in_another_view_each_time() -> None:
    keys: list[str] = []

    def note(images: torch.Tensor, given: Sequence[str], epoch: int) -> torch.Tensor:
        keys.extend(given)
        return images

    fit(
        tiny_classifier(),
        colours(4, 1),
        colours(12, 2),
        colours(4, 3),
        FitConfig(epochs=1, warmup_epochs=0),
        views=note,
    )
    assert sorted(key for key in keys if key.startswith("real")) == sorted(
        f"real/1-{i}/{t}" for i in range(4) for t in range(3)
    )
    assert len(set(keys)) == 24


def test_published_views_are_of_the_models_size_and_follow_from_key_and_epoch() -> None:
    views, images = published_views((16, 16), seed=1), torch.rand(4, 3, 20, 24)
    first = views(images, list("abcd"), 0)
    assert first.shape == (4, 3, 16, 16)
    assert torch.equal(views(images[2:3], ["c"], 0)[0], first[2])
    assert not torch.equal(views(images, list("abcd"), 1), first)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_the_middle_of_an_image_is_evaluated() -> None:
    image = torch.zeros(1, 3, 20, 60)
    image[..., 20:40] = 1
    assert center_resize(image, (20, 20)).min() == 1
    assert center_resize(image, (10, 10)).shape == (1, 3, 10, 10)
    assert center_resize(image, (10, 10))[..., 2:-2].min() > 0.95


def test_what_cannot_be_trained_is_one_sentence() -> None:
    classifier = tiny_classifier()
    with pytest.raises(SynthError, match="nothing to train on"):
        fit(classifier, None, None, colours(4, 1))
    with pytest.raises(SynthError, match="this CLIP sees 16x16 pixels, got 8x8"):
        classifier(torch.rand(1, 3, 8, 8))
    with pytest.raises(SynthError, match="one prompt or more for each class"):
        tiny_classifier([["a cat"], []])
    with pytest.raises(SynthError, match="real_weight takes 0 to 1, got 2"):
        FitConfig(real_weight=2)
    with pytest.raises(SynthError, match="weights of another classifier"):
        classifier.load({})
