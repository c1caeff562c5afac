"""Matching of gradients and of trajectories: what an iteration does, what a state goes on to, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from distill.errors import DistillError
from distill.matching.config import GradientConfig, MatchConfig, TrajectoryConfig
from distill.matching.gradients import GradientMatching
from distill.matching.images import ImageMatching
from distill.matching.trajectories import TrajectoryMatching, expert_trainer
from tests.distill.test_matching import MEAN, STD, images, run

SET: dict[str, Any] = {"classes": 3, "mean": MEAN, "std": STD, "seed": 3}
NETWORK: dict[str, Any] = {"network": "convnet2_w4_in", "pool_every": 0, "real_batch": 6}
SHORT = {"experts": 1, "epochs": 3, "expert_batch": 8, "student_steps": 2, "expert_epochs": 1, "start_epochs": (0, 2)}
TRAINING = (images(12, 0), torch.arange(12) % 3)


def started(labels: tuple[int, ...], config: MatchConfig) -> tuple[Any, ...]:
    real = [images(12, label) for label in labels]
    return real, labels, torch.stack([one[: config.tiles**2] for one in real]), config


def by_gradients(labels: tuple[int, ...] = (0, 1, 2), iterations: int = 4, **options: Any) -> GradientMatching:
    gradients = GradientConfig(**{"network_steps": 3, "batch_size": 4, **options})
    config = MatchConfig(objective="gradients", iterations=iterations, gradients=gradients, **NETWORK)
    return GradientMatching(*started(labels, config), training=TRAINING, **SET)


@pytest.fixture(scope="module")
def experts() -> list[list[dict[str, torch.Tensor]]]:
    """One expert, and its weights before and after each of three epochs."""
    config = MatchConfig(objective="trajectories", trajectories=TrajectoryConfig(**SHORT), **NETWORK)  # type: ignore[arg-type]
    trainer = expert_trainer(TRAINING, config, **SET)
    states = [{name: value.clone() for name, value in trainer.model.state_dict().items()}]
    states += [{name: value.clone() for name, value in trainer.model.state_dict().items()} for _ in trainer.run()]
    return [states]


def by_trajectories(experts: Any, labels: tuple[int, ...] = (0, 1, 2), **options: Any) -> TrajectoryMatching:
    settings = TrajectoryConfig(**{**SHORT, "batch_size": 5, "learning_rate": 10.0, **options})  # type: ignore[arg-type]
    config = MatchConfig(objective="trajectories", iterations=4, trajectories=settings, **NETWORK)
    return TrajectoryMatching(*started(labels, config), experts=experts, **SET)


def test_a_step_of_gradient_matching_stays_in_the_frame_and_lowers_the_distance() -> None:
    one = by_gradients(iterations=30, network_steps=1000, network_rate=1e-9, learning_rate=1.0)
    run(one)
    pixels = one.images.detach() * one._spread + one._centre
    assert -1e-6 <= float(pixels.min()) < float(pixels.max()) <= 1 + 1e-6
    assert one.losses[-1][1] < one.losses[0][1]


def test_a_class_does_not_depend_on_the_others_while_networks_see_real_images() -> None:
    together, alone = by_gradients(), by_gradients(labels=(1,))
    assert (run(together).result()[1].int() - run(alone).result()[0].int()).abs().max() <= 1


def test_a_network_is_trained_on_between_two_iterations_and_begins_anew() -> None:
    one, weights = by_gradients(iterations=5), []
    while not one.done:
        one.advance()
        weights.append(one._network.state_dict()["features.0.weight"].clone())
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))
    assert float((weights[1] - weights[0]).abs().max()) < 0.05 < float((weights[3] - weights[2]).abs().max())


def test_networks_trained_on_condensed_images_need_all_classes() -> None:
    condensed, real = by_gradients(train_on="condensed"), by_gradients()
    assert not torch.equal(run(condensed).images, run(real).images)
    with pytest.raises(DistillError, match="needs all 3 classes together, got 1"):
        by_gradients(labels=(1,), train_on="condensed")


def test_students_start_where_the_window_lets_them(experts: Any) -> None:
    one = by_trajectories(experts, growth=0.5)
    assert one.start_epoch(0) == (0, 0)
    assert {one.start_epoch(step)[1] for step in range(2, 40)} == {0, 1, 2}
    assert {by_trajectories(experts, start_epochs=(1, 2)).start_epoch(step)[1] for step in range(40)} == {1, 2}


def test_a_pass_over_the_set_takes_every_image_once(experts: Any) -> None:
    one = by_trajectories(experts, batch_size=4)
    labels = torch.cat([one._student_batch(0, number)[1] for number in range(3)])
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_the_student_learns_its_rate(experts: Any) -> None:
    one = by_trajectories(experts, student_rate_rate=1e-3)
    run(one)
    assert float(one.rate) != pytest.approx(0.01)
    assert float(by_trajectories(experts, student_rate_rate=0.0).rate) == pytest.approx(0.01)


@pytest.mark.parametrize("objective", ["gradients", "trajectories"])
def test_a_state_goes_on_to_the_same_images(objective: str, experts: Any) -> None:
    def new() -> ImageMatching:
        return by_gradients() if objective == "gradients" else by_trajectories(experts)

    whole, first, second = new(), new(), new()
    run(whole)  # type: ignore[arg-type]
    first.advance()
    first.advance()
    second.load_state(first.state())
    run(second)  # type: ignore[arg-type]
    assert torch.equal(whole.images, second.images)
    assert whole.losses == second.losses


def test_what_cannot_be_matched_is_one_sentence(experts: Any) -> None:
    with pytest.raises(DistillError, match="start_epochs takes 0 <= first <= last <= epochs - expert_epochs = 2"):
        by_trajectories(experts, start_epochs=(0, 3))
    with pytest.raises(DistillError, match="trajectories need all 3 classes together"):
        by_trajectories(experts, labels=(0, 1))
    with pytest.raises(DistillError, match="take convnet2_w4_in"):
        MatchConfig(objective="gradients", network="convnet2_w4")
    with pytest.raises(DistillError, match="growth 0 to 1"):
        TrajectoryConfig(growth=2.0)
    with pytest.raises(DistillError, match="network_steps takes a number above 0"):
        GradientConfig(network_steps=0)


def test_the_order_of_an_experts_weights_in_their_file_changes_no_bit(experts: Any) -> None:
    """A safetensors file gives its names in another order each time it is read."""
    shuffled = [[dict(sorted(state.items(), reverse=True)) for state in one] for one in experts]
    one, other = by_trajectories(experts), by_trajectories(shuffled)
    assert [one.advance() for _ in range(3)] == [other.advance() for _ in range(3)]
    assert torch.equal(one.images, other.images)
