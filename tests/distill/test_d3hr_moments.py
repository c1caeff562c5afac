"""Moments of groups of latents, and what they say of how Gaussian a class is."""

from __future__ import annotations

import pytest
import torch

from distill.d3hr.diagnostics import averaged, correlation, diagnostics
from distill.d3hr.moments import Moments
from distill.errors import DistillError


def normal(images: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(images, dimensions, generator=torch.Generator().manual_seed(seed))


def test_many_classes_at_once_are_each_class_alone() -> None:
    latents, classes = normal(90, 6).view(90, 2, 3), torch.arange(90) % 4
    together = Moments.of(latents, classes, 5, higher=True)
    assert together.count.tolist() == [23, 23, 22, 22, 0]
    assert together.mean[4].abs().max() == 0
    for place in range(4):
        own = latents[classes == place].flatten(1).double()
        torch.testing.assert_close(together.mean[place], own.mean(0))
        torch.testing.assert_close(together.variance()[place], own.var(0))
        fourth = (own - own.mean(0)).pow(4).mean(0) / (own - own.mean(0)).square().mean(0).square() - 3
        torch.testing.assert_close(together.excess_kurtosis()[place], fourth)
    assert bool(together.variance()[4].isnan().all())


def test_parts_that_lack_a_class_merge_with_those_that_have_it() -> None:
    latents, classes = normal(40, 3), torch.tensor([0] * 25 + [1] * 15)
    whole = Moments.of(latents, classes, 2, higher=True)
    merged = Moments.of(latents[:10], classes[:10], 2, True).merge(Moments.of(latents[10:], classes[10:], 2, True))
    for name in ("count", "mean", "m2", "m3", "m4"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))
    empty = Moments.of(latents[:0], classes[:0], 2)
    torch.testing.assert_close(Moments.of(latents, classes, 2).merge(empty).m2, whole.m2)
    assert merged.merge(empty).m4 is None


def test_moments_survive_a_file_to_the_bit() -> None:
    for higher in (False, True):
        moments = Moments.of(normal(20, 3), torch.arange(20) % 2, 2, higher)
        back = Moments.from_arrays(moments.arrays())
        assert sorted(moments.arrays()) == (["count", "m2", "m3", "m4", "mean"] if higher else ["count", "m2", "mean"])
        assert torch.equal(back.mean, moments.mean)
        assert torch.equal(back.m2, moments.m2)
        assert back.count.dtype == torch.int64
        assert (back.m4 is not None) == higher


def test_broken_latents_and_moments_are_refused() -> None:
    broken = normal(5, 3)
    broken[2, 1], broken[4, 0] = torch.nan, torch.inf
    with pytest.raises(DistillError, match="2 of 5 latents are not finite, the first is latent 2"):
        Moments.of(broken)
    with pytest.raises(DistillError, match="number from 0 to 1 for each of 5 latents"):
        Moments.of(normal(5, 3), torch.tensor([0, 1, 2, 0, 0]), 2)
    with pytest.raises(DistillError, match="cannot be merged"):
        Moments.of(normal(5, 3)).merge(Moments.of(normal(5, 4)))
    with pytest.raises(DistillError, match="m2 is missing"):
        Moments.from_arrays({name: array for name, array in Moments.of(normal(5, 3)).arrays().items() if name != "m2"})
    with pytest.raises(DistillError, match="measure them with higher"):
        Moments.of(normal(5, 3)).excess_kurtosis()


def test_latents_that_were_noised_forward_are_what_diagnostics_predict() -> None:
    abar, clean = 0.3, 2 + 0.5 * normal(4000, 40)
    noised = abar**0.5 * clean + (1 - abar) ** 0.5 * normal(4000, 40, seed=1)
    (row,) = diagnostics(Moments.of(noised, higher=True), Moments.of(clean), abar, [correlation(noised)])
    assert row.cosine == pytest.approx(1, abs=1e-3)
    assert row.mean_rms == pytest.approx(row.predicted_mean_rms, rel=0.01)
    assert row.variance == pytest.approx(row.predicted_variance, rel=0.02)
    assert row.predicted_variance == pytest.approx(0.3 * 0.25 + 0.7, rel=0.02)
    assert row.lowest_variance < row.variance < row.highest_variance
    assert row.kurtosis == pytest.approx(0, abs=0.05)
    assert row.correlation == pytest.approx(row.correlation_floor, rel=0.05)


def test_diagnostics_see_a_mean_that_was_forgotten_heavy_tails_and_correlation() -> None:
    clean = torch.ones(2000, 30) + 0.1 * normal(2000, 30)
    turned = normal(2000, 30)
    turned[:, :15] += 2
    turned[:, 15:] -= 2
    heavy = normal(2000, 30).pow(3)
    tied = normal(2000, 30) + normal(2000, 1, seed=1)
    rows = [
        diagnostics(Moments.of(latents, higher=True), Moments.of(clean), 0.5, [correlation(latents)])[0]
        for latents in (turned, heavy, tied)
    ]
    assert abs(rows[0].cosine) < 0.1
    assert rows[1].kurtosis is not None
    assert rows[1].kurtosis > 5
    assert rows[2].correlation == pytest.approx(0.5, abs=0.05)
    mean = averaged(rows)
    assert mean.cosine == pytest.approx(sum(row.cosine for row in rows) / 3)
    assert mean.correlation_floor == pytest.approx(rows[0].correlation_floor)


def test_what_was_not_measured_is_none() -> None:
    (row,) = diagnostics(Moments.of(normal(9, 4)), Moments.of(normal(9, 4)), 0.5)
    assert (row.kurtosis, row.correlation, row.correlation_floor) == (None, None, None)
    whole = diagnostics(Moments.of(normal(9, 4), higher=True), Moments.of(normal(9, 4)), 0.5)[0]
    assert averaged([row, whole]).kurtosis is None


def test_dimensions_that_do_not_vary_are_left_out() -> None:
    latents = normal(50, 6)
    latents[:, 2] = 1
    alone = latents[:, [0, 1, 3, 4, 5]]
    assert correlation(latents)[0] == pytest.approx(correlation(alone)[0])
    (row,) = diagnostics(Moments.of(latents, higher=True), Moments.of(latents), 0.5)
    assert row.kurtosis == pytest.approx(float(Moments.of(alone, higher=True).excess_kurtosis().mean()))
    assert correlation(torch.ones(5, 3))[0] == 0


@pytest.mark.parametrize("images", [3, 5, 40])
def test_the_floor_of_correlation_is_what_independent_dimensions_show(images: int) -> None:
    values = [correlation(normal(images, 60, seed)) for seed in range(10)]
    assert sum(value for value, _ in values) / 10 == pytest.approx(values[0][1], rel=0.02)


def test_classes_that_cannot_be_diagnosed_are_refused() -> None:
    moments = Moments.of(normal(3, 4), torch.tensor([0, 0, 1]), 2)
    with pytest.raises(DistillError, match="two images of each class, and class 1 has fewer"):
        diagnostics(moments, moments, 0.5)
    with pytest.raises(DistillError, match="abar takes"):
        diagnostics(moments, moments, 0.0)
    with pytest.raises(DistillError, match="moments of the same latents"):
        diagnostics(moments, Moments.of(normal(3, 4)), 0.5)
    with pytest.raises(DistillError, match="three images or more of a class, got 2"):
        correlation(normal(2, 4))
