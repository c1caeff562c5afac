"""Fidelity of D3HR's moments, scores and groups to the published arithmetic (`docs/specs/d3hr.md`, selection)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from distill.d3hr.config import SelectConfig
from distill.d3hr.models import ClassModel, diagonal
from distill.d3hr.moments import Moments
from distill.d3hr.noise import antithetic, standardise
from distill.d3hr.scores import Scores, measure, score, totals
from distill.d3hr.search import Pool
from distill.d3hr.selection import select
from distill.errors import DistillError

WEIGHTS = (1.0, 1.0, 0.1)


def published_scores(x: torch.Tensor, mu: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """The published score's three parts (m, 3) of groups (m, n, D), in the dtype of x."""
    d = x.shape[2]
    mean, std = x.mean(dim=1), x.std(dim=1)
    l_mean = torch.norm(mean - mu, dim=1)
    l_std = torch.norm(std - sd, dim=1)
    q = d / ((d - 1) * (d - 2)) * (((x - mean.unsqueeze(1)) / std.unsqueeze(1)) ** 3).sum(dim=2)
    return torch.stack([l_mean, l_std, torch.norm(q, dim=1)], 1)


@cache
def worked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The draws z (512, 10, 64) and the class (mu, sd) of the worked example."""
    rng = np.random.default_rng(1234)
    z, mu, sd = rng.standard_normal((512, 10, 64)), rng.normal(0, 0.15, 64), rng.uniform(0.8, 1.2, 64)
    return torch.from_numpy(z), torch.from_numpy(mu), torch.from_numpy(sd)


def models_of(deviations: torch.Tensor, mean: float = 0.0) -> list[ClassModel]:
    """Diagonal class models of deviations (c, D)."""
    return [
        ClassModel(torch.ones(1), torch.full((1, len(own)), mean), own.square()[None], torch.zeros(0, len(own)))
        for own in deviations.float()
    ]


@cache
def latents() -> torch.Tensor:
    """A class's latents (1300, 4096) float32, about 0 with variance about 1."""
    return torch.randn(1300, 4096, generator=torch.Generator().manual_seed(9)) * 0.98 + 0.1


def errors_of(mean: torch.Tensor, variance: torch.Tensor, exact: np.ndarray) -> tuple[float, float]:
    """The largest error of a mean, and the largest relative one of a variance, against numpy's float64."""
    truth = exact.astype(np.float64)
    off = np.abs(mean.double().numpy() - truth.mean(0)).max()
    return float(off), float(np.abs(variance.double().numpy() / truth.var(0, ddof=1) - 1).max())


def test_f09_moments_merged_from_batches_are_those_of_the_whole() -> None:
    parts = [Moments.of(batch) for batch in latents().split(200)]
    merged = Moments.merged(parts)
    off, relative = errors_of(merged.mean[0], merged.variance()[0], latents().numpy())
    assert off <= 1e-6
    assert relative <= 1e-5


def test_f09_order_and_number_of_parts_change_nothing() -> None:
    batches = latents()[:, :512]
    orders = [
        [Moments.of(part, higher=True) for part in batches.split(200)],
        [Moments.of(part, higher=True) for part in reversed(batches.split(200))],
        [Moments.of(part, higher=True) for part in batches.split(37)],
    ]
    first, *others = [Moments.merged(parts) for parts in orders]
    left, right = Moments.merged(orders[0][:3]), Moments.merged(orders[0][3:])
    for other in (*others, left.merge(right)):
        for name in ("mean", "m2", "m3", "m4"):
            torch.testing.assert_close(getattr(other, name), getattr(first, name), rtol=1e-6, atol=1e-6)


def test_f09_a_naive_sum_of_squares_would_fail() -> None:
    shifted = latents() + 100
    total, squares, count = torch.zeros(4096), torch.zeros(4096), len(shifted)
    for batch in shifted.split(200):
        total, squares = total + batch.sum(0), squares + batch.square().sum(0)
    naive = (squares - total.square() / count) / (count - 1)
    merged = Moments.merged(Moments.of(batch) for batch in shifted.split(200))
    assert errors_of(total / count, naive, shifted.numpy())[1] > 1e-3
    assert errors_of(merged.mean[0], merged.variance()[0], shifted.numpy())[1] <= 1e-5


def test_f09_the_published_float16_statistics_are_ours_rounded() -> None:
    halves = latents()[:, :1024].half()
    (model,) = diagonal(Moments.of(halves), SelectConfig(mode="reference"))
    off, relative = errors_of(model.means[0], model.variances[0], halves.float().numpy())
    assert 1e-6 < off <= 2e-4
    assert 1e-5 < relative <= 5e-4
    assert torch.equal(model.variances[0], model.variances[0].half().float())
    torch.testing.assert_close(model.means[0].half(), halves.mean(0), rtol=0, atol=2e-4)
    torch.testing.assert_close(model.variances[0].half(), halves.var(0), rtol=1e-3, atol=0)


def test_f10_the_score_of_the_worked_example() -> None:
    z, mu, sd = worked()
    parts = published_scores(mu + sd * z, mu, sd)
    sums = parts @ torch.tensor(WEIGHTS, dtype=torch.float64)
    assert int(sums.argmin()) == 164
    assert float(sums.min()) == pytest.approx(3.528208, abs=5e-7)
    ours = score(mu + sd * z[164], mu, sd)
    assert ours.mean == pytest.approx(2.031649, abs=5e-7)
    assert ours.deviation == pytest.approx(1.403743, abs=5e-7)
    assert ours.skew == pytest.approx(0.928159, abs=5e-7)
    assert ours.total(WEIGHTS) == pytest.approx(3.528208, abs=5e-7)


def test_f10_factorised_scores_are_the_published_ones() -> None:
    z, mu, sd = worked()
    sums = totals(measure(z), sd.square()[:, None], WEIGHTS)[:, 0]
    published = published_scores(mu + sd * z, mu, sd) @ torch.tensor(WEIGHTS, dtype=torch.float64)
    torch.testing.assert_close(sums, published, rtol=0, atol=1e-13)
    assert float(sums.mean()) == pytest.approx(4.387847, abs=5e-7)
    assert float(sums.std()) == pytest.approx(0.276451, abs=5e-7)
    assert (int(sums.argmax()), float(sums.max())) == (414, pytest.approx(5.432968, abs=5e-7))


@pytest.mark.parametrize("dimensions", [64, 4096])
def test_f11_the_best_of_512_draws_lies_two_deviations_below_their_mean(dimensions: int) -> None:
    for seed in range(2):
        pool = Pool(10, dimensions, seed)
        tiles = [
            totals(measure(pool.tile(start, 64)), torch.ones(dimensions, 1), WEIGHTS) for start in range(0, 512, 64)
        ]
        sums = torch.cat(tiles)
        assert float(sums.min()) <= float(sums.mean() - 2 * sums.std())
        gain = 1 - float(sums.min() / sums.mean())
        assert (0.1 < gain < 0.3) if dimensions == 64 else (0.015 < gain < 0.035)


@pytest.mark.parametrize(
    ("members", "mean", "deviation", "spread"),
    [
        (2, 45.26, 40.69, 0.65),
        (10, 20.24, 14.96, 0.28),
        (20, 14.31, 10.34, 0.19),
        (50, 9.05, 6.46, 0.12),
        (100, 6.40, 4.54, 0.09),
    ],
)
def test_f12_scores_concentrate(members: int, mean: float, deviation: float, spread: float) -> None:
    pool, ones = Pool(members, 4096, seed=members), torch.ones(4096, 1)
    tiles = [measure(pool.tile(start, 32)) for start in range(0, 96, 32)]
    parts = [torch.cat([totals(tile, ones, only) for tile in tiles]) for only in ((1, 0, 0), (0, 1, 0))]
    assert float(parts[0].mean()) == pytest.approx(mean, rel=0.01)
    assert float(parts[1].mean()) == pytest.approx(deviation, rel=0.01)
    assert float((parts[0] + parts[1]).std()) == pytest.approx(spread, rel=0.15)


def test_f13_a_matched_group_has_its_class_s_mean_and_deviation() -> None:
    z, mu, sd = worked()
    for matched in (standardise(z[0]), antithetic(z[0])):
        parts = score(mu + sd * matched, mu, sd)
        assert parts.mean < 1e-12
        assert parts.deviation is not None
        assert parts.deviation < 1e-12
    assert score(mu + sd * standardise(z[0]), mu, sd).total(WEIGHTS) == pytest.approx(0.0804, abs=5e-5)
    assert antithetic(z[0]).pow(3).mean(0).abs().max() < 1e-12
    assert standardise(z[0]).pow(3).mean(0).abs().max() > 0.1


def test_f13_of_few_members_each_keeps_its_norm() -> None:
    for members in (2, 5, 9):
        noise = torch.randn(members, 4096, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for matched in (standardise(noise), antithetic(noise)):
            assert float(matched.square().mean()) == pytest.approx(1, abs=1e-12)
            parts = score(matched, torch.zeros(4096), torch.ones(4096))
            assert parts.deviation == pytest.approx(64 * ((members / (members - 1)) ** 0.5 - 1), abs=1e-9)


def test_f14_global_noise_couples_classes_and_their_own_does_not() -> None:
    deviations = torch.linspace(0.6, 1.4, 64).expand(12, -1)
    seeds = list(range(100, 112))
    shared = select(models_of(deviations), 10, SelectConfig(group="best_of", noise="global", candidates=600), 5, seeds)
    assert len({group.candidate for group in shared}) == 1
    assert all(torch.equal(group.latents, shared[0].latents) for group in shared)
    own = select(models_of(deviations), 10, SelectConfig(group="best_of", candidates=600), 5, seeds)
    assert len({group.candidate for group in own}) > 3
    noise = torch.stack([(group.latents / deviations[0]).flatten() for group in own])
    related = torch.corrcoef(noise) - torch.eye(12)
    assert float(related.abs().max()) < 0.15  # of 640 numbers each: four deviations of independent ones


@pytest.mark.parametrize("group", ["standardised", "antithetic", "random"])
def test_f14_noise_without_a_search_is_global_or_of_the_class(group: str) -> None:
    models = models_of(torch.ones(3, 32))
    config = SelectConfig(group=group, noise="global")  # type: ignore[arg-type]
    first, second, third = (one.latents for one in select(models, 4, config, 7, [1, 2, 3]))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    config = SelectConfig(group=group)  # type: ignore[arg-type]
    first, second, third = (one.latents for one in select(models, 4, config, 7, [1, 2, 1]))
    assert not torch.equal(first, second)
    assert torch.equal(first, third)


@pytest.mark.parametrize("group", ["standardised", "antithetic", "best_of", "random"])
@pytest.mark.parametrize("members", [1, 2, 3])
def test_f15_small_groups_are_finite(group: str, members: int) -> None:
    config = SelectConfig(group=group, **({"candidates": 50} if group == "best_of" else {}))  # type: ignore[arg-type]
    (chosen,) = select(models_of(torch.full((1, 64), 2.0), mean=3.0), members, config, 0, [4])
    assert chosen.latents.shape == (members, 64)
    assert bool(chosen.latents.isfinite().all())
    total = chosen.scores.total(WEIGHTS)
    assert 0 <= total < 1e3
    if members == 1:
        assert chosen.scores == Scores(chosen.scores.mean, None, None)
        noise = (chosen.latents - 3) / 2
        assert float(noise.square().mean()) == pytest.approx(1, abs=0.5)


def test_f15_the_published_search_takes_two_and_refuses_one() -> None:
    config = SelectConfig(mode="reference", candidates=10_000)
    models = models_of(torch.linspace(0.5, 1.5, 16)[None])
    (chosen,) = select(models, 2, config, 0, [0])
    assert 0 < chosen.scores.total(WEIGHTS) < 10
    with pytest.raises(DistillError, match="mode reference has no group of one image"):
        select(models, 1, config, 0, [0])


@pytest.mark.parametrize(("members", "dimensions", "lots"), [(5, 32, 2), (10, 128, 1)])
def test_reference_groups_are_those_of_the_published_search(members: int, dimensions: int, lots: int) -> None:
    rng = torch.Generator().manual_seed(2)
    mu = (0.2 * torch.randn(4, dimensions, generator=rng)).half()
    sd = (1 + 0.2 * torch.randn(4, dimensions, generator=rng)).square().half().sqrt()
    models = [
        ClassModel(torch.ones(1), mu[c].float()[None], (sd[c].float() ** 2)[None], torch.zeros(0, dimensions))
        for c in range(4)
    ]
    sd = torch.stack([model.variances[0].half().sqrt() for model in models])
    best: list[tuple[float, int, torch.Tensor]] = [(float("inf"), -1, mu)] * 4
    for lot in range(lots):
        z = torch.randn(10_000, members, dimensions, generator=torch.Generator().manual_seed(12345 * lot)).half()
        for c in range(4):
            x = z * sd[c] + mu[c]
            parts = published_scores(x, mu[c], sd[c])
            totals = parts[:, 0] + parts[:, 1] + 0.1 * parts[:, 2]
            place = int(totals.argmin())
            if float(totals[place]) < best[c][0]:
                best[c] = (float(totals[place]), 10_000 * lot + place, x[place])
    groups = select(models, members, SelectConfig(mode="reference", candidates=10_000 * lots), 0, [0] * 4)
    assert [group.candidate for group in groups] == [place for _, place, _ in best]
    for group, (_, _, x) in zip(groups, best, strict=True):
        assert torch.equal(group.latents, x.float())
