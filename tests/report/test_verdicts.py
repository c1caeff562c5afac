"""One rule says who is better: equals are told apart in one report of twenty at the most, whatever is compared and how often."""

from __future__ import annotations

import math

import pytest

from pipelines.evaluation.verdicts import chance, compare, errors_needed, how_sure, settle
from tests.bench.verdicts import KINDS, false_positives


@pytest.mark.parametrize("test_images", [None, 60])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "20" not in kind])
def test_arms_of_equal_worth_are_seldom_told_apart(kind: str, seeds: int, test_images: int | None) -> None:
    """`python -m tests.bench.verdicts` has the figures; a thousand reports come within two points of them."""
    found = false_positives(kind, seeds, 1000, test_images)
    assert found <= 0.07
    assert found == 0 or seeds > 1


@pytest.mark.parametrize("seeds", [2, 3])
def test_twenty_comparisons_do_not_find_one_by_luck(seeds: int) -> None:
    assert false_positives("20 comparisons of DataDream", seeds, 100, None) <= 0.08


@pytest.mark.parametrize(
    ("freedom", "errors"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (20, 2.086), (98, 1.984)]
)
def test_students_t_is_that_of_the_tables(freedom: int, errors: float) -> None:
    assert chance(errors, freedom) == pytest.approx(0.05, abs=1e-4)
    assert errors_needed(0.05, freedom) == pytest.approx(errors, abs=1e-3)


def test_a_difference_that_is_large_and_steady_is_told() -> None:
    found = compare({0: 0.80, 1: 0.70, 2: 0.90}, {0: 0.77, 1: 0.66, 2: 0.85})
    assert (found["outcome"], found["products"], found["of"]) == ("win", 3, 1)
    assert found["errors"] == pytest.approx(4 * math.sqrt(3))
    assert how_sure(found) == "6.9 standard errors over 3 paired seeds"


def test_among_many_comparisons_the_same_difference_is_not() -> None:
    one = compare({0: 0.80, 1: 0.70, 2: 0.90}, {0: 0.77, 1: 0.66, 2: 0.85})
    level = compare({0: 0.80, 1: 0.70, 2: 0.80}, {0: 0.78, 1: 0.72, 2: 0.78})
    assert [found["outcome"] for found in settle([one, level])] == ["win", "level"]
    crowd = settle([one, *[level] * 9])
    assert {found["outcome"] for found in crowd} == {"level"}
    assert how_sure(crowd[0]) == (
        "only 6.9 standard errors over 3 paired seeds where 14.1 would tell among 10 comparisons: not told apart"
    )


def test_holm_lets_what_is_plain_make_room_for_the_next() -> None:
    plain = compare(dict.fromkeys(range(9), 0.9), dict.fromkeys(range(9), 0.5))
    next_best = compare({0: 0.80, 1: 0.70, 2: 0.90}, {0: 0.77, 1: 0.66, 2: 0.85})
    assert [found["outcome"] for found in settle([next_best, plain, plain])] == ["win", "win", "win"]


def test_students_of_one_product_are_no_products() -> None:
    """Six students on three products are three differences; on one product, six, which says so."""
    ours, control = (
        {seed: 0.6 + 0.02 * (seed % 3) + 0.001 * (seed // 3) for seed in range(6)},
        dict.fromkeys(range(6), 0.6),
    )
    three = compare(ours, control, {seed: seed % 3 for seed in range(6)})
    assert (three["products"], three["freedom"], three["seeds"]) == (3, 2, 6)
    assert "6 paired seeds on 3 products" in how_sure(three)
    one = compare(ours, control, dict.fromkeys(range(6), 0))
    assert (one["products"], one["freedom"]) == (1, 5)


def test_two_differences_that_agree_by_a_coarse_step_prove_nothing() -> None:
    assert compare({0: 37 / 60, 1: 35 / 60}, {0: 36 / 60, 1: 34 / 60}, test_images=60)["outcome"] == "level"
    assert compare({0: 57 / 60, 1: 55 / 60}, {0: 36 / 60, 1: 34 / 60}, test_images=60)["outcome"] == "win"


def test_one_seed_proves_nothing_however_it_is_told() -> None:
    single = compare({0: 0.9}, {0: 0.5})
    assert single["outcome"] == "unproved"
    assert how_sure(single) == "with one seed: chance is not ruled out"
