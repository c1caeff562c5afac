"""The adaptive rule's state, and which hard images progress is measured on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from synth.discl.progress import AdaptiveRule, guidance_set, level_progress
from synth.discl.schedules import Mode
from synth.errors import SynthError

LEVELS = np.array([10, 10, 50, 50])


@pytest.mark.parametrize("mode", ["reference", "improved"])
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_rule_goes_on_from_its_state(mode: Mode, stop: int) -> None:
    measured = np.random.default_rng(0).random((4, 2, 4))

    def play(rule: AdaptiveRule, events: range) -> list[int]:
        chosen = []
        for event in events:
            block, end = divmod(event, 2)
            if end:
                chosen.append(rule.end_uniform(measured[block, 1]))
            else:
                rule.begin_uniform(measured[block, 0])
        return chosen

    whole = AdaptiveRule(LEVELS, mode)
    expected = play(whole, range(8))
    first = AdaptiveRule(LEVELS, mode)
    before = play(first, range(stop))
    second = AdaptiveRule(LEVELS, mode)
    second.load_state(json.loads(json.dumps(first.state())))
    assert before + play(second, range(stop, 8)) == expected
    assert second.history == whole.history


def test_a_network_that_diverged_is_told() -> None:
    with pytest.raises(SynthError, match="diverged"):
        level_progress(np.array([0.1, np.nan]), None, np.array([10, 10]))


def crossed(images: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Parents and levels of `seeds` samples at 10 and 50 for each of `images` hard images."""
    return np.repeat(np.arange(images), 2 * seeds), np.tile(np.repeat([10, 50], seeds), images)


def test_half_of_a_class_stays_for_training() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    held = guidance_set(*crossed(8, 2), labels, [10, 50, 100], 100, seed=0)
    assert np.bincount(labels[held.images], minlength=3).tolist() == [2, 1, 0]
    assert len(guidance_set(*crossed(8, 2), labels, [10, 50, 100], 7, 0, "reference").images) == 7


def test_the_choice_follows_from_the_seed_and_several_samples_are_drawn_from() -> None:
    labels = np.zeros(30, np.int64)
    sets = [guidance_set(*crossed(30, 3), labels, [10, 50], 10, seed) for seed in (0, 0, 1)]
    assert np.array_equal(sets[0].samples, sets[1].samples)
    assert not np.array_equal(sets[0].images, sets[2].images)
    assert len(set((sets[0].samples % 3).flatten())) == 3


def test_a_set_that_cannot_be_is_refused() -> None:
    with pytest.raises(SynthError, match="0 of 4 hard images have a sample at each of the levels"):
        guidance_set(np.array([0, 1]), np.array([10, 10]), np.zeros(4, np.int64), [10, 50], 2, 0)
    with pytest.raises(SynthError, match="one synthetic level"):
        guidance_set(*crossed(4, 1), np.zeros(4, np.int64), [100], 2, 0)
