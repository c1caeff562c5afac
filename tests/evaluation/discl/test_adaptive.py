"""Lists whose levels the network chooses: what is held out, how epochs alternate, and that a choice survives a kill."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.config import TrainConfig
from distill.networks import build
from pipelines.evaluation.discl.adaptive import AdaptiveLists, AdaptiveTrainer
from pipelines.evaluation.discl.pool import guidance_of
from synth.errors import SynthError
from tests.evaluation.discl.test_lists import COURSE, EPOCH, LABELS, LEVELS, POOL, levels_in

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def rising(level: int) -> AdaptiveLists:
    """Lists of a network that learns most at `level`."""
    chosen, calls = AdaptiveLists(POOL, COURSE, 2, 3), [0]
    of = chosen.rule.levels

    def ask(places: np.ndarray) -> np.ndarray:
        calls[0] += 1
        gains: np.ndarray = np.where(of == level, 0.02, 0.01) * calls[0]
        return gains

    chosen.ask = ask
    return chosen


def test_before_there_is_a_network_an_epochs_length_is_known() -> None:
    assert [len(AdaptiveLists(POOL, COURSE, 2, 3)(epoch)) for epoch in (0, 9)] == [len(EPOCH)] * 2


def test_held_out_images_and_what_was_made_of_them_are_not_trained_on() -> None:
    out, places, levels = guidance_of(POOL, 2, 3)
    assert len(out) == 2
    assert set(LABELS[out]) == {2}
    assert counted(levels) == {0: 2, 30: 2, 60: 2, 100: 2}
    assert set(places[-2:]) == set(out)
    assert set(POOL.parents[places[:-2] - len(LABELS)]) == set(out)
    chosen = rising(30)
    for epoch in range(10):
        shown = chosen(epoch)
        assert len(shown) == len(EPOCH)
        assert not set(shown) & set(out)
        assert not set(POOL.parents[shown[shown >= len(LABELS)] - len(LABELS)]) & set(out)
    with pytest.raises(SynthError, match="a guidance set needs some"):
        guidance_of(replace(POOL, parents=np.full(21, -1)), 2, 3)


def counted(levels: np.ndarray) -> dict[int, int]:
    return {int(level): int((levels == level).sum()) for level in np.unique(levels)}


@pytest.mark.parametrize("level", LEVELS)
def test_epochs_on_real_images_take_turns_with_those_on_the_level_of_most_progress(level: int) -> None:
    chosen = rising(level)
    seen = [list(levels_in(chosen(epoch))) for epoch in range(10)]
    assert seen == [[], [level]] * 4 + [[], []]
    assert chosen.levels == [100, level] * 4 + [100, 100]
    assert all(
        np.array_equal(one, again) for one, again in zip(chosen.epochs, map(rising(level), range(10)), strict=True)
    )


def test_a_training_that_chooses_resumes_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.from_numpy(POOL.every_label)
    images = torch.randint(0, 120, (len(labels), 3, 8, 8), generator=generator, dtype=torch.uint8)
    for place, label in enumerate(labels.tolist()):
        images[place, :, :, 2 * label : 2 * label + 2] += 100
    config = TrainConfig(epochs=10, batch_size=32, learning_rate=0.05, rate_per="step")

    def begun() -> tuple[AdaptiveLists, AdaptiveTrainer]:
        chosen, model = AdaptiveLists(POOL, COURSE, 2, 3), build("convnet1_w8", 3, 8, seed=1)
        return chosen, AdaptiveTrainer(chosen, model, (images, labels), config, seed=4, **STATISTICS)

    chosen, whole = begun()
    states = [copy.deepcopy(whole.state()) for _ in whole.run()]
    assert len(chosen.rule.history) == 4
    for epoch in (0, 2):  # after a uniform block, and before one
        again, resumed = begun()
        resumed.load_state(states[epoch])
        list(resumed.run())
        assert (again.levels, resumed.history) == (chosen.levels, whole.history)
        assert all(
            torch.equal(value, resumed.final.state_dict()[name]) for name, value in whole.final.state_dict().items()
        )
