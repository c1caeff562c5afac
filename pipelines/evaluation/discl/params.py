"""Parameters of `evaluate@discl`. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from augment.policy import load
from distill.config import TrainConfig
from pipelines.config import Section
from pipelines.evaluation.discl.arms import ARMS, DEFAULT_ARMS, ArmName
from pipelines.evaluation.students import require_epochs
from pipelines.fields import SOFT_ONLY, Channels, PolicySpec, Spreads, refuse_ignored
from pipelines.networks import NetworkName

#: Strategies of a curriculum; `adaptive` lets a training choose its levels.
Ordered = Literal["diverse_to_specific", "specific_to_diverse", "recursive", "random", "adaptive"]
#: What balanced softmax takes the counts of: the real images of each class, or what a training shows of it.
Prior = Literal["real", "shown"]
_Whose = "each arm's loss is what tells arms apart"


class DisclParams(Section):
    """The students that show what DisCL's images and curriculum are worth on a long tail, beside their controls.

    All students take the same optimiser steps, see as many images and are tested once, after the last epoch. An epoch is that of DisCL's
    mix. Where `strategies`, `min_text_cosine`, `priors` or `tau` name several, each student of an arm that they are about is the best
    of them on validation images.
    """

    profile: str = Field("tail", description="the long tail, a profile of split")
    network: NetworkName = Field("resnet20", description="convnet{D}_w{W}, resnet20, resnet56 or any timm name")
    training: TrainConfig = TrainConfig(epochs=65, learning_rate=0.1, batch_size=128)
    mean: Channels = Field((0.5, 0.5, 0.5), description="per channel, of images in [0, 1]")
    std: Spreads = Field((0.25, 0.25, 0.25), description="per channel, of images in [0, 1]")
    arms: tuple[ArmName, ...] = Field(
        DEFAULT_ARMS, min_length=1, description="what students are trained on and by; each with its baseline, ce or bs"
    )
    seeds: int = Field(5, ge=1, description="students per arm; fewer than 3 is said in the report")
    levels: tuple[Annotated[int, Field(ge=0, lt=100)], ...] | None = Field(
        None, min_length=1, description="guidance levels of the curriculum; null: all that discl made"
    )
    strategies: tuple[Ordered, ...] = Field(
        ("diverse_to_specific",), min_length=1, description="orders of the levels, the best of which an arm has"
    )
    held_out: int = Field(
        8,
        ge=1,
        description="hard images that strategy adaptive measures progress on and does not train on, half of a class at most",
    )
    curriculum: float = Field(
        0.92, ge=0, le=1, description="share of the epochs that the curriculum takes; the rest are on real images"
    )
    downsample: float = Field(1.0, gt=0, le=1, description="share of the images outside the tail that an epoch shows")
    min_text_cosine: tuple[float | None, ...] = Field(
        (None,), min_length=1, description="least score of synthetic images; null: as discl admitted them"
    )
    priors: tuple[Prior, ...] = Field(
        ("shown",), min_length=1, description="counts of balanced softmax with synthetic images"
    )
    tau: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.5, 1.0, 1.5, 2.0), min_length=1, description="of logit adjustment"
    )
    repeat: float | None = Field(
        None, gt=0, le=1, description="share below which a class is repeated; null: that of a balanced set"
    )
    retrain: float = Field(0.1, gt=0, lt=1, description="share of cRT's epochs that train the classifier alone")
    strong: PolicySpec = Field(
        {"preset": "randaugment", "count": 2, "magnitude": 9}, description="a policy of augment: strong augmentation"
    )
    own_generator: str | None = Field(
        None, description="data folder in which discl ran with a generator that was trained on this long tail alone"
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        once = {"evaluate_every": "a student is looked at after its last epoch"}
        own = {"loss": _Whose, "tau": _Whose, "rate_per": "the rate falls step by step"}
        refuse_ignored(raw, "training", {**SOFT_ONLY, **once, **own})
        return raw

    @field_validator("strong")
    @classmethod
    def _strong_is_a_policy(cls, spec: Any) -> Any:
        load(spec)
        return spec

    @model_validator(mode="after")
    def _they_fit_together(self) -> DisclParams:
        require_epochs("training", self.training)
        for name in ("arms", "levels", "strategies", "min_text_cosine", "priors", "tau"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names something twice")
        for arm in self.arms:
            baseline = ARMS[arm].baseline
            if baseline is not None and baseline not in self.arms:
                raise ValueError(f"arms has {arm} and not {baseline}, which it is compared with; add {baseline}")
        if ("own_generator" in self.arms) != (self.own_generator is not None):
            raise ValueError(
                "the arm own_generator and the data folder own_generator go together: give both, or leave both out"
            )
        if "no_curriculum" in self.arms and self.strategies[0] == "adaptive":
            raise ValueError("no_curriculum shows the images of the first of strategies: name one before adaptive")
        if "crt" in self.arms and self.training.epochs < 2:
            raise ValueError(f"crt trains in two parts: training.epochs takes 2 or more, got {self.training.epochs}")
        return self

    @property
    def synthetic(self) -> bool:
        """Whether an arm has synthetic images; without one nothing is read of `discl`."""
        return any(ARMS[arm].images == "family" for arm in self.arms)


PARAMS = DisclParams
