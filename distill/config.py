"""The parameters of training, labels and recovery, as plain frozen dataclasses. No torch: parameter files need them too.

A wrong value raises `DistillError` when the object is made.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from augment.values import require_values
from distill.errors import DistillError

#: Losses of hard labels.
LossName = Literal["cross_entropy", "balanced_softmax", "logit_adjusted"]


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """The random views of an image, drawn per image and epoch. The published recipes are in `docs/specs/cda.md`.

    `crop`: `none`; `pad` (shift by up to `padding` pixels, black beyond the border: CIFAR's RandomCrop(32, 4)); `resized`
    (RandomResizedCrop with area in `scale` and aspect in 3/4..4/3). `flip` mirrors half of the views. `mix`: `cutmix`
    (Yun et al. 2019, Beta(1, 1)) or `mixup` (Zhang et al. 2018, Beta(0.8, 0.8)) with a partner from the same set. `mix_alpha`
    is the parameter of another Beta. With `siamese` every view is then augmented by one of the six kinds of Zhao and Bilen 2021,
    under which small sets are matched and measured at low resolution (`docs/specs/matching.md`); labels that are stored for every
    view know crops, flips and mixes alone.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    crop: Literal["none", "pad", "resized"] = "pad"
    padding: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    mix: Literal["none", "cutmix", "mixup"] = "none"
    mix_alpha: float | None = None
    siamese: bool = False

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise DistillError(f"scale takes 0 < low <= high <= 1, got {self.scale}")
        if self.padding < 0:
            raise DistillError(f"padding takes pixels from 0 on, got {self.padding}")
        if self.mix_alpha is not None and self.mix_alpha <= 0:
            raise DistillError(f"mix_alpha takes a number above 0, got {self.mix_alpha}")

    @property
    def alpha(self) -> float:
        """The parameter of the symmetric Beta that lambda is drawn from; FKD's values unless set."""
        return self.mix_alpha or {"cutmix": 1.0, "mixup": 0.8, "none": 1.0}[self.mix]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a network's training, teacher or student.

    It sees the images `epochs` times in batches of `batch_size`. The `optimizer` is SGD with `momentum`, or AdamW, at `learning_rate`
    at its highest, with `weight_decay`. `label_smoothing` is the share of a hard label that is spread over all classes. With `ema`, the
    decay of a moving average of the weights, the averaged network is what is measured and kept; 0 averages nothing. Held-out
    accuracy is measured every `evaluate_every` epochs and after the last.

    `schedule`: `cosine` to zero, `half_cosine` (RDED, EDC: 0.5(1 + cos(pi e / 2E)), ends at one half) or `constant`, stepped
    per epoch, after `warmup_epochs` of linear growth from 1 % (SRe2L's Tiny-ImageNet teachers). `decay`: weight decay on
    `all` parameters or on `matrices` only (SRe2L on ImageNet). `temperature` and `t_squared` are for soft labels: SRe2L and
    CDA use KL without the factor T^2 on ImageNet and CIFAR, with it on Tiny-ImageNet. `soft_loss` `mse_gt` is EDC's
    MSE + 0.025 CE.

    `loss`, of hard labels: `balanced_softmax` (Ren et al. 2020) and `logit_adjusted` (Menon et al. 2021, with `tau`) add the logarithm of
    each class's number of images to the logits in training, for classes of very unequal size; tests take the logits as they are.
    `rate_per`: the learning rate changes every `epoch`, or every `step`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epochs: int = 30
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay: Literal["all", "matrices"] = "all"
    schedule: Literal["cosine", "half_cosine", "constant"] = "cosine"
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    ema: float = 0.0
    views: ViewConfig = ViewConfig()
    soft_loss: Literal["kl", "mse_gt"] = "kl"
    temperature: float = 20.0
    t_squared: bool = False
    evaluate_every: int = 1
    loss: LossName = "cross_entropy"
    tau: float = 1.0
    rate_per: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        for name in ("batch_size", "learning_rate", "temperature", "evaluate_every", "tau"):
            if getattr(self, name) <= 0:
                raise DistillError(f"{name} takes a number above 0, got {getattr(self, name)}")
        for name in ("epochs", "warmup_epochs", "weight_decay"):
            if getattr(self, name) < 0:
                raise DistillError(f"{name} takes a number from 0 on, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise DistillError(f"{name} takes 0 <= value < 1, got {getattr(self, name)}")
        if self.epochs and self.warmup_epochs > self.epochs:
            warnings.warn(
                f"warmup_epochs {self.warmup_epochs} outlast epochs {self.epochs}: learning_rate is never reached",
                stacklevel=2,
            )


@dataclass(frozen=True, kw_only=True)
class RecoverConfig:
    """The settings of recovery from a teacher (SRe2L, Yin et al. 2023; CDA, Yin and Shen 2024).

    Adam with `betas` takes `iterations` steps, at a `learning_rate` that falls along a cosine; losses are written every `log_every`
    steps. Each step sees a random crop of the images (`crop`), mirrored in half of the cases (`flip`).
    `mode: reference` is the published arithmetic: its random streams, plain autograd through the statistics, floor at
    the end. `mode: improved` computes the same loss with a closed-form backward and crops as matrices, and rounds.
    `milestone` m: the lower bound of the crop area falls from 1 to `min_scale` over the first m * iterations steps along
    `curriculum`; 0 is SRe2L (no curriculum), 1 is CDA. `r_bn` weighs the statistics, the first layer `first_multiplier`
    times. `jitter` rolls by 0..jitter pixels, or by -jitter..jitter if `jitter_symmetric`. All images
    of a group share a step's view, as published, unless `view_per_image`. Every `residual_every` steps X becomes
    `residual_alpha` X + (1 - `residual_alpha`) X_0 and Adam starts anew (FADRM, Cui et al. 2025; 0: never; needs a real start).
    `precision` is that of the teacher's activations: `auto` is bfloat16 on CUDA and float32 elsewhere; statistics, losses
    and images are float32 in any case. On a CPU bfloat16 halves the time where the processor multiplies it natively
    (AVX512-BF16, AMX) and is slow elsewhere, so it has to be asked for.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Literal["improved", "reference"] = "improved"
    iterations: int = 1000
    learning_rate: float = 0.25
    betas: tuple[float, float] = (0.5, 0.9)
    r_bn: float = 0.01
    first_multiplier: float = 10.0
    milestone: float = 1.0
    curriculum: Literal["cosine", "linear", "step"] = "cosine"
    min_scale: float = 0.08
    crop: bool = True
    flip: bool = True
    jitter: int = 4
    jitter_symmetric: bool = False
    view_per_image: bool = False
    residual_every: int = 0
    residual_alpha: float = 0.5
    log_every: int = 100
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        if self.iterations < 1 or self.log_every < 1:
            raise DistillError(f"iterations and log_every take 1 or more, got {self.iterations} and {self.log_every}")
        for name in ("milestone", "residual_alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise DistillError(f"{name} takes 0 to 1, got {getattr(self, name)}")
        for name in ("learning_rate", "min_scale"):
            if getattr(self, name) <= 0:
                raise DistillError(f"{name} takes a number above 0, got {getattr(self, name)}")
        for name in ("r_bn", "first_multiplier", "jitter", "residual_every"):
            if getattr(self, name) < 0:
                raise DistillError(f"{name} takes a number from 0 on, got {getattr(self, name)}")
        if self.min_scale > 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise DistillError(
                f"min_scale takes up to 1 and betas 0 <= value < 1, got {self.min_scale} and {list(self.betas)}"
            )
        if self.mode == "reference" and self.precision == "bfloat16":
            raise DistillError("mode reference is float32 throughout; set precision to float32 or mode to improved")
        if self.mode == "reference" and self.view_per_image:
            raise DistillError("mode reference has one view per group; set view_per_image to false or mode to improved")
