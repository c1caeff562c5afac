"""A generator's adapter, a classifier and a family's model that diverged end in one sentence each, never in a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from synth.backends import wrap
from synth.datadream.accuracy import classifier_accuracy
from synth.datadream.adapt import Adaptation
from synth.datadream.config import AdaptConfig, FitConfig
from synth.datadream.fit import fit
from synth.datadream.lora import LoraSet
from synth.errors import SynthError
from synth.family.config import AutoencoderBudget, Budget, ClipBudget, Shape
from synth.family.training import Fit
from synth.filtering.deciding import Thresholds
from synth.settings import Cads, Settings
from tests.synth import making
from tests.synth.datadream.clips import tiny_classifier
from tests.synth.datadream.test_adapt import subject, trained
from tests.synth.datadream.test_fit import as_they_are, colours

NAN, INF = float("nan"), float("inf")


def adapt(**config: Any) -> None:
    trained(
        LoraSet(wrap(making.sd())), subject("dog"), AdaptConfig(**{"rank": 2, "steps": 4, "batch_size": 2, **config})
    )


def broken_generator() -> None:
    pipeline = making.sd()
    pipeline.unet.conv_in.weight.data.fill_(NAN)
    Adaptation(LoraSet(wrap(pipeline)), subject("dog"), AdaptConfig(rank=2, steps=4, batch_size=2)).advance()


def classify(**config: Any) -> None:
    told: list[Any] = []
    chosen = FitConfig(**{"epochs": 2, "warmup_epochs": 0, "batch_size": 16, **config})
    try:
        fit(
            tiny_classifier(), colours(8, 1), None, colours(8, 3), chosen, views=as_they_are, report=told.append,
            checkpoint=told.append,
        )  # fmt: skip
    finally:
        assert not told


def broken_classifier() -> None:
    classifier = tiny_classifier()
    classifier.model.visual_projection.weight.data.fill_(NAN)
    classifier_accuracy(classifier, colours(8, 1))


class Part(nn.Module):
    """A model of a family: one weight whose square is the loss."""

    name = "toy"

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.ones(1)), factor

    def model(self) -> nn.Module:
        return self

    def frozen(self, step: int) -> tuple[str, ...]:
        return ()

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:  # type: ignore[override]
        return self.factor * self.weight.square().sum(), {}


def family(rate: float, steps: int, factor: float = 1.0) -> None:
    Fit(Part(factor), Budget(steps=steps, batch=1, rate=rate, warmup=0, low_precision=False), 0).run()


WAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "an adapter's rate": (lambda: adapt(learning_rate=1e30, warmup_steps=0), r"'dog' diverged.*lower learning_rate"),
    "an adapter's rate, in its only step": (
        lambda: adapt(learning_rate=1e30, steps=1, warmup_steps=0, weight_decay=1.0),
        r"'dog' diverged.*its loss ended at.*lower",
    ),
    "a broken generator": (broken_generator, "first prediction is no finite number; its weights are broken"),
    "a classifier's rate": (lambda: classify(learning_rate=1e30), r"classifier diverged.*epoch 1 of 2; lower learning_rate"),
    "a classifier's weights": (broken_classifier, "not finite numbers"),
    "a family's rate": (lambda: family(1e30, 4), "toy diverged: its loss is no finite number at step 2 of 4; lower its rate"),
    "a family's loss": (lambda: family(1e-3, 4, NAN), "toy diverged.*step 1 of 4"),
    "a family's finite numbers": (lambda: family(1e6, 4), "toy diverged: its loss, which began at 1, is"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_in_one_sentence(way: str) -> None:
    act, sentence = WAYS[way]
    with pytest.raises(SynthError, match=sentence) as raised:
        act()
    assert "\n" not in str(raised.value)


KINDS = (AdaptConfig, FitConfig, Settings, Cads, Thresholds, Shape, AutoencoderBudget, ClipBudget)
FIELDS = [(kind, field.name) for kind in KINDS for field in fields(kind)]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in FIELDS])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_parameter_is_nan_or_infinite(kind: type, name: str, value: float) -> None:
    held = getattr(kind(), name)
    bad = (value, *held[1:]) if isinstance(held, tuple) else value
    with pytest.raises(SynthError, match=name):
        kind(**{name: bad})


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptConfig(alpha=0),
        lambda: AdaptConfig(alpha=-4),
        lambda: AdaptConfig(warmup_steps=-5),
        lambda: AdaptConfig(min_snr=0.0),
        lambda: AdaptConfig(min_snr=-1.0),
        lambda: AdaptConfig(weight_decay=-1.0),
        lambda: AdaptConfig(rank=2.5),  # type: ignore[arg-type]
        lambda: AdaptConfig(size=0),
        lambda: FitConfig(learning_rate=-1.0),
        lambda: FitConfig(learning_rate=0.0),
        lambda: FitConfig(warmup_epochs=-2),
        lambda: FitConfig(floor=1.0),
        lambda: FitConfig(weight_decay=-1.0),
        lambda: Settings(steps=2.5),  # type: ignore[arg-type]
        lambda: Settings(grounded=2.0),
        lambda: Settings(size=(0, 64)),
        lambda: Budget(steps=0, batch=1, rate=1.0),
        lambda: Budget(steps=1, batch=1, rate=1.0, averaged=1.0),
        lambda: Shape(vae=()),
    ],
)
def test_an_impossible_value_is_refused_when_it_is_given(make: Callable[[], Any]) -> None:
    with pytest.raises(SynthError, match="takes"):
        make()
