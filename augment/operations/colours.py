"""Operations on colours. Images are RGB in [0, 1]; each means Kornia's function of that name and clamps like it.

The unclamped three at the end are DSA's (Zhao and Bilen 2021), which stay differentiable outside [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from augment import ranges
from augment.operations.base import Pointwise, Size, Values
from augment.ranges import Range, Value


@dataclass(frozen=True, kw_only=True)
class _Scalar(Pointwise):
    """One number drawn from one range, whose name is the value's."""

    count: ClassVar[int] = 1

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        (name,) = self.limits
        return {name: self.range_of(name, progress).draw(uniform[:, 0])}


@dataclass(frozen=True, kw_only=True)
class _Factor(_Scalar):
    """A factor, 1 for no change."""

    limits: ClassVar = {"factor": (0.0, math.inf)}

    factor: Value


@dataclass(frozen=True, kw_only=True)
class Brightness(_Factor):
    """Colours times a factor."""

    name: ClassVar[str] = "brightness"


@dataclass(frozen=True, kw_only=True)
class Contrast(_Factor):
    """Colours away from the image's mean grey by a factor."""

    name: ClassVar[str] = "contrast"


@dataclass(frozen=True, kw_only=True)
class Saturation(_Factor):
    """Colours away from their own grey by a factor."""

    name: ClassVar[str] = "saturation"


@dataclass(frozen=True, kw_only=True)
class Hue(_Scalar):
    """Hue moved by `turns` of the colour circle."""

    name: ClassVar[str] = "hue"
    limits: ClassVar = {"turns": (-0.5, 0.5)}

    turns: Value


@dataclass(frozen=True, kw_only=True)
class Jitter(Pointwise):
    """Brightness, contrast, saturation and hue in an order of each sample's own (ColorJitter of torchvision and Kornia).

    A single number b means [max(0, 1 - b), 1 + b], for hue [-h, h]. Values: the three factors, hue in turns, and order (n, 4)
    of 0 brightness, 1 contrast, 2 saturation, 3 hue.
    """

    name: ClassVar[str] = "color_jitter"
    count: ClassVar[int] = 8

    brightness: Any = 0.0
    contrast: Any = 0.0
    saturation: Any = 0.0
    hue: Any = 0.0

    def check(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            given = getattr(self, name)
            if isinstance(given, (int, float)) and not isinstance(given, bool) and given >= 0:
                given = Range(max(0.0, 1.0 - given), 1.0 + given)
            object.__setattr__(self, name, ranges.read(f"color_jitter.{name}", given, 0.0, math.inf))
        hue = self.hue
        if isinstance(hue, (int, float)) and not isinstance(hue, bool) and hue >= 0:
            hue = Range(-float(hue), float(hue))
        object.__setattr__(self, "hue", ranges.read("color_jitter.hue", hue, -0.5, 0.5))

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        names = ("brightness", "contrast", "saturation", "hue")
        drawn = {name: self.range_of(name, progress).draw(uniform[:, i]) for i, name in enumerate(names)}
        return drawn | {"order": uniform[:, 4:].argsort(1, kind="stable").astype(np.int8)}

    def step(self, values: Values, on: np.ndarray) -> Any:
        found = super().step(values, on)
        return type(found)("jitter", on, values)


@dataclass(frozen=True, kw_only=True)
class Gamma(_Scalar):
    """Colours to the power of gamma."""

    name: ClassVar[str] = "gamma"
    limits: ClassVar = {"gamma": (0.01, 100)}

    gamma: Value


@dataclass(frozen=True, kw_only=True)
class Solarize(_Scalar):
    """Colours at or above a threshold in [0, 1] are inverted."""

    name: ClassVar[str] = "solarize"
    limits: ClassVar = {"threshold": (0.0, 1.0)}

    threshold: Value


@dataclass(frozen=True, kw_only=True)
class Posterize(Pointwise):
    """The highest `bits` of eight are kept; whole numbers, both ends included."""

    name: ClassVar[str] = "posterize"
    count: ClassVar[int] = 1
    limits: ClassVar = {"bits": (0, 8)}

    bits: Value

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        bounds = self.range_of("bits", progress)
        low, high = round(bounds.low), round(bounds.high)
        return {"bits": (low + np.floor(uniform[:, 0] * (high - low + 1))).astype(np.int32)}


@dataclass(frozen=True, kw_only=True)
class Invert(Pointwise):
    """1 - x."""

    name: ClassVar[str] = "invert"


@dataclass(frozen=True, kw_only=True)
class Grayscale(Pointwise):
    """Luma (0.299, 0.587, 0.114) in all three channels."""

    name: ClassVar[str] = "grayscale"


@dataclass(frozen=True, kw_only=True)
class ChannelShuffle(Pointwise):
    """Channels in a random order. Value: order (n, 3), the source of each channel."""

    name: ClassVar[str] = "channel_shuffle"
    count: ClassVar[int] = 3

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return {"order": uniform.argsort(1, kind="stable").astype(np.int8)}


@dataclass(frozen=True, kw_only=True)
class Autocontrast(Pointwise):
    """Each channel stretched to [0, 1]; a flat one, of less than half a level of 255, stays as it is (PIL, torchvision)."""

    name: ClassVar[str] = "autocontrast"


@dataclass(frozen=True, kw_only=True)
class Equalize(Pointwise):
    """Each channel's histogram flattened, in 256 levels."""

    name: ClassVar[str] = "equalize"


@dataclass(frozen=True, kw_only=True)
class BrightnessShift(_Scalar):
    """x + shift, not clamped (DSA)."""

    name: ClassVar[str] = "brightness_shift"
    limits: ClassVar = {"shift": (-1.0, 1.0)}

    shift: Value


@dataclass(frozen=True, kw_only=True)
class SaturationMean(_Factor):
    """Away from the mean of a pixel's channels by a factor, not clamped (DSA)."""

    name: ClassVar[str] = "saturation_mean"


@dataclass(frozen=True, kw_only=True)
class ContrastMean(_Factor):
    """Away from the mean of the whole image by a factor, not clamped (DSA)."""

    name: ClassVar[str] = "contrast_mean"
