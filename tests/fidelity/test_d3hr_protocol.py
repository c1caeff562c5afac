"""Fidelity of the students' protocol (`docs/specs/d3hr.md`, students): rates, loss, mixing, and a teacher that answers online."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distill.config import TrainConfig, ViewConfig
from distill.labels import online
from distill.losses import kl_loss
from distill.networks import build
from distill.optimisation import learning_rate
from distill.training import Trainer
from pipelines.evaluation.distilled.params import DistilledParams

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
#: D3HR's recipe for ResNets, as parameters.
PUBLISHED = {
    "epochs": 300,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.01,
    "decay": "matrices",
    "schedule": "half_cosine",
    "views": {"crop": "resized", "mix": "cutmix"},
}


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def student_of(
    labels: torch.Tensor, config: TrainConfig, spoil: Callable[[torch.nn.Module], Any] = lambda teacher: teacher
) -> tuple[Trainer, torch.nn.Module]:
    """A student that a teacher labelled online, and the teacher."""
    teacher = build("convnet2_w8", 4, 16, seed=1).eval().requires_grad_(False)
    spoil(teacher)
    student = build("convnet2_w8", 4, 16, seed=2)
    trainer = Trainer(student, (images(len(labels)), labels), config, seed=3, soft_labels=online(teacher), **STATISTICS)
    return trainer, teacher


def test_f17_learning_rates_end_at_one_half() -> None:
    config = DistilledParams.model_validate({"online": PUBLISHED}).online
    for epoch, multiplier in ((0, 1.0), (150, 0.85355), (299, 0.50262)):
        assert learning_rate(config, epoch) / 0.001 == pytest.approx(multiplier, abs=5e-6)
    assert learning_rate(TrainConfig(epochs=300, schedule="cosine", learning_rate=1.0), 299) < 1e-4


def test_f17_kl_at_twenty_is_a_mean_over_the_batch_without_t_squared() -> None:
    """By hand: sum over classes of p (log p - log q), p and q softmaxes of logits / 20, then the mean of the two images."""
    student, teacher = [[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]], [[3.0, 1.0, 0.5], [2.0, -1.0, 0.0]]
    by_hand = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        q, p = ([math.exp(value / 20) for value in row] for row in (ours, theirs))
        q, p = ([value / sum(row) for value in row] for row in (q, p))
        by_hand += sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True)) / 2
    assert by_hand == pytest.approx(0.003494063139, abs=1e-12)
    defaults = DistilledParams().online
    assert (defaults.temperature, defaults.t_squared, defaults.soft_loss) == (20.0, False, "kl")
    tensors = (torch.tensor(rows, dtype=torch.float64) for rows in (student, teacher))
    assert float(kl_loss(*tensors, defaults.temperature, defaults.t_squared)) == pytest.approx(by_hand, abs=1e-12)


def test_f17_cutmix_leaves_the_labels_untouched_and_the_loss_does_not_know_them() -> None:
    views = ViewConfig(crop="resized", mix="cutmix")
    finals = []
    for labels in (torch.arange(12) % 4, torch.zeros(12, dtype=torch.int64)):
        before = labels.clone()
        trainer, _ = student_of(labels, TrainConfig(epochs=2, batch_size=5, learning_rate=0.05, views=views))
        list(trainer.run())
        assert torch.equal(labels, before)
        finals.append(trainer.final.state_dict())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def test_the_teacher_is_asked_in_eval_mode_and_learns_nothing() -> None:
    """What it answers decides the student: another teacher makes another one."""
    labels, config = torch.arange(12) % 4, TrainConfig(epochs=2, batch_size=5, learning_rate=0.05)
    trainer, teacher = student_of(labels, config)
    before = copy.deepcopy(teacher.state_dict())
    list(trainer.run())
    assert not teacher.training
    assert all(torch.equal(before[name], teacher.state_dict()[name]) for name in before)
    other, _ = student_of(labels, config, lambda teacher: teacher.classifier.weight.mul_(3))
    list(other.run())
    weights = [one.final.state_dict()["classifier.weight"] for one in (trainer, other)]
    assert not torch.equal(*weights)


def test_adamw_has_the_published_betas_and_decays_matrices_only() -> None:
    config = DistilledParams.model_validate({"online": PUBLISHED}).online
    trainer, _ = student_of(torch.arange(12) % 4, config)
    decayed, spared = trainer._optimizer.param_groups
    assert decayed["betas"] == spared["betas"] == (0.9, 0.999)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert {weight.ndim for weight in decayed["params"]} == {2, 4}
    assert {weight.ndim for weight in spared["params"]} == {1}


def test_all_arms_see_views_of_one_kind_unless_told_otherwise() -> None:
    params = DistilledParams()
    assert params.online.views == params.hard.views == params.full.views == ViewConfig(crop="pad", mix="none")


def test_validation_is_looked_at_when_asked_and_at_the_end() -> None:
    labels = torch.arange(12) % 4
    config = TrainConfig(epochs=5, batch_size=6, evaluate_every=100)
    model = build("convnet2_w8", 4, 16, seed=2)
    data = (images(12), labels)
    trainer = Trainer(model, data, config, seed=3, validation=data, evaluate_at=(2, 3, 9), **STATISTICS)
    looked = [row["epoch"] for row in trainer.run() if "val_top1" in row]
    assert looked == [1, 2, 4]  # counted from 0
