"""The mix of an epoch, its draws and the schedule of levels, beyond the published numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from synth.discl.mix import EpochDraw, Mix, draw_epoch, mix, mix_of
from synth.discl.schedules import Strategy, schedule
from synth.errors import SynthError

TAIL = np.arange(20) >= 16
LEVELS = np.array([10] * 6 + [50] * 3 + [0] * 2)
PLAN = Mix(8, 4, 5)


def drawn(epoch: int, levels: tuple[int, ...] = (10,), seed: int = 3) -> EpochDraw:
    return draw_epoch(seed, epoch, PLAN, levels, TAIL, LEVELS)


def test_an_epoch_follows_from_seed_and_number() -> None:
    first = drawn(5)
    for epoch in range(3):
        drawn(epoch)
    assert np.array_equal(first.positions, drawn(5).positions)
    for other in (drawn(6), drawn(5, seed=4)):
        assert not np.array_equal(first.positions, other.positions)
        assert not np.array_equal(np.sort(first.real), np.sort(other.real))


def test_the_numbers_of_an_epoch_stay_the_same_for_ever() -> None:
    assert drawn(0).positions.tolist() == [19, 20, 16, 23, 5, 21, 15, 12, 18, 6, 25, 0, 10, 17, 11, 22, 14]


def test_positions_are_all_draws_and_synthetic_places_come_after_the_real_ones() -> None:
    draw = drawn(1, (10, 50))
    expected = np.sort(np.concatenate([draw.real, draw.tail, draw.synthetic + len(TAIL)]))
    assert np.array_equal(np.sort(draw.positions), expected)
    assert len(draw.positions) == len(PLAN) == 17
    assert set(LEVELS[draw.synthetic]) <= {10, 50}


def test_level_100_among_several_draws_hard_images_as_well() -> None:
    draws = [drawn(epoch, (50, 100)) for epoch in range(5)]
    assert any(len(draw.tail) > 4 for draw in draws)
    assert any(len(draw.synthetic) > 0 for draw in draws)
    assert all(len(draw.tail) + len(draw.synthetic) == 9 for draw in draws)


def test_a_level_without_images_repeats_hard_ones_and_keeps_the_epoch_exact() -> None:
    draw = drawn(0, (70,))
    assert len(draw.positions) == 17
    assert sorted(np.bincount(draw.tail)[16:]) == [2, 2, 2, 3]


def test_a_whole_quotient_is_not_cut_by_floats() -> None:
    assert mix_of(100, 10, Fraction(1, 3), 1.0).synthetic == 40
    assert int((1 / 3) / (1 - 1 / 3) * 100) == 49  # what the published arithmetic makes of it
    assert mix_of(100, 10, Fraction(1, 3), 1.0, "reference").synthetic == 39


def test_a_small_share_keeps_every_hard_image() -> None:
    assert mix([1000, 1000, 5], 20, 0.001) == Mix(2, 5, 0)


@pytest.mark.parametrize("counts", [[5, 5], [3]])
def test_a_set_that_is_all_tail_is_refused(counts: list[int]) -> None:
    with pytest.raises(SynthError, match="lower few_limit"):
        mix(counts, 20, 1.0)


def test_a_mix_of_another_set_is_refused() -> None:
    with pytest.raises(SynthError, match="the mix is of 3 hard images and 8 others, this set has 4 and 16"):
        draw_epoch(0, 0, Mix(8, 3, 1), (10,), TAIL, LEVELS)


def test_random_levels_follow_from_seed_and_epoch_and_not_from_the_length() -> None:
    short = schedule("random", [0, 50, 100], 10, 10, seed=1)
    long = schedule("random", [100, 50, 0], 40, 40, seed=1)
    assert short == long[:10]
    assert {row.levels for row in long} == {(0,), (50,), (100,)}
    assert long != schedule("random", [0, 50, 100], 40, 40, seed=2)


def test_adaptive_leaves_the_choice_open_until_the_real_epochs() -> None:
    rows = schedule("adaptive", [50, 70, 100], 4, 3)
    assert [(row.levels, row.adaptive) for row in rows] == [((50, 70, 100), True)] * 3 + [((100,), False)]


def test_epochs_that_are_left_over_go_to_the_first_levels() -> None:
    rows = schedule("diverse_to_specific", [10, 30, 50], 8, 8)
    assert [row.levels[0] for row in rows] == [10, 10, 10, 30, 30, 30, 50, 50]


@pytest.mark.parametrize(
    ("strategy", "levels", "epochs", "inside", "message"),
    [
        ("upwards", [10], 2, 1, "strategy takes one of"),
        ("fixed", [10, 30], 2, 1, "one level"),
        ("random", [10, 101], 2, 1, "from 0 to 100"),
        ("random", [10, 10], 2, 1, "different"),
        ("random", [], 2, 1, "one or more"),
        ("random", [10], 2, 3, "up to epochs"),
        ("diverse_to_specific", [10, 30, 50], 9, 2, "2 curriculum_epochs are fewer than the 3 levels"),
    ],
)
def test_what_makes_no_schedule_is_refused(
    strategy: Strategy, levels: list[int], epochs: int, inside: int, message: str
) -> None:
    with pytest.raises(SynthError, match=message):
        schedule(strategy, levels, epochs, inside)
