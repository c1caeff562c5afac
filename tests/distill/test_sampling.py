"""Lists of images for epochs of long tails: repeated, class by class, or each once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from distill.errors import DistillError
from distill.sampling import class_balanced, cut, repeat_factors, repeated, shuffled

COUNTS = (60, 30, 6)
LABELS = np.repeat(np.arange(3), COUNTS)


def test_a_class_is_repeated_by_the_root_of_how_much_too_rare_it_is() -> None:
    """LVIS: max(1, sqrt(t / f)); here t = 0.25 and f = .625, .3125 and .0625."""
    factors = repeat_factors(COUNTS, 0.25)
    shares = [count / sum(COUNTS) for count in COUNTS]
    assert factors == pytest.approx([max(1.0, (0.25 / share) ** 0.5) for share in shares])
    assert factors == pytest.approx([1.0, 1.0, 2.0])
    with pytest.raises(DistillError, match="an image of each class"):
        repeat_factors((3, 0), 0.1)


def test_a_pass_has_each_image_as_often_as_its_factor_says_the_rest_by_chance() -> None:
    factors = np.array([1.0, 2.25, 3.5])
    passes = [Counter(repeated(LABELS, factors, 1, number).tolist()) for number in range(200)]
    for label, factor in enumerate(factors):
        often = np.array([[one[place] for place in np.flatnonzero(label == LABELS)] for one in passes])
        assert set(np.unique(often)) <= {int(factor), int(factor) + (factor % 1 > 0)}
        assert often.mean() == pytest.approx(factor, abs=0.05)


def test_class_balanced_draws_are_as_many_of_each_class_and_of_each_of_its_images() -> None:
    drawn = class_balanced(LABELS, 30_000, 1, 0)
    assert np.bincount(LABELS[drawn]) / 30_000 == pytest.approx([1 / 3] * 3, abs=0.01)
    each = np.bincount(drawn, minlength=96)
    assert each[LABELS == 2].min() > 1500
    assert each.min() > 100


def test_passes_are_laid_end_to_end_and_cut() -> None:
    epochs = cut(lambda number: shuffled(10, 1, number), 4, 5)
    assert [len(epoch) for epoch in epochs] == [4] * 5
    joined = np.concatenate(epochs)
    assert sorted(joined[:10].tolist()) == sorted(joined[10:].tolist()) == list(range(10))
    assert joined[:10].tolist() != joined[10:].tolist()
