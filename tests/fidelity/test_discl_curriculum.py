"""Fidelity of DisCL's curriculum: `docs/specs/discl.md`, numbers 35 to 40 and 42."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from synth.discl.config import FlypConfig
from synth.discl.groups import Group, adds_up, group_accuracy, group_sizes, groups_of, weighted_mean
from synth.discl.mix import Mix, draw_epoch, mix
from synth.discl.progress import AdaptiveRule, best_level, guidance_set, level_progress, without_outliers
from synth.discl.schedules import Mode, Strategy, schedule
from synth.errors import SynthError


def blocks(strategy: Strategy, levels: list[int], mode: Mode) -> list[tuple[int, int, int]]:
    """(level, first epoch, last epoch) of each block of 65 epochs with a curriculum of 60; each epoch has one level."""
    rows = schedule(strategy, levels, 65, 60, mode)
    assert [row.epoch for row in rows] == list(range(65))
    grouped = [(level, [row.epoch for row in part]) for level, part in groupby(rows, lambda row: row.levels[0])]
    assert all(len(row.levels) == 1 for row in rows)
    return [(level, epochs[0], epochs[-1]) for level, epochs in grouped]


def test_35_published_schedules_lose_an_epoch_of_the_first_level() -> None:
    # Real only begins at 61, and its level is that of the last block, so that the two look like one.
    four = blocks("diverse_to_specific", [10, 30, 50, 100], "reference")
    assert four == [(10, 0, 13), (30, 14, 28), (50, 29, 43), (100, 44, 64)]
    five = blocks("diverse_to_specific", [0, 10, 30, 50, 100], "reference")
    assert five == [(0, 0, 10), (10, 11, 22), (30, 23, 34), (50, 35, 46), (100, 47, 64)]
    # Downwards the end of the last block shows: epoch 60 is inside, 61 is not.
    assert blocks("specific_to_diverse", [10, 30, 50, 100], "reference")[-2:] == [(10, 44, 60), (100, 61, 64)]
    assert blocks("recursive", [10, 30, 50, 100], "reference")[-2][2] == 60


def test_35_clean_schedule_has_equal_blocks() -> None:
    assert blocks("specific_to_diverse", [10, 30, 50, 100], "improved") == [
        (100, 0, 14), (50, 15, 29), (30, 30, 44), (10, 45, 59), (100, 60, 64)
    ]  # fmt: skip
    upwards = schedule("diverse_to_specific", [10, 30, 50, 100], 65, 60)
    assert [row.levels for row in upwards] == [(10,)] * 15 + [(30,)] * 15 + [(50,)] * 15 + [(100,)] * 20


def test_35_other_strategies() -> None:
    levels = [10, 30, 50, 100]
    rows = schedule("recursive", levels, 65, 60)
    assert [row.levels[0] for row in rows[:8]] == [10, 30, 50, 100, 50, 30, 10, 30]
    shift = schedule("all_levels", levels, 65, 60, "reference")
    assert [row.levels for row in shift] == [(10, 30, 50, 100)] * 60 + [(100,)] * 5
    assert all(not row.real_only for row in schedule("all_levels", levels, 65, 65, "reference"))
    assert all(row.real_only for row in schedule("repeat", levels, 65, 60))


COUNTS = (385, 479, 136)


def imagenet_lt() -> list[int]:
    """Class counts with ImageNet-LT's sizes: 115 846 images, 1643 of them in 136 classes of fewer than 20."""
    few = [12] * 125 + [13] * 11
    others = [20] * 479 + [101] * 384
    return [*few, *others, 115_846 - sum(few) - sum(others)]


@pytest.mark.parametrize(
    ("downsample", "real", "target", "synthetic", "total", "batches"),
    [
        (0.3, 34_260, 5_392, 3_749, 39_652, 310),
        (0.5, 57_101, 8_988, 7_345, 66_089, 517),
        (1.0, 114_203, 17_976, 16_333, 132_179, 1_033),
    ],
)
@pytest.mark.parametrize("mode", ["reference", "improved"])
def test_36_mix_of_an_epoch(
    downsample: float, real: int, target: int, synthetic: int, total: int, batches: int, mode: Mode
) -> None:
    planned = mix(imagenet_lt(), 20, downsample, mode)
    assert (planned.real, planned.tail, planned.synthetic) == (real, 1643, synthetic)
    assert planned.tail + planned.synthetic == target
    assert len(planned) == total
    assert planned.batches(128) == batches


def test_37_real_only_phase_draws_hard_images_with_replacement() -> None:
    planned = mix(imagenet_lt(), 20, 0.3, "reference")
    tail = np.zeros(115_846, bool)
    tail[:1643] = True
    synthetic_levels = np.repeat([10, 30, 50], 8_000)
    draw = draw_epoch(0, 62, planned, (100,), tail, synthetic_levels, "reference")
    assert len(draw.synthetic) == 0
    assert len(draw.tail) == 5_392
    assert len(draw.positions) == 39_652
    assert draw.positions.max() < 115_846
    times = np.bincount(draw.tail, minlength=1643)
    # 5392 draws with replacement leave out exp(-5392 / 1643) = 3.8 % of 1643 images.
    assert 0.02 < (times[:1643] == 0).mean() < 0.06
    evenly = draw_epoch(0, 62, planned, (100,), tail, synthetic_levels, "improved")
    assert set(np.bincount(evenly.tail)) == {3, 4}


def test_37_curriculum_phase_has_every_hard_image_and_the_active_level() -> None:
    planned = mix(imagenet_lt(), 20, 0.3, "reference")
    tail = np.zeros(115_846, bool)
    tail[:1643] = True
    synthetic_levels = np.tile([10, 30, 50], 8_000)
    draw = draw_epoch(0, 3, planned, (30,), tail, synthetic_levels, "reference")
    assert sorted(draw.tail) == list(range(1643))
    assert len(set(draw.synthetic)) == len(draw.synthetic) == 3_749
    assert set(synthetic_levels[draw.synthetic]) == {30}
    assert len(set(draw.real)) == 34_260
    assert not tail[draw.real].any()
    scarce = np.repeat([10, 30], [100, 1000])
    assert len(draw_epoch(0, 3, planned, (30,), tail, scarce, "reference").synthetic) == 3_749
    assert set(np.bincount(draw_epoch(0, 3, planned, (30,), tail, scarce).synthetic)[100:]) == {3, 4}


def test_38_outliers_are_outside_of_the_fences() -> None:
    assert without_outliers(np.array([0.0, 1, 2, 3, 4, 100])).tolist() == [0, 1, 2, 3, 4]
    gains = np.array([0.01, 0.02, 0.03, 0.05, -0.4, 0.02])
    assert without_outliers(gains).tolist() == [0.01, 0.02, 0.03, 0.05, 0.02]
    before = np.full(6, 0.5)
    levels = np.full(6, 30)
    assert level_progress(before + gains, before, levels)[30] == pytest.approx(0.026)
    assert level_progress(before + gains, before, levels, "keep")[30] == pytest.approx(gains.mean())


def test_39_the_level_of_the_largest_progress_is_next() -> None:
    levels = np.array([50, 50, 70, 70, 100, 100])
    first = np.array([0.2, 0.4, 0.1, 0.1, 0.9, 0.7])
    second = np.array([0.3, 0.5, 0.4, 0.4, 0.9, 0.7])
    rule = AdaptiveRule(levels, "reference")
    rule.begin_uniform(first)
    # Against 0 the first round sees probabilities: the easiest level, 100, wins.
    assert rule.end_uniform(first) == 100
    assert rule.history == [pytest.approx({50: 0.3, 70: 0.1, 100: 0.8})]
    rule.begin_uniform(first)
    assert rule.end_uniform(second) == 70
    assert rule.history[-1] == pytest.approx({50: 0.1, 70: 0.3, 100: 0.0})
    improved = AdaptiveRule(levels)
    improved.begin_uniform(first)
    assert improved.end_uniform(second) == 70
    assert (rule.refresh_after, improved.refresh_after) == (1, 0)


def test_39_of_levels_with_the_same_progress_the_lowest_is_next() -> None:
    assert best_level({70: 0.2, 50: 0.2, 100: 0.1}) == best_level({50: 0.2, 100: 0.1, 70: 0.2}) == 50


def test_defect_06_the_validation_set_needs_no_flag_that_nobody_defines() -> None:
    # 3 of 4 images have every level; one sample each, and nothing of a held-out image is trained on.
    parents = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
    sample_levels = np.array([50, 70, 50, 70, 50, 50, 50, 70, 70])
    chosen = guidance_set(parents, sample_levels, np.array([0, 0, 0, 0]), [50, 70, 100], 2, seed=1)
    assert len(chosen.images) == 2
    assert 2 not in chosen.images
    assert chosen.levels == (50, 70, 100)
    for image, samples in zip(chosen.images, chosen.samples, strict=True):
        assert parents[samples].tolist() == [image, image]
        assert sample_levels[samples].tolist() == [50, 70]
    kept = chosen.trained_on(parents)
    assert not set(parents[kept]) & set(chosen.images)
    assert set(parents[kept]) | set(chosen.images) == {0, 1, 2, 3}


def test_39_the_adaptive_rule_needs_no_flags_and_never_trains_a_level_that_was_not_measured() -> None:
    # Published flags that are not passed make it train the lowest level for all epochs.
    rows = schedule("adaptive", [50, 70, 100], 20, 15)
    assert [row.adaptive for row in rows] == [True] * 15 + [False] * 5
    rule = AdaptiveRule(np.array([50, 70, 100]))
    with pytest.raises(SynthError, match="begin_uniform comes first"):
        rule.end_uniform(np.zeros(3))


def test_39_the_level_that_is_chosen_is_the_one_that_is_trained_on() -> None:
    # Published for ImageNet: the choice stays None, and all levels are trained on.
    rule = AdaptiveRule(np.array([10, 30, 50]))
    rule.begin_uniform(np.array([0.1, 0.1, 0.1]))
    level = rule.end_uniform(np.array([0.1, 0.4, 0.2]))
    synthetic_levels = np.repeat([10, 30, 50], 20)
    draw = draw_epoch(0, 0, Mix(4, 2, 6), (level,), np.arange(8) >= 6, synthetic_levels)
    assert set(synthetic_levels[draw.synthetic]) == {30}


@pytest.mark.parametrize("mode", ["reference", "improved"])
@pytest.mark.parametrize("level", [0, 30, 100])
def test_defect_07_every_epoch_has_images_that_are_not_hard(mode: Mode, level: int) -> None:
    planned = mix([50, 40, 5], 20, 0.2, mode)
    tail = np.repeat([False, True], [90, 5])
    draw = draw_epoch(0, 0, planned, (level,), tail, np.repeat([0, 30], 40), mode)
    assert len(draw.real) == 18
    assert not tail[draw.real].any()
    assert set(draw.real) <= set(draw.positions)


def test_defect_08_the_level_of_a_real_image_is_100_and_never_its_label() -> None:
    synthetic_levels = np.repeat([10, 30], 30)
    draw = draw_epoch(0, 0, Mix(6, 4, 8), (10,), np.arange(12) >= 8, synthetic_levels)
    assert len(draw.levels) == len(draw.positions) == 18
    real = draw.positions < 12
    assert set(draw.levels[real]) == {100}
    assert draw.levels[~real].tolist() == synthetic_levels[draw.positions[~real] - 12].tolist()


def test_40_learning_rate_of_contrastive_fine_tuning() -> None:
    config = FlypConfig(mode="reference")
    total = config.steps(batches=310, images=507 * 256 + 100)  # a curriculum's epoch may be of another length
    assert total == 507 * 21
    published = {1: 4e-8, 100: 2.02e-6, 499: 1e-5, 500: 1e-5, 5000: 5.883e-6, 10_140: 6.147e-8}
    for step, rate in published.items():
        assert config.rate(step, total) == pytest.approx(rate, rel=2e-4)
    # Ours ends with the training, and a short one is not all warm-up.
    assert FlypConfig().rate(507 * 20 - 1, 507 * 20) < 1e-12
    assert FlypConfig().rate(19, 200) == 1e-5


#: Published rows: many, medium, few, all (percent), and the groups' classes.
ROWS = {
    "ImageNet-LT, CE": (57.70, 26.60, 4.40, 35.80, COUNTS),
    "ImageNet-LT, CE + DisCL": (56.78, 30.73, 23.64, 39.82, COUNTS),
    "ImageNet-LT, BS + DisCL": (52.68, 37.68, 21.36, 41.33, COUNTS),
    "CIFAR-100-LT IR100, CE": (52.86, 25.34, 5.49, 29.02, (35, 35, 30)),
    "CIFAR-100-LT IR100, CE + DisCL": (53.14, 25.52, 13.65, 39.91, (35, 35, 30)),
    "CIFAR-100-LT IR100, BS + DisCL": (49.02, 29.02, 19.07, 33.08, (35, 35, 30)),
}


def test_42_groups_and_the_row_that_does_not_add_up() -> None:
    counts = imagenet_lt()
    assert tuple(group_sizes(groups_of(counts)).values()) == COUNTS
    assert groups_of([101, 100, 20, 19]) == ("many", "medium", "medium", "few")
    wrong = []
    for name, (many, medium, few, everything, sizes) in ROWS.items():
        classes: dict[Group, int] = dict(zip(("many", "medium", "few"), sizes, strict=True))
        row: dict[Group, float] = {"many": many, "medium": medium, "few": few}
        if not adds_up(row, classes, everything):
            wrong.append((name, round(weighted_mean(row, classes), 2)))
    assert wrong == [("CIFAR-100-LT IR100, CE + DisCL", 31.63)]


def test_42_accuracy_by_group_is_over_the_test_images_of_its_classes() -> None:
    correct = np.array([True, True, False, True, False, False])
    shares = group_accuracy(correct, np.array([0, 0, 0, 1, 2, 2]), ("many", "medium", "few"))
    assert shares == {"many": 2 / 3, "medium": 1.0, "few": 0.0, "all": 0.5}
