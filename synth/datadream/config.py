"""The parameters of DataDream's two trainings, as plain frozen dataclasses. No torch: parameter files need them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from augment.values import require_values
from synth.datadream.schedules import adaptation_steps, warmup_cosine
from synth.errors import SynthError

Mode = Literal["improved", "reference"]
Crop = Literal["random", "center"]


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """The settings of an adapter's training; the defaults are the published numbers.

    LoRA of `rank` is trained in batches of `batch_size` at `learning_rate`, reached after `warmup_steps`, with AdamW's
    `weight_decay` and gradients of a norm up to `clip`. `crop`: where the square is cut from a picture, at random or from the
    middle. `mode: reference` follows the released code where `improved` mends it. `alpha` None is the rank. `steps` None
    follows from `epochs`. `train_text`: the CLIP text encoders too. `size` None is the model's native side in pixels. `crops`
    of an image that is not square are cached (improved only). `min_snr` (gamma; Hang et al. 2023) and `noise_offset` are off as
    published.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Mode = "improved"
    rank: int = 16
    alpha: int | None = None
    learning_rate: float = 1e-4
    warmup_steps: int = 100
    epochs: int = 200
    steps: int | None = None
    batch_size: int = 8
    weight_decay: float = 1e-2
    clip: float = 1.0
    train_text: bool = True
    size: int | None = None
    crop: Crop = "random"
    crops: int = 4
    min_snr: float | None = None
    noise_offset: float = 0.0

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        for name in ("rank", "epochs", "batch_size", "crops", "alpha", "steps", "size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SynthError(f"{name} takes a whole number from 1, got {value}")
        for name in ("learning_rate", "clip", "min_snr"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise SynthError(f"{name} takes a number above 0, got {value}")
        for name in ("warmup_steps", "weight_decay", "noise_offset"):
            if getattr(self, name) < 0:
                raise SynthError(f"{name} takes a number from 0 on, got {getattr(self, name)}")

    @classmethod
    def loft(cls, **changes: Any) -> AdaptConfig:
        """Return LoFT's settings (2025): an adapter for each image, rank 2, 600 steps of one image, the text encoder left alone."""
        numbers = {"rank": 2, "learning_rate": 1e-3, "steps": 600, "batch_size": 1, "warmup_steps": 10}
        return cls(**{**numbers, "train_text": False, "crop": "center", **changes})

    def total_steps(self, images: int) -> int:
        """Return the number of optimiser steps for so many `images`."""
        return self.steps or adaptation_steps(images, self.batch_size, self.epochs)

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of `step`, from 0, of `total`."""
        warmup = self.warmup_steps if self.mode == "reference" else min(self.warmup_steps, total // 10)
        return self.learning_rate * warmup_cosine(step, warmup, total)


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """The settings of the classifier's training; the defaults are the published numbers where there are any.

    AdamW with `weight_decay` sees batches of `batch_size`. The rate rises from `floor` to `learning_rate` over `warmup_epochs`, and falls
    back along half a cosine. Validation is looked at every `evaluate_every` epochs and after the last.

    `real_weight` is lambda_1, used where there are both kinds of images; `mix` the share of batches under CutMix or MixUp. `epochs`
    was tuned by data set; 50 is what the authors' users ran. `mode: reference` shuffles all items in one order, so that a batch may
    lack a kind, leaves real images out where there are fewer synthetic ones, and tosses one coin a batch for mixing, in pairs by
    rolling (`pooled.mixed`); `improved` tosses one for each kind and pairs at random, gives every batch its share of both (a lambda
    that is missing in some batches is not the lambda that was asked for), and keeps at least one of each real image.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Mode = "improved"
    epochs: int = 50
    warmup_epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-4
    floor: float = 1e-8
    weight_decay: float = 1e-4
    real_weight: float = 0.8
    mix: float = 0.2
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        for name in ("epochs", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise SynthError(f"{name} takes a whole number from 1, got {getattr(self, name)}")
        for name in ("warmup_epochs", "weight_decay", "floor"):
            if getattr(self, name) < 0:
                raise SynthError(f"{name} takes a number from 0 on, got {getattr(self, name)}")
        if not self.learning_rate > self.floor:
            raise SynthError(f"learning_rate takes a number above floor {self.floor}, got {self.learning_rate}")
        for name in ("real_weight", "mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise SynthError(f"{name} takes 0 to 1, got {getattr(self, name)}")
