"""Operations that read a neighbourhood or write a region."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from augment.errors import PolicyError
from augment.operations.base import Local, Size, Values, read_pair
from augment.ranges import Range, Value


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Local):
    """Blurs by a Gaussian of `sigma` pixels, mirrored at the border. Value: sigma.

    `kernel` is an odd number of pixels, or a share of the shorter side (SimCLR: 0.1).
    """

    name: ClassVar[str] = "gaussian_blur"
    count: ClassVar[int] = 1
    limits: ClassVar = {"sigma": (0.01, 100)}

    sigma: Value = Range(0.1, 2.0)
    kernel: Any = 0.1

    def check(self) -> None:
        whole = (
            isinstance(self.kernel, int) and not isinstance(self.kernel, bool) and self.kernel % 2 and self.kernel > 0
        )
        share = isinstance(self.kernel, float) and 0 < self.kernel < 1
        if not (whole or share):
            raise PolicyError(f"gaussian_blur.kernel takes odd pixels or a share between 0 and 1, got {self.kernel!r}")

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return {"sigma": self.range_of("sigma", progress).draw(uniform[:, 0])}

    def check_size(self, size: Size) -> None:
        if self.ever:
            self.constants(size)

    def constants(self, size: Size) -> dict[str, Any]:
        kernel = self.kernel if isinstance(self.kernel, int) else max(int(self.kernel * min(size)) // 2 * 2 + 1, 3)
        if kernel // 2 >= min(size):
            raise PolicyError(f"gaussian_blur.kernel of {kernel} pixels does not fit an image of {size}")
        return {"kernel": kernel}


@dataclass(frozen=True, kw_only=True)
class Sharpness(Local):
    """Moves away from a smoothed image by `factor`; 1 changes nothing, 0 smooths (PIL's and Kornia's). Value: factor."""

    name: ClassVar[str] = "sharpness"
    count: ClassVar[int] = 1
    limits: ClassVar = {"factor": (0.0, math.inf)}

    factor: Value

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return {"factor": self.range_of("factor", progress).draw(uniform[:, 0])}


@dataclass(frozen=True, kw_only=True)
class Erase(Local):
    """Paints a rectangle of one `value` in [0, 1] over the image (random erasing, Zhong et al. 2020; cutout with ratio 1).

    Values: top, left, height, width in pixels. `scale` is its share of the image, `ratio` width over height, drawn log-uniformly;
    sides are cut to the image's. What it covers counts as cut off: masks are 0 there, points there get visibility 0, and a box of
    which less than `min_visible` is left is dropped; the sides of the others stay. In a chain of augmix it shows through, and
    targets do not notice.
    """

    name: ClassVar[str] = "erase"
    count: ClassVar[int] = 4
    limits: ClassVar = {"scale": (0.0, 1.0)}

    p: Value = Range(0.5, 0.5)
    scale: Value = Range(0.02, 0.33)
    ratio: Any = (0.3, 3.3)
    value: float = 0.0

    def check(self) -> None:
        object.__setattr__(self, "ratio", read_pair("erase.ratio", self.ratio, 1e-2, 1e2))
        if not isinstance(self.value, (int, float)) or not 0 <= self.value <= 1:
            raise PolicyError(f"erase.value takes a colour in 0 to 1, got {self.value!r}")

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        height, width = size
        area = self.range_of("scale", progress).draw(uniform[:, 0]).astype(float) * height * width
        low, high = (math.log(bound) for bound in self.ratio)
        aspect = np.exp(low + (high - low) * uniform[:, 1])
        tall = np.clip(np.rint(np.sqrt(area / aspect)), 0, height)
        wide = np.clip(np.rint(np.sqrt(area * aspect)), 0, width)
        top, left = np.floor(uniform[:, 2] * (height - tall + 1)), np.floor(uniform[:, 3] * (width - wide + 1))
        named = {"top": top, "left": left, "height": tall, "width": wide}
        return {name: column.astype(np.int32) for name, column in named.items()}

    def constants(self, size: Size) -> dict[str, Any]:
        return {"value": float(self.value)}


@dataclass(frozen=True, kw_only=True)
class _Seeded(Local):
    """An operation that draws more than a few numbers, from a seed that is one of its values."""

    count: ClassVar[int] = 2

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return {"seed": (uniform[:, 0] * 2.0**53).astype(np.int64)}


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(_Seeded):
    """Adds normal noise of standard deviation `std`, as a share of full scale, from a seed of the sample's own. Values: seed, std."""

    name: ClassVar[str] = "gaussian_noise"
    limits: ClassVar = {"std": (0.0, 1.0)}

    std: Value = Range(0.05, 0.05)

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return super().draw(uniform, size, progress) | {"std": self.range_of("std", progress).draw(uniform[:, 1])}


@dataclass(frozen=True, kw_only=True)
class Kornia(_Seeded):
    """Runs any other intensity operation of kornia.augmentation by its class name, with Kornia's own arguments.

    It draws, or like RandomPlasmaBrightness draws while it applies, under a forked generator seeded per sample; the seed is
    its record. Geometric ones are refused: boxes, masks and points could not follow. Value: seed.
    """

    name: ClassVar[str] = "kornia"

    operation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        if not isinstance(self.operation, str) or not self.operation.isidentifier():
            raise PolicyError(
                f"kornia.operation takes the name of a class of kornia.augmentation, got {self.operation!r}"
            )

    def constants(self, size: Size) -> dict[str, Any]:
        return {"operation": self.operation, "arguments": dict(self.arguments)}
