"""The parameters of matching, as plain frozen dataclasses. No torch: parameter files need them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

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
class MatchConfig:
    """The settings of distribution matching (DM, Zhao and Bilen 2023), with images stored as tiles (IDC, Kim et al. 2022).

    Each of `iterations` takes a `network`, a ConvNet whose last feature map is matched, `real_batch` real images of every class, one
    siamese augmentation for both sides, and a step of SGD with `momentum` at `learning_rate` on the images. Every `pool_every`-th
    network is one of the `pool` of briefly trained ones, all others are fresh; 0 takes fresh ones only, as published. `tiles` f stores
    f x f smaller images in one. The result is the mean of the images over the last share `average` of the iterations; 0 takes those of
    the last one, as published. The loss of every `log_every`-th iteration is written down.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    network: str = "convnet3_w32_in"
    iterations: int = 400
    tiles: int = 2
    real_batch: int = 64
    learning_rate: float = 1.0
    momentum: float = 0.5
    pool_every: int = 2
    pool: PoolConfig = PoolConfig()
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
        if not isinstance(read_name(self.network), ConvNetName):
            raise DistillError(f"matching compares the feature maps of a convnet{{D}}_w{{W}}_in, got {self.network}")
