"""Trainings of long tails: lists of images, losses by class counts, classifiers trained anew, and norms of two kinds of images."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill.config import TrainConfig, ViewConfig
from distill.errors import DistillError
from distill.networks import build
from distill.norms import SplitNorm, logits_by_kind, split_norms
from distill.optimisation import learning_rate
from distill.retraining import freeze_features, to_train_mode
from distill.training import Trainer
from distill.views import apply_views, draw_views
from tests.distill.test_training import STATISTICS, bars

PLAIN = ViewConfig(crop="none", flip=False)


def trainer(config: TrainConfig, model: nn.Module | None = None, **how: object) -> Trainer:
    return Trainer(model or build("convnet2_w8", 2, 16, seed=3), bars(), config, seed=4, **STATISTICS, **how)  # type: ignore[arg-type]


def weights(one: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in one.final.state_dict().items()}


# An epoch's own list


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_a_list_of_every_image_is_the_training_without_a_list(mix: str) -> None:
    config = TrainConfig(epochs=2, batch_size=24, learning_rate=0.05, views=ViewConfig(mix=mix))  # type: ignore[arg-type]
    plain, listed = trainer(config), trainer(config, positions=lambda _epoch: torch.arange(64))
    list(plain.run()), list(listed.run())
    assert all(torch.equal(value, weights(listed)[name]) for name, value in weights(plain).items())


def test_an_epoch_shows_the_images_of_its_list_as_often_as_they_are_in_it() -> None:
    seen: list[torch.Tensor] = []
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 8, 8).contiguous()
    lists = [[0, 0, 0, 5], [2], [1, 3, 4, 4, 4, 1, 3]]

    def look(pixels: torch.Tensor, _epoch: int, _where: slice) -> torch.Tensor:
        seen.append((pixels[:, 0, 0, 0] * 255).round().long())
        return pixels

    one = Trainer(
        build("convnet1_w4_in", 2, 8),
        (images, torch.arange(6) % 2),
        TrainConfig(epochs=3, batch_size=4, views=PLAIN),
        seed=1,
        positions=lists.__getitem__,
        batch_operation=look,
        **STATISTICS,
    )
    for epoch, row in enumerate(one.run()):
        batches, seen[:] = list(seen), []
        steps = -(-len(lists[epoch]) // 4)
        assert sorted(torch.cat(batches[:steps]).tolist()) == sorted(lists[epoch])
        assert row["epoch"] == epoch
    assert one.steps == 1 + 1 + 2


def test_repeated_images_are_samples_with_views_of_their_own() -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rows = torch.tensor([2, 2, 0, 2])
    for mix in ("none", "cutmix", "mixup"):
        views = draw_views(4, 16, ViewConfig(mix=mix), 1, 0, 4)  # type: ignore[arg-type]
        assert torch.equal(apply_views(images, views, None, rows), apply_views(images[rows], views))


@pytest.mark.parametrize(("places", "message"), [([], "at least one"), ([0, 64], "from 0 to 64"), ([-1], "-1")])
def test_a_list_of_nothing_or_of_images_that_are_not_there_is_refused(places: list[int], message: str) -> None:
    with pytest.raises(DistillError, match=message):
        list(trainer(TrainConfig(epochs=1), positions=lambda _epoch: places).run())


def test_stored_labels_do_not_go_with_lists() -> None:
    with pytest.raises(ValueError, match="soft labels are of every image once"):
        trainer(TrainConfig(), positions=lambda _epoch: [0], soft_labels=lambda *_of: torch.zeros(1, 2))


def test_by_step_the_rate_falls_over_the_total_of_steps_whatever_the_epochs_lengths() -> None:
    config = TrainConfig(epochs=3, batch_size=4, learning_rate=0.1, rate_per="step", views=PLAIN)
    lists = [range(20), range(4), range(8)]  # 5 + 1 + 2 steps
    one, rates = trainer(config, positions=lambda epoch: list(lists[epoch])), []
    step = one._optimizer.step

    def noted(*args: object) -> None:
        rates.append(one._optimizer.param_groups[0]["lr"])
        step()

    one._optimizer.step = noted  # type: ignore[method-assign, assignment]
    states = [copy.deepcopy(one.state()) for _ in one.run()]
    assert rates == pytest.approx([learning_rate(config, 3 * done / 8) for done in range(8)])
    resumed = trainer(config, positions=lambda epoch: list(lists[epoch]))
    resumed.load_state(states[0])
    list(resumed.run())
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(one).items())


# Losses


def test_without_counts_those_of_the_data_are_taken_and_tests_are_not_adjusted() -> None:
    images, labels = bars()
    kept = torch.cat([torch.arange(0, 64, 2), torch.arange(1, 8, 2)])  # 32 of class 0, 4 of class 1
    config = TrainConfig(epochs=2, batch_size=9, learning_rate=0.05, loss="balanced_softmax", views=PLAIN)

    def train(config: TrainConfig, counts: list[int] | None) -> Trainer:
        one = Trainer(
            build("convnet2_w8", 2, 16, seed=3),
            (images[kept], labels[kept]),
            config,
            seed=4,
            counts=counts,
            **STATISTICS,
        )
        list(one.run())
        return one

    own, handed, other = train(config, None), train(config, [32, 4]), train(config, [1, 1])
    assert own.history == handed.history
    # Of equal classes balanced softmax is cross-entropy.
    plain = train(TrainConfig(epochs=2, batch_size=9, learning_rate=0.05, views=PLAIN), None)
    assert [row["train_loss"] for row in other.history] == pytest.approx([row["train_loss"] for row in plain.history])
    assert own.history[0]["train_loss"] != other.history[0]["train_loss"]
    # A network that answers nothing has the loss of the shares in training: -(32 log(32/36) + 4 log(4/36)) / 36.
    blank = trainer(TrainConfig(loss="balanced_softmax"), counts=[32, 4])
    shifted = torch.nn.functional.cross_entropy(blank._shifted(torch.zeros(36, 2)), labels[kept])
    assert float(shifted) == pytest.approx(0.3488, abs=1e-4)


# A classifier trained anew


def test_only_the_classifier_is_trained_and_features_stay_as_they_are() -> None:
    model, fresh = build("resnet20_w4", 2, 16, seed=3), build("resnet20_w4", 2, 16, seed=8)
    before = copy.deepcopy(model.state_dict())
    freeze_features(model, fresh)
    assert torch.equal(model.linear.weight, fresh.linear.weight)  # type: ignore[union-attr]
    list(trainer(TrainConfig(epochs=2, batch_size=16), model).run())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"linear.weight", "linear.bias"}  # no running mean either


def test_a_network_of_which_all_is_trained_is_in_train_mode_throughout() -> None:
    model = build("resnet20_w4", 2, 16).eval()
    to_train_mode(model)
    assert all(module.training for module in model.modules())


# Norms of two kinds


def test_each_kind_has_statistics_of_its_own_and_tests_use_those_of_real_images() -> None:
    model = split_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)))
    split = model[1]
    assert isinstance(split, SplitNorm)
    images = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    other = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0], dtype=torch.bool)
    reference = copy.deepcopy(model).train()
    logits = logits_by_kind(model.train(), images, other)
    for kind, norm in ((False, split.main), (True, split.other)):
        alone = copy.deepcopy(reference)
        assert torch.allclose(alone(images[other == kind]), logits[other == kind], atol=1e-6)
        assert torch.allclose(norm.running_mean, alone[1].main.running_mean, atol=1e-6)  # type: ignore[union-attr, arg-type]
    assert not torch.allclose(split.main.running_mean, split.other.running_mean)  # type: ignore[arg-type]
    expected = nn.functional.batch_norm(
        model[0](images), split.main.running_mean, split.main.running_var, split.main.weight, split.main.bias
    )
    assert torch.allclose(model.eval()[1](model[0](images)), expected)


def test_a_lone_image_of_a_kind_goes_with_the_rest() -> None:
    model = split_norms(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)))
    split = model[1]
    assert isinstance(split, SplitNorm)
    logits_by_kind(model.train(), torch.rand(5, 3, 1, 1), torch.tensor([False] * 4 + [True]))
    assert (int(split.main.num_batches_tracked), int(split.other.num_batches_tracked)) == (1, 0)  # type: ignore[arg-type]
    logits_by_kind(model, torch.rand(3, 3, 1, 1), torch.ones(3, dtype=torch.bool))
    assert (int(split.main.num_batches_tracked), int(split.other.num_batches_tracked)) == (1, 1)  # type: ignore[arg-type]


def test_the_trainer_sends_each_kind_through_its_norms_and_resumes_to_the_bit() -> None:
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=0.05, ema=0.9)
    kinds = torch.arange(64) % 3 == 0

    def begun() -> Trainer:
        return trainer(config, split_norms(build("convnet2_w8", 2, 16, seed=3)), other_kind=kinds)

    whole = begun()
    states = [copy.deepcopy(whole.state()) for _ in whole.run()]
    resumed = begun()
    resumed.load_state(states[0])
    list(resumed.run())
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    plain = trainer(config, split_norms(build("convnet2_w8", 2, 16, seed=3)))
    list(plain.run())
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(whole).items())
