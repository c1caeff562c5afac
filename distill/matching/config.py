"""The parameters of matching, as plain frozen dataclasses. No torch: parameter files need them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from augment.values import require_values
from distill.errors import DistillError
from distill.names import ConvNetName, read_name


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The settings of the briefly trained networks that take turns with fresh ones (IDM, Zhao et al. 2023).

    `networks` are trained on the real images by SGD in batches of `batch_size`, at `learning_rate`, with `momentum` and `weight_decay`; a
    network is kept as it is after each number of epochs in `snapshots`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    networks: int = 3
    snapshots: tuple[int, ...] = (1, 3)
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        if self.networks < 0:
            raise DistillError(f"networks takes a whole number from 0 on, got {self.networks}")
        if not self.snapshots or min(self.snapshots) < 1 or list(self.snapshots) != sorted(set(self.snapshots)):
            raise DistillError(f"snapshots takes rising numbers of epochs from 1, got {list(self.snapshots)}")
        for name in ("batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise DistillError(f"{name} takes a number above 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class GradientConfig:
    """The settings of gradient matching (DC, Zhao et al. 2021; IDC, Kim et al. 2022).

    A network goes through `network_steps` iterations, a step of SGD between two: in batches of `batch_size`, at `network_rate`, with
    `network_momentum` and `network_decay`, and `train_on` real images (IDC) or all condensed ones (DC). `learning_rate` is that of the
    images.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    learning_rate: float = 0.1
    network_steps: int = 50
    train_on: Literal["real", "condensed"] = "real"
    batch_size: int = 128
    network_rate: float = 0.01
    network_momentum: float = 0.9
    network_decay: float = 5e-4

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        for name in ("learning_rate", "network_steps", "batch_size", "network_rate"):
            if getattr(self, name) <= 0:
                raise DistillError(f"{name} takes a number above 0, got {getattr(self, name)}")
        if self.network_decay < 0 or not 0 <= self.network_momentum < 1:
            raise DistillError(
                "network_decay takes a number from 0 on and network_momentum 0 <= value < 1, got "
                f"{self.network_decay} and {self.network_momentum}"
            )


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """The settings of trajectory matching (MTT, Cazenavette et al. 2022; DATM, Guo et al. 2024). For graphics cards.

    Each of `experts` is trained on the real images for `epochs` in batches of `expert_batch` at `expert_rate`. The student takes
    `student_steps` on batches of `batch_size` condensed images towards where the expert is `expert_epochs` later; it begins at one of
    `start_epochs`, both ends included, of which the later ones come in over the share `growth` of the iterations. `learning_rate` is that
    of the images; the student's own begins at `student_rate` and is learnt at `student_rate_rate`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    learning_rate: float = 1000.0
    experts: int = 100
    epochs: int = 50
    expert_batch: int = 256
    expert_rate: float = 0.01
    student_steps: int = 50
    batch_size: int = 256
    expert_epochs: int = 2
    start_epochs: tuple[int, int] = (0, 20)
    growth: float = 0.0
    student_rate: float = 0.01
    student_rate_rate: float = 1e-5

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        for name in ("learning_rate", "expert_rate", "student_rate"):
            if getattr(self, name) <= 0:
                raise DistillError(f"{name} takes a number above 0, got {getattr(self, name)}")
        for name in ("experts", "epochs", "expert_batch", "student_steps", "batch_size", "expert_epochs"):
            if getattr(self, name) < 1:
                raise DistillError(f"{name} takes a whole number from 1, got {getattr(self, name)}")
        if self.student_rate_rate < 0 or not 0 <= self.growth <= 1:
            raise DistillError(
                f"student_rate_rate takes a number from 0 on and growth 0 to 1, got {self.student_rate_rate} and {self.growth}"
            )
        low, high = self.start_epochs
        if not 0 <= low <= high <= self.epochs - self.expert_epochs:
            raise DistillError(
                f"start_epochs takes 0 <= first <= last <= epochs - expert_epochs = {self.epochs - self.expert_epochs}, "
                f"got {[low, high]}"
            )


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """The settings of matching, with images stored as tiles (IDC, Kim et al. 2022).

    `objective`: what is matched, the mean `features` of each class (DM, Zhao and Bilen 2023), the `gradients` of the loss (DC, IDC) or
    the `trajectories` of trainings (MTT); the last two have settings of their own, their images' `learning_rate` among them. Of features,
    each of `iterations` takes a `network`, a ConvNet whose last feature map is matched, `real_batch` real images of every class, one
    siamese augmentation for both sides, and a step of SGD with `momentum` at `learning_rate` on the images. Every `pool_every`-th
    network is one of the `pool` of briefly trained ones, all others are fresh; 0 takes fresh ones only, as published. `tiles` f stores
    f x f smaller images in one. The result is the mean of the images over the last share `average` of the iterations; 0 takes those of
    the last one, as published. The loss of every `log_every`-th iteration is written down.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    objective: Literal["features", "gradients", "trajectories"] = "features"
    network: str = "convnet3_w32_in"
    iterations: int = 400
    tiles: int = 2
    real_batch: int = 64
    learning_rate: float = 1.0
    momentum: float = 0.5
    pool_every: int = 2
    pool: PoolConfig = PoolConfig()
    gradients: GradientConfig = GradientConfig()
    trajectories: TrajectoryConfig = TrajectoryConfig()
    average: float = 0.0
    log_every: int = 20

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        for name in ("iterations", "tiles", "real_batch", "log_every"):
            if getattr(self, name) < 1:
                raise DistillError(f"{name} takes a whole number from 1, got {getattr(self, name)}")
        for name in ("momentum", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise DistillError(f"{name} takes 0 <= value < 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.pool_every < 0:
            raise DistillError(
                f"learning_rate takes a number above 0 and pool_every one from 0 on, got {self.learning_rate} and {self.pool_every}"
            )
        if self.pool_every and not self.pool.networks:
            raise DistillError("pool_every takes networks from the pool, and pool.networks is 0; set pool_every to 0")
        network = read_name(self.network)
        if not isinstance(network, ConvNetName):
            raise DistillError(f"matching compares the feature maps of a convnet{{D}}_w{{W}}_in, got {self.network}")
        if self.objective != "features" and not network.instance_norm:
            raise DistillError(
                f"{self.objective} are matched in networks with instance norm, got {self.network}; take {self.network}_in"
            )

    @property
    def couples_classes(self) -> bool:
        """Whether a class depends on what others are condensed to, so that all of a set have to be condensed together."""
        on_condensed = self.objective == "gradients" and self.gradients.train_on == "condensed"
        return self.objective == "trajectories" or on_condensed
