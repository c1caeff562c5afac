"""Fidelity of the scores against controls (`docs/specs/cda.md`, scores against controls)."""

from __future__ import annotations

import pytest

from distill.scores import hard_label_recovery, improvement_over_random, label_robust_score


@pytest.mark.parametrize(
    ("recovery", "improvement", "score"),
    [
        (0.0, 0.0, 0.268941),
        (0.3, 0.05, 0.218949),
        (0.5, -0.05, 0.166649),
        (0.4, 0.011, 0.193740),
        (1.0, 0.0, 0.101536),
    ],
)
def test_f17_label_robust_score(recovery: float, improvement: float, score: float) -> None:
    assert label_robust_score(recovery, improvement) == pytest.approx(score, abs=5e-7)


def test_f17_the_released_scorer_saturates_on_percentages_and_ours_refuses_them() -> None:
    with pytest.raises(ValueError, match="divide"):
        label_robust_score(30, 5)
    with pytest.raises(ValueError, match="divide"):
        hard_label_recovery(93.1, 40.0)
    with pytest.raises(ValueError, match="divide"):
        improvement_over_random(0.4, 38.0)


def test_hlr_and_ior_are_differences_from_their_controls() -> None:
    assert hard_label_recovery(0.9, 0.4) == pytest.approx(0.5)
    assert improvement_over_random(0.375, 0.364) == pytest.approx(0.011)
    assert label_robust_score(0.0, 1.0, weight=1.0) == pytest.approx(1.0)
