"""Which set is shipped within a budget: sizes as people write them, what fits, and the rule of the cheapest, by hand-made numbers."""

from __future__ import annotations

import pytest

from pipelines.errors import UserError
from pipelines.evaluation.distilled.arms import Arm
from pipelines.evaluation.distilled.choice import Candidate, Measured, bytes_of, choose, within


def measured(source: str, size: int, *by_seed: float) -> Measured:
    candidate = Candidate(Arm("source", "hard", source), 1, size - 10, 10, "class numbers")
    return Measured(candidate, {0: dict(enumerate(by_seed))})


@pytest.mark.parametrize(
    ("text", "size"),
    [("200KB", 200_000), ("1.5MB", 1_500_000), ("200KiB", 204_800), ("1 MiB", 1_048_576), ("4096", 4096), ("10b", 10)],
)
def test_a_budget_is_bytes_as_people_write_them(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["lots", "0", "-5KB", "5XB", "", "1e6", "0.2B"])
def test_what_is_no_budget_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UserError, match="--budget takes bytes such as 200KB"):
        bytes_of(text)


def test_a_budget_that_nothing_fits_names_the_smallest() -> None:
    two = [measured("dm", 900, 0.5).candidate, measured("cda", 700, 0.5).candidate]
    assert [one.bytes for one in within(two, 800)] == [700]
    assert [one.bytes for one in within(two, 900)] == [700, 900]
    with pytest.raises(UserError, match="the smallest, cda_hard at IPC 1, takes 700; raise --budget"):
        within(two, 699)


def test_chosen_is_the_cheapest_that_is_not_told_apart_from_the_best_and_near_it() -> None:
    """b is best. a is .5 points behind with an error of .29 (t = 1.7): open. c is 10 behind, told apart; d is cheapest, 4 behind with an
    error of 2.3: not told apart, and too far."""
    best = measured("b", 900, 0.80, 0.81, 0.82)
    near = measured("a", 500, 0.80, 0.80, 0.815)
    apart = measured("c", 400, 0.70, 0.71, 0.72)
    far = measured("d", 300, 0.72, 0.80, 0.79)
    choice = choose([best, near, apart, far], 1000)
    assert (choice.best, choice.chosen, choice.open) == (best, near, [near, best])
    assert choice.words().startswith(
        "a_hard at IPC 1 (500\u00a0B): 80.5 ± 0.9 % on the validation split, the cheapest of those not told apart"
    )
    assert choice.words().endswith("b_hard at IPC 1 (81.0 %)")
    assert choose([best, near, apart, far], 1000, limit=5.0).chosen is far
    assert choose([best, near, apart, far], 1000, limit=0.1).chosen is best
    rows = {
        row["name"][0]: (row["open"], row["chosen"], round(row["best_minus_this"], 6))
        for row in choice.to_json()["candidates"]
    }
    assert rows == {
        "d": (False, False, 4.0),
        "c": (False, False, 10.0),
        "a": (True, True, 0.5),
        "b": (True, False, 0.0),
    }


def test_a_single_student_tells_nothing_so_the_best_is_chosen() -> None:
    assert choose([measured("b", 900, 0.80), measured("a", 500, 0.799)], 1000).chosen.candidate.arm.source == "b"
    assert choose([measured("b", 900, 0.80), measured("a", 500, 0.80)], 1000).chosen.candidate.arm.source == "a"
