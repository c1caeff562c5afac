"""A network that diverged is never a result: every way to make one ends in a sentence that says what is at fault."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from distill.accuracy import accuracy_and_loss
from distill.cda import recover
from distill.compression import pack
from distill.config import RecoverConfig, TrainConfig, ViewConfig
from distill.errors import DivergedError
from distill.labels import label_epoch
from distill.networks import build
from distill.soundness import class_order_fault, fault_of
from distill.training import Trainer
from tests.distill.test_training import STATISTICS, bars

NAN, INF = float("nan"), float("inf")


def spoilt(name: str, value: float, network: str = "convnet2_w8") -> nn.Module:
    """A network of which one tensor holds `value` in one place."""
    model = build(network, 2, 16, seed=3).eval().requires_grad_(False)
    model.state_dict()[name].view(-1)[0] = value
    return model


def train(model: nn.Module | None = None, soft: Any = None, **config: Any) -> Trainer:
    data, chosen = bars(), TrainConfig(**{"epochs": 3, "batch_size": 16, **config})
    one = Trainer(model or build("convnet2_w8", 2, 16, seed=3), data, chosen, seed=4, soft_labels=soft, **STATISTICS)
    list(one.run())
    return one


def recovered(teacher: nn.Module, **config: Any) -> None:
    chosen = RecoverConfig(**{"iterations": 4, "log_every": 2, "jitter": 0, **config})
    recover(teacher, torch.tensor([0, 1]), chosen, seeds=[1], image_size=16, **STATISTICS)


class Blows(nn.Module):
    """Answers with what grows past every float at the wanted step, while its one weight stays sound."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.weight * images.flatten(1)[:, :2] * INF


#: What is done, and what the sentence names.
WAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "a loss that overflows": (lambda: train(Blows()), r"epoch 1, step 1; lower learning_rate \(now 0.1"),
    "a rate that explodes": (lambda: train(learning_rate=1e12), "diverged.*lower learning_rate"),
    "a rate that explodes without batch norm": (
        lambda: train(build("convnet2_w8_in", 2, 16), learning_rate=1e20),
        "diverged.*lower learning_rate",
    ),
    "a rate that explodes in the only step": (
        lambda: train(learning_rate=1e30, epochs=1, batch_size=64),
        "its loss ended at (inf|nan).*lower learning_rate",
    ),
    "finite numbers that mean nothing": (
        lambda: train(build("convnet2_w8_in", 2, 16), learning_rate=1e4, optimizer="adamw", weight_decay=0.0),
        "without an opinion",
    ),
    "AdamW": (lambda: train(learning_rate=1e30, optimizer="adamw"), "diverged"),
    "an average of weights": (lambda: train(learning_rate=1e20, ema=0.9), "diverged"),
    "soft labels that are none": (
        lambda: train(soft=lambda _e, _v, batch, _w: torch.full((len(batch), 2), NAN)),
        "their teacher is at fault",
    ),
    "soft labels by EDC's loss": (
        lambda: train(soft=lambda _e, _v, batch, _w: torch.full((len(batch), 2), INF), soft_loss="mse_gt"),
        "their teacher is at fault",
    ),
    "a network given with NaN": (lambda: train(spoilt("classifier.weight", NAN).requires_grad_(True)), "diverged"),
    "answers of NaN": (
        lambda: accuracy_and_loss(spoilt("classifier.bias", NAN), *bars(8), **STATISTICS),
        "classifier.bias",
    ),
    "labels of a broken teacher": (
        lambda: label_epoch(
            spoilt("classifier.weight", INF), bars()[0], ViewConfig(), seed=1, epoch=0, batch_size=8, **STATISTICS
        ),
        "the teacher is broken",
    ),
    "labels past half precision": (lambda: pack(torch.tensor([[7e4, 0.0]]), "fp16"), "half precision"),
    "labels of 8 bits": (lambda: pack(torch.tensor([[NAN, 0.0]]), "int8"), "finite"),
    "recovery from NaN weights": (lambda: recovered(spoilt("features.0.weight", NAN)), "teacher is broken.*features.0"),
    "recovery from an infinite variance": (
        lambda: recovered(spoilt("features.1.running_var", INF)),
        "teacher is broken.*features.1.running_var",
    ),
    "recovery from a negative variance": (
        lambda: recovered(spoilt("features.1.running_var", -1.0)),
        "teacher is broken.*negative variance",
    ),
    "recovery from answers that overflow": (
        lambda: recovered(spoilt("features.0.weight", 3e38)),
        "the teacher is at fault",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_in_one_sentence(way: str) -> None:
    act, sentence = WAYS[way]
    with pytest.raises(DivergedError, match=sentence) as raised:
        act()
    assert "\n" not in str(raised.value)


def test_images_that_diverge_are_not_blamed_on_the_teacher() -> None:
    """The last step has no loss after it: the images themselves are looked at."""
    teacher = build("convnet2_w8", 2, 16, seed=3).eval().requires_grad_(False)
    real, calls = teacher.forward, [0]

    def forward(images: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        logits: torch.Tensor = real(images)
        return logits * (INF if calls[0] == 3 else 1)

    teacher.forward = forward  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"images diverged by step 4 of 4: lower learning_rate .* or r_bn"):
        recovered(teacher)


def test_no_epoch_of_a_diverged_training_is_told_or_kept() -> None:
    model, told = build("convnet2_w8", 2, 16, seed=3), []
    one = Trainer(
        model, bars(), TrainConfig(epochs=5, batch_size=16, learning_rate=1e12), seed=4, validation=bars(), **STATISTICS
    )
    epochs = one.run()
    with pytest.raises(DivergedError):  # noqa: PT012 - some of them may be sound
        while True:
            told.append(next(epochs))
            assert fault_of(one.final) is None
    assert len(told) < 5
    assert all(math.isfinite(float(value)) for row in told for value in row.values())


def test_a_hard_start_that_comes_right_is_no_divergence() -> None:
    one = trainer_from_far()
    rows = list(one.run())
    assert rows[0]["train_loss"] > 100
    assert rows[-1]["train_loss"] < 1


def trainer_from_far() -> Trainer:
    """Its first answers are hundreds of times too large."""
    model = build("convnet2_w8", 2, 16, seed=3)
    with torch.no_grad():
        model.classifier.weight.mul_(1e5)  # type: ignore[operator, union-attr]
    config = TrainConfig(epochs=40, batch_size=16, learning_rate=0.2, views=ViewConfig(crop="none", flip=False))
    return Trainer(model, bars(), config, seed=4, **STATISTICS)


CONFIGS = [(kind, field.name) for kind in (TrainConfig, RecoverConfig, ViewConfig) for field in fields(kind)]


@pytest.mark.parametrize(("kind", "name"), CONFIGS, ids=[f"{kind.__name__}.{name}" for kind, name in CONFIGS])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_parameter_is_nan_or_infinite(kind: type, name: str, value: float) -> None:
    """Every comparison lets NaN through, so every field is tried."""
    held = getattr(kind(), name)
    bad = (value, *held[1:]) if isinstance(held, tuple) else value
    with pytest.raises(ValueError, match=name):
        kind(**{name: bad})


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 2.5), ("batch_size", 2.5), ("batch_size", True), ("ema", "0.9")]
)
def test_a_number_of_another_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} takes a"):
        TrainConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("std", [0.0, -1.0, NAN, INF])
def test_images_are_divided_by_no_such_deviation(std: float) -> None:
    bad: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25, std, 0.25)}
    model = build("convnet2_w8", 2, 16).eval().requires_grad_(False)
    acts: list[Callable[[], Any]] = [
        lambda: Trainer(model, bars(), TrainConfig(epochs=1), seed=0, **bad),
        lambda: accuracy_and_loss(model, *bars(8), **bad),
        lambda: recover(model, torch.tensor([0]), RecoverConfig(iterations=1), seeds=[1], image_size=16, **bad),
    ]
    for act in acts:
        with pytest.raises(ValueError, match="std takes finite numbers above 0"):
            act()


@pytest.mark.parametrize(("labels", "sentence"), [(-1, "from 0"), (-100, "from 0"), (5, "classes 0 to 1")])
def test_labels_are_classes_that_the_network_knows(labels: int, sentence: str) -> None:
    """-100 is what torch leaves out of a loss without a word."""
    images, known = bars()
    with pytest.raises(ValueError, match=sentence):
        list(
            Trainer(
                build("convnet2_w8", 2, 16), (images, known.clamp(min=labels) if labels > 0 else known * 0 + labels),
                TrainConfig(epochs=1), seed=0, **STATISTICS,
            ).run()
        )  # fmt: skip


def test_nothing_is_no_test_set() -> None:
    images, labels = bars(8)
    with pytest.raises(ValueError, match="no image"):
        accuracy_and_loss(build("convnet2_w8", 2, 16), images[:0], labels[:0], **STATISTICS)


def _few_of_each(classes: int, right: int) -> list[list[int]]:
    """One image of each class, the first ones taken for what they are, all others each for another class of its own."""
    rest = classes - right
    taken = [*range(right), *(right + (place + 1) % rest for place in range(rest))]
    return [[int(column == taken[row]) for column in range(classes)] for row in range(classes)]


@pytest.mark.parametrize(
    ("confusion", "sentence"),
    [
        ([[0, 9, 1], [1, 0, 9], [9, 1, 0]], "class order"),
        ([[9, 1, 0], [0, 1, 9], [1, 8, 1]], "class order"),
        ([[40, 30, 30], [30, 35, 35], [33, 33, 34]], "chance accuracy"),
        ([[10, 0, 0], [10, 0, 0], [10, 0, 0]], "chance accuracy"),
        ([[60, 20, 20], [20, 60, 20], [20, 20, 60]], None),
        ([[2, 0], [0, 2]], None),
        ([[80, 10], [2, 8]], None),  # right less often than whoever names the first class, and knows both
        ([[90, 0], [10, 0]], "chance accuracy"),
        ([[7]], None),
        (_few_of_each(40, right=12), None),
    ],
)
def test_foreign_weights_of_another_class_order_are_known_by_their_confusion(
    confusion: list[list[int]], sentence: str | None
) -> None:
    told = class_order_fault(torch.tensor(confusion))
    assert told is None if sentence is None else sentence in str(told)
