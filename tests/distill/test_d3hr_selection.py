"""Groups for classes: what decides them, the order of their slots, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distill.d3hr import search as searching
from distill.d3hr.config import SelectConfig
from distill.d3hr.models import ClassModel, diagonal, fit, low_rank, mixture
from distill.d3hr.moments import Moments
from distill.d3hr.noise import antithetic, draw, head_order, standardise
from distill.d3hr.search import PublishedPool
from distill.d3hr.selection import Group, allocate, medoid_group, select
from distill.errors import DistillError

BEST = SelectConfig(group="best_of", candidates=200)


def gaussian(dimensions: int = 48, seed: int = 0) -> ClassModel:
    """A diagonal class model with a mean and uneven variances."""
    rng = torch.Generator().manual_seed(seed)
    mean, variance = torch.randn(1, dimensions, generator=rng), 0.5 + torch.rand(1, dimensions, generator=rng)
    return ClassModel(torch.ones(1), mean, variance, torch.zeros(0, dimensions))


def same(first: Group, second: Group) -> bool:
    return torch.equal(first.latents, second.latents) and first.scores == second.scores


def test_a_class_s_group_depends_on_no_other_class() -> None:
    models = [gaussian(seed=seed) for seed in range(4)]
    for config in (SelectConfig(), BEST, replace(BEST, noise="global"), SelectConfig(group="antithetic")):
        together = select(models, 6, config, 3, [10, 11, 12, 13])
        for place, group in enumerate(together):
            assert same(group, select([models[place]], 6, config, 3, [10 + place])[0])


def test_tiles_change_no_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [gaussian(seed=seed) for seed in range(3)]
    published = SelectConfig(mode="reference", candidates=10_000)
    expected = [select(models, 4, config, 3, [0, 1, 2]) for config in (BEST, published)]
    monkeypatch.setattr(searching, "TILE", 48)
    for config, groups in zip((BEST, published), expected, strict=True):
        assert all(same(*pair) for pair in zip(groups, select(models, 4, config, 3, [0, 1, 2]), strict=True))


def test_the_search_finds_the_best_of_all_its_draws() -> None:
    model = gaussian()
    (group,) = select([model], 5, replace(BEST, noise="global"), 3, [0])
    pool = searching.Pool(5, 48, 3)
    deviation = model.variance.double().sqrt()
    totals = []
    for number in range(200):
        members = model.means[0] + deviation * pool.again(number).double()

        totals.append(searching.score(members, model.mean, deviation).total(BEST.weights))
    assert group.candidate == min(range(200), key=totals.__getitem__)
    assert group.scores.total(BEST.weights) == pytest.approx(min(totals), rel=1e-6)


def test_the_seed_of_a_set_decides_its_draws_and_leaves_the_global_generator_alone() -> None:
    models, state = [gaussian()], torch.random.get_rng_state()
    for config in (SelectConfig(), BEST, SelectConfig(mode="reference", candidates=10_000)):
        first = select(models, 4, config, 0, [5])[0]
        assert same(first, select(models, 4, config, 0, [5])[0])
        assert not torch.equal(first.latents, select(models, 4, config, 1, [6])[0].latents)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_published_draws_are_drawn_again_from_the_states_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PublishedPool(3, 8, seed=4)
    drawn = torch.cat([pool.tile(start, 64) for start in range(0, 10_240, 64)])
    whole = torch.randn(10_000, 3, 8, generator=torch.Generator().manual_seed(4)).half().float()
    assert torch.equal(drawn[:10_000], whole)
    second = torch.randn(240, 3, 8, generator=torch.Generator().manual_seed(4 + 12345)).half().float()
    assert torch.equal(drawn[10_000:], second)
    monkeypatch.setattr(searching, "STATES", 1)
    pool.forget(but=torch.tensor([17, 10_009]))
    assert torch.equal(pool.again(17), drawn[17])
    assert torch.equal(pool.again(10_009), drawn[10_009])
    with pytest.raises(KeyError):
        pool.again(500)


def test_every_head_of_ten_is_a_matched_group() -> None:
    noise = torch.randn(50, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = standardise(noise)
    assert float((whole.std(0) - 1).abs().max()) < 1e-12
    for members in (10, 20, 30, 40, 50):
        head = whole[:members]
        assert float(head.mean(0).abs().max()) < 1e-12
        assert float((head.square().mean(0) - 0.98).abs().max()) < 1e-12
    assert standardise(noise[:21]).shape == (21, 32)
    assert float(standardise(noise[:21]).mean(0).abs().max()) < 1e-12


def test_every_even_head_of_opposite_pairs_has_the_mean() -> None:
    whole = antithetic(torch.randn(8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    for members in (2, 4, 6, 8):
        assert float(whole[:members].mean(0).abs().max()) < 1e-12
    odd = antithetic(torch.randn(7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert float(odd.mean(0).abs().max()) < 1e-12
    assert float((odd.square().mean(0) - 1).abs().max()) < 1e-12


@pytest.mark.parametrize("config", [SelectConfig(), BEST, SelectConfig(group="antithetic")])
def test_heads_lie_nearer_to_the_class_than_as_many_draws(config: SelectConfig) -> None:
    model = gaussian(64)
    ours, plain = [], []
    for seed in range(8):
        (group,) = select([model], 10, config, seed, [seed])
        ours.append(float((group.latents[:3].mean(0) - model.mean).norm()))
        noise = draw(3, 64, 1000 + seed) * model.variance.sqrt()
        plain.append(float(noise.mean(0).norm()))
    assert sum(ours) < 0.9 * sum(plain)


def test_heads_are_taken_greedily_within_blocks() -> None:
    members = torch.tensor([[5.0], [-1.0], [0.5], [3.0]])
    assert head_order(members, torch.zeros(1)).tolist() == [2, 1, 3, 0]
    many = torch.randn(25, 4, generator=torch.Generator().manual_seed(0))
    order = head_order(many, torch.zeros(4))
    assert sorted(order[:10].tolist()) == list(range(10))
    assert sorted(order.tolist()) == list(range(25))


def test_a_mixture_gives_each_component_its_share_of_images_and_weights() -> None:
    assert allocate(torch.tensor([0.6, 0.3, 0.1]), 3).tolist() == [0, 1, 2]
    assert allocate(torch.tensor([0.6, 0.3, 0.1]), 6).tolist() == [0, 1, 2, 0, 1, 0]
    with pytest.raises(DistillError, match="each of 3 components takes an image, and there are 2"):
        allocate(torch.ones(3) / 3, 2)
    rng = torch.Generator().manual_seed(0)
    clean = torch.cat([torch.randn(60, 12, generator=rng), 20 + torch.randn(30, 12, generator=rng)])
    config = SelectConfig(class_model="mixture", components=2)
    model = fit(clean * 0.5, clean, 6, config, seed=0)
    assert model.weights.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert float(model.means[1].mean()) == pytest.approx(10, abs=0.3)
    (group,) = select([model], 6, config, 0, [1])
    assert group.components.tolist() == [0, 1, 0, 1, 0, 0]
    assert float(group.weights[group.components == 0].sum()) == pytest.approx(2 / 3)
    assert float(group.weights.sum()) == pytest.approx(1)
    assert group.scores.mean < 1e-5
    (plain,) = select([model], 6, replace(config, group="random"), 0, [1])
    for member, component in zip(plain.latents, plain.components, strict=True):
        assert float((member - model.means[component]).abs().max()) < 3
    assert float((model.variance - (clean * 0.5).var(0)).abs().max()) < 1


def test_a_component_of_one_image_has_the_variance_within_all_of_them() -> None:
    latents = torch.tensor([[0.0], [2.0], [9.0], [50.0]])
    model = mixture(Moments.of(latents, torch.tensor([0, 0, 1, 2])))
    assert model.variances[1:].flatten().tolist() == [2.0, 2.0]
    with pytest.raises(DistillError, match="3 components of 3 images leave nothing"):
        mixture(Moments.of(latents[1:], torch.tensor([0, 1, 2])))
    with pytest.raises(DistillError, match="1 of 4 components have no image"):
        mixture(Moments.of(latents, torch.tensor([0, 0, 1, 2]), 4))


@pytest.mark.parametrize(("images", "dimensions"), [(400, 60), (150, 300)])
def test_low_rank_keeps_planted_directions_and_no_noise(images: int, dimensions: int) -> None:
    rng = torch.Generator().manual_seed(1)
    planted = torch.linalg.qr(torch.randn(dimensions, 2, generator=rng)).Q.T * torch.tensor([[6.0], [5.0]])
    noise = torch.randn(images, dimensions, generator=rng)
    latents = 3 + noise + torch.randn(images, 2, generator=rng) @ planted
    model = low_rank(latents, 10)
    assert len(model.factors) == 2
    overlap = torch.linalg.svdvals(
        torch.nn.functional.normalize(model.factors) @ torch.nn.functional.normalize(planted).T
    )
    assert float(overlap.min()) > 0.8
    torch.testing.assert_close(model.variance, latents.var(0), rtol=1e-5, atol=1e-5)
    assert len(low_rank(noise, 10).factors) == 0
    assert len(low_rank(latents, 1).factors) == 1
    (group,) = select([model], 10, SelectConfig(class_model="low_rank"), 0, [1])
    assert group.scores.mean < 1e-5
    assert group.scores.deviation is not None
    assert group.scores.deviation < 1e-5


def test_medoids_are_real_images_and_weigh_what_they_stand_for() -> None:
    rng = torch.Generator().manual_seed(0)
    clean = torch.cat([torch.randn(30, 2, 4, generator=rng), 9 + torch.randn(10, 2, 4, generator=rng)])
    latents = torch.randn(40, 2, 4, generator=rng)
    model = fit(latents, None, 2, SelectConfig(), 0)
    group = medoid_group(clean, latents, model, 2, seed=0)
    assert group.images is not None
    assert torch.equal(group.latents, latents[group.images].flatten(1))
    assert [int(image) < 30 for image in group.images] == [True, False]
    assert group.weights.tolist() == pytest.approx([0.75, 0.25])
    with pytest.raises(
        DistillError, match="41 medoids need as many images of the class, which has 40; set ipc to 40 or less"
    ):
        medoid_group(clean, latents, model, 41, seed=0)


def test_dimensions_without_variance_stay_at_their_mean() -> None:
    latents = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    latents[:, 3] = 2.5
    for config in (SelectConfig(), BEST, SelectConfig(group="antithetic"), SelectConfig(class_model="low_rank")):
        model = fit(latents, latents, 4, config, 0)
        (group,) = select([model], 4, config, 0, [1])
        assert group.latents[:, 3].tolist() == [2.5] * 4
        assert group.scores.total(config.weights) < 100
    published = SelectConfig(mode="reference", candidates=10_000)
    with pytest.raises(DistillError, match="1 classes have dimensions without variance, the first is class 0"):
        select(diagonal(Moments.of(latents), published), 4, published, 0, [1])


def test_models_survive_a_file_to_the_bit() -> None:
    latents = torch.randn(90, 8, generator=torch.Generator().manual_seed(0))
    for config in (SelectConfig(), SelectConfig(class_model="mixture"), SelectConfig(class_model="low_rank")):
        model = fit(latents, latents, 4, config, 0)
        back = ClassModel.from_arrays(model.arrays())
        assert all(torch.equal(getattr(model, name), getattr(back, name)) for name in model.arrays())
        assert same(select([model], 4, config, 0, [1])[0], select([back], 4, config, 0, [1])[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: select([gaussian()], 0, SelectConfig(), 0, [1]), "one image or more, got 0"),
        (lambda: select([gaussian()], 2, SelectConfig(), 0, []), "got 1 models and 0 seeds"),
        (lambda: select([gaussian()], 2, SelectConfig(group="medoids"), 0, [1]), "call medoid_group"),
        (
            lambda: select([replace(gaussian(), means=torch.full((1, 48), torch.nan))], 2, SelectConfig(), 0, [1]),
            "class model's means are not finite",
        ),
        (
            lambda: select([replace(gaussian(), factors=torch.ones(1, 48))], 2, BEST, 0, [1]),
            "best_of scores draws of a diagonal Gaussian",
        ),
        (
            lambda: diagonal(Moments.of(torch.zeros(1, 3)), SelectConfig()),
            "1 classes have fewer, the first is class 0 with 1",
        ),
        (
            lambda: fit(torch.zeros(3, 2), torch.zeros(3, 2), 4, SelectConfig(class_model="mixture"), 0),
            "mixture of 4 components needs as many images of the class, which has 3",
        ),
        (lambda: fit(torch.zeros(3, 2), None, 4, SelectConfig(class_model="mixture"), 0), "clusters clean latents"),
    ],
)
def test_what_cannot_be_selected_is_refused(call: object, words: str) -> None:
    with pytest.raises(DistillError, match=words):
        call()  # type: ignore[operator]


def test_toy_matched_groups_are_nearer_to_a_gaussian_class_than_searched_and_plain_ones() -> None:
    """A toy: energy distance of groups of ten to their class, 64 dimensions. It orders the ways to choose, and says nothing of images."""
    model = gaussian(64)
    spread = model.variance.sqrt()
    crowd = model.mean + spread * draw(2000, 64, 1)
    within = float(torch.cdist(crowd[:1000], crowd[1000:]).mean())

    def distance(config: SelectConfig) -> float:
        total = 0.0
        for seed in range(10):
            (group,) = select([model], 10, config, 50 + seed, [seed])
            total += (
                2 * float(torch.cdist(group.latents, crowd).mean())
                - float(torch.cdist(group.latents, group.latents).mean())
                - within
            )
        return total / 10

    plain, searched, matched = (distance(config) for config in (SelectConfig(group="random"), BEST, SelectConfig()))
    assert matched < 0.8 * searched < 0.8 * plain
