"""QualityScores of a generated set: formulas against values by hand or in closed form, and what they must not depend on."""

from __future__ import annotations

import math

import pytest
import torch

from synth.errors import SynthError
from synth.quality.distances import cmmd, fid, kid
from synth.quality.neighbours import manifold, nearest, vendi
from synth.quality.scores import quality_scores


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(rows: int, width: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(rows, width, generator=seeded(seed)) + shift


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def with_moments(mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """2 d points whose sample mean and covariance (over n - 1) are exactly these."""
    width = len(mean)
    root = torch.linalg.cholesky(covariance) * ((2 * width - 1) / 2) ** 0.5
    return torch.cat((mean + root.T, mean - root.T))


def test_fid_is_the_closed_form_of_two_gaussians_with_diagonal_covariances() -> None:
    first = with_moments(torch.tensor([0.0, 1, 2]).double(), torch.diag(torch.tensor([1.0, 4, 9]).double()))
    second = with_moments(torch.tensor([1.0, 1, 0]).double(), torch.diag(torch.tensor([4.0, 4, 1]).double()))
    by_hand = (1 + 0 + 4) + (1 - 2) ** 2 + (2 - 2) ** 2 + (3 - 1) ** 2
    assert fid(first, second) == pytest.approx(by_hand, abs=1e-10)


def test_fid_takes_the_root_of_covariances_that_do_not_commute() -> None:
    first, second = torch.tensor([[2.0, 1], [1, 2]]).double(), torch.tensor([[5.0, 0], [0, 1]]).double()
    # 2 x 2: tr (AB)^(1/2) = (tr AB + 2 det(AB)^(1/2))^(1/2)
    common = math.sqrt(float((first @ second).trace()) + 2 * math.sqrt(3 * 5))
    zero = torch.zeros(2).double()
    assert fid(with_moments(zero, first), with_moments(zero, second)) == pytest.approx(4 + 6 - 2 * common, abs=1e-10)


@pytest.mark.parametrize("rows", [6, 60])
def test_fid_is_the_same_with_fewer_rows_than_columns_and_with_more(rows: int) -> None:
    first, second = drawn(rows, 20).double(), drawn(rows + 3, 20, 1, 0.2).double()
    a, b = torch.cov(first.T), torch.cov(second.T)
    values = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    expected = (first.mean(0) - second.mean(0)).square().sum() + a.trace() + b.trace() - 2 * values
    assert fid(first, second) == pytest.approx(float(expected), rel=1e-5)


def test_fid_of_a_set_to_itself_is_nothing_and_needs_two_images() -> None:
    features = drawn(30, 8)
    assert fid(features, features.flip(0)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(SynthError, match="needs 2 images in each set, got 1"):
        fid(features[:1], features)


def test_kid_leaves_out_what_each_image_is_to_itself() -> None:
    # d = 1, k(x, y) = (xy + 1)^3: k(0, 1) = 1, k(1, 2) = 27; between: k(0, 1) = k(0, 2) = 1, k(1, 1) = 8, k(1, 2) = 27, over 4
    found = kid(column(0, 1), column(1, 2), seeded())
    assert (found.mean, found.std) == (pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4), 0)


def test_kid_is_zero_on_average_between_sets_of_one_origin_however_few_the_images() -> None:
    values = [kid(drawn(4, 3, 2 * n), drawn(4, 3, 2 * n + 1), seeded()).mean for n in range(600)]
    each = torch.tensor(values)
    assert abs(float(each.mean())) < 3 * float(each.std()) / 600**0.5
    assert float(each.min()) < 0


def test_subsets_of_kid_follow_from_the_generator_alone() -> None:
    first, second = drawn(50, 4), drawn(60, 4, 1, 0.5)
    found = kid(first, second, seeded(3), subsets=10, size=20)
    before = torch.random.get_rng_state()
    assert kid(first, second, seeded(3), subsets=10, size=20) == found
    assert torch.equal(torch.random.get_rng_state(), before)
    assert kid(first, second, seeded(4), subsets=10, size=20) != found
    assert found.std > 0


def test_cmmd_of_orthogonal_pairs_is_the_value_by_hand() -> None:
    first = torch.tensor([[3.0, 0, 0], [0, 2, 0]])  # lengths do not count
    second = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    apart = math.exp(-2 / 200)
    assert cmmd(first, second) == pytest.approx(1000 * (apart + apart - 2 * (1 + 3 * apart) / 4), abs=1e-9)
    within = (2 + 2 * apart) / 4
    assert cmmd(first, second, biased=True) == pytest.approx(1000 * (2 * within - 2 * (1 + 3 * apart) / 4), abs=1e-9)


def test_manifold_of_points_on_a_line_is_the_value_by_hand() -> None:
    real, generated = column(0, 1, 3, 7), column(0.5, 4, 20)
    # k = 1: real radii 1, 1, 2, 4; generated radii 3.5, 3.5, 16
    found = manifold(generated, real, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 0.5 in the balls of 0 and 1; 4 in those of 3 and 7; 20 in none
    assert found.density == pytest.approx(4 / 3)
    assert found.coverage == 1
    assert found.recall == 1  # 7 is 3 from 4, and 13 from 20, within 16


def test_a_ball_holds_its_rim() -> None:
    real = column(0, 1, 10, 11)
    found = manifold(column(2, 12.5), real, k=1)
    assert found.precision == 0.5  # 2 is at the rim of 1's ball; 12.5 is outside 11's
    assert found.coverage == 0.25


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_a_set_against_itself_is_wholly_precise_and_covered_wherever_it_lies(shift: float) -> None:
    features = drawn(80, 16, shift=shift)
    found = manifold(features, features.flip(0), k=4)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(5 / 4)


def test_a_real_outlier_raises_precision_and_not_density() -> None:
    real = torch.cat((drawn(100, 2), torch.tensor([[100.0, 0.0]])))
    found = manifold(torch.tensor([[40.0, 10.0]]).repeat(10, 1) + drawn(10, 2, 1), real, k=5)
    assert (found.precision, found.density) == (1, pytest.approx(0.2))


def test_vendi_is_the_number_of_orthogonal_images_and_one_for_equal_ones() -> None:
    assert vendi(torch.eye(7) * 3) == pytest.approx(7)
    assert vendi(torch.ones(9, 4)) == pytest.approx(1)
    assert vendi(torch.eye(3).repeat(5, 1)) == pytest.approx(3)  # more rows than columns
    # two rows at cosine c: eigenvalues (1 +- c) / 2
    pair = torch.tensor([[1.0, 0], [0.6, 0.8]])
    assert vendi(pair) == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)))


def test_the_nearest_real_image_is_the_first_of_equals() -> None:
    references = torch.tensor([[0.0, 1], [2, 2], [5, 5], [1, 0]])
    cosines, indices = nearest(torch.tensor([[1.0, 1], [3, 0.1], [0, 0]]), references)
    assert indices.tolist() == [1, 3, 0]
    assert cosines.tolist() == pytest.approx([1, 3 / math.hypot(3, 0.1), 0])
    row = drawn(1, 9)
    for length in range(2, 40):  # equal but for rounding
        assert nearest(row, torch.cat((row / length, row, row * length)))[1].tolist() == [0]


def test_no_figure_but_a_subset_depends_on_the_order_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = drawn(70, 5), drawn(90, 5, 1, 0.3)
    own, other = torch.arange(70) % 3, torch.arange(90) % 3
    expected = quality_scores(first, second, own, other, clip=(first, second))
    monkeypatch.setattr("synth.quality.arrays.ROWS", 7)  # nor on the blocks that it is computed in
    p, q = (torch.randperm(n, generator=seeded()) for n in (70, 90))
    found = quality_scores(first[p], second[q], own[p], other[q].tolist(), clip=(first[p], second[q]))
    pairs = [(expected.overall, found.overall), *((expected.per_class[c], found.per_class[c]) for c in range(3))]
    for one, two in pairs:
        values = vars(one)
        if one.real != one.generated:  # the smaller set's size is drawn from the larger one
            values = {key: value for key, value in values.items() if not key.startswith("kid")}
        assert {key: vars(two)[key] for key in values} == pytest.approx(values, abs=1e-9)


def test_figures_of_a_class_are_those_of_its_images_alone() -> None:
    first, second = drawn(60, 4), drawn(60, 4, 1)
    labels = torch.arange(60) % 2
    both = quality_scores(first, second, labels, labels, seed=5).per_class
    alone = quality_scores(first[labels == 1], second[labels == 1], [1] * 30, [1] * 30, seed=5).per_class
    assert list(both) == [0, 1]
    assert alone == {1: both[1]}


def test_figures_are_none_where_there_are_too_few_images() -> None:
    first, second = drawn(9, 8), drawn(12, 8, 1)
    found = quality_scores(first, second, [0] * 8 + [1], [0] * 10 + [2] * 2, k=8)
    assert found.overall.fid is not None
    assert found.overall.precision is not None
    assert found.overall.cmmd is None
    assert found.per_class[0].fid is None  # 8 images in 8 dimensions
    assert found.per_class[0].kid is not None
    assert found.per_class[0].density is None
    one, none = found.per_class[1], found.per_class[2]
    assert (one.generated, one.real, one.kid, one.vendi_real, one.nearest_mean) == (1, 0, None, None, None)
    assert one.vendi == pytest.approx(1)
    assert (none.generated, none.real, none.vendi) == (0, 2, None)
    assert quality_scores(first, second, fid_least=2).per_class == {}
    assert quality_scores(first[:3], second[:3], fid_least=2).overall.fid is not None


@pytest.mark.parametrize(
    ("generated", "real", "options", "message"),
    [
        (torch.ones(3, 4), torch.ones(3, 5), {}, "4 numbers and real ones 5"),
        (torch.ones(3, 4, 4), torch.ones(3, 4), {}, r"one row for each image, got a tensor of shape \(3, 4, 4\)"),
        (torch.full((3, 4), torch.nan), torch.ones(3, 4), {}, "not finite"),
        (torch.ones(3, 4), torch.ones(3, 4), {"labels_real": [0, 1, 2]}, "labels of both sets"),
        (torch.ones(3, 4), torch.ones(3, 4), {"labels_generated": [0], "labels_real": [0, 1, 2]}, "each of 3 images"),
        (torch.ones(3, 4), torch.ones(3, 4), {"clip": (torch.ones(2, 4), torch.ones(3, 4))}, "are of 2 and 3 images"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(generated, real, options, message) -> None:
    with pytest.raises(SynthError, match=message):
        quality_scores(generated, real, **options)
