"""What the epochs of each arm show: as many images in all of them, and of what they are about."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from distill.sampling import repeat_factors
from pipelines.evaluation.discl.arms import Shows
from pipelines.evaluation.discl.pool import Course, Pool, lists
from synth.discl.groups import groups_of
from synth.discl.mix import Mix

COUNTS = (60, 30, 6)
LEVELS = (0, 30, 60)
LABELS = np.repeat(np.arange(3), COUNTS)
POOL = Pool(
    LABELS,
    groups_of(COUNTS, 50, 10),
    10,
    np.repeat(LEVELS, 7),
    np.full(21, 2),
    np.tile([90, 91, 92, 93, 94, 95, 90], 3),
)
BARE = Pool(LABELS, POOL.groups, 10, *[np.empty(0, np.int64)] * 3)
COURSE = Course(10, 8, 1.0)
#: A third of the classes is the tail, and so is a third of the epoch: 90 others and 45.
EPOCH = Mix(90, 6, 39)


def shown(shows: Shows, seed: int = 3, course: Course = COURSE) -> list[np.ndarray]:
    pool = POOL if shows in ("text", "levels", "curriculum", "unordered") else BARE
    return lists(pool, course, shows, "diverse_to_specific", seed, full=300)


def levels_in(places: np.ndarray) -> Counter[int]:
    return Counter(POOL.levels[places[places >= len(LABELS)] - len(LABELS)].tolist())


@pytest.mark.parametrize("shows", ["real", "repeated", "tail", "text", "levels", "curriculum", "unordered", "full"])
def test_all_arms_see_as_many_images_in_every_epoch(shows: Shows) -> None:
    epochs = shown(shows)
    assert [len(places) for places in epochs] == [len(EPOCH)] * 10
    assert all(places.dtype == np.int64 for places in epochs)
    again, other = shown(shows), shown(shows, seed=4)
    assert all(np.array_equal(one, two) for one, two in zip(epochs, again, strict=True))
    assert not np.array_equal(epochs[0], other[0])


def test_real_images_come_as_they_are_and_rare_ones_more_often_where_they_are_repeated() -> None:
    often = np.bincount(np.concatenate(shown("real")), minlength=96)
    assert often.max() - often.min() == 1
    assert max(np.concatenate(shown("full"))) == 299
    counts = POOL.shown(shown("repeated"))
    factors = repeat_factors(COUNTS, 1 / 3)
    assert counts / counts.sum() == pytest.approx(factors * COUNTS / (factors * COUNTS).sum(), abs=0.02)


def test_the_tail_is_repeated_as_often_as_the_mix_has_images_of_it() -> None:
    for places in shown("tail"):
        assert np.bincount(LABELS[places]).tolist() == [60, 30, 45]


def test_text_and_all_levels_fill_the_tail_in_every_epoch() -> None:
    for places in shown("text"):
        assert levels_in(places) == {0: EPOCH.synthetic}
    seen = [levels_in(places) for places in shown("levels")]
    assert all(set(one) == set(LEVELS) for one in seen)
    # Level 100 is among all levels: the tail's own images.
    assert all(20 < sum(one.values()) < EPOCH.synthetic for one in seen)


def test_the_curriculum_goes_from_diverse_to_specific_and_ends_on_real_images() -> None:
    seen = [levels_in(places) for places in shown("curriculum")]
    assert [list(one) for one in seen] == [[0], [0], [30], [30], [60], [60], [], [], [], []]
    assert all(sum(one.values()) == EPOCH.synthetic for one in seen[:6])


def test_without_order_the_curriculum_shows_the_same_images_as_often() -> None:
    ordered, unordered = shown("curriculum"), shown("unordered")
    assert Counter(np.concatenate(ordered).tolist()) == Counter(np.concatenate(unordered).tolist())
    assert all(len(levels_in(places)) == 3 for places in unordered)
    assert POOL.shown(ordered).tolist() == [600, 300, 450]
