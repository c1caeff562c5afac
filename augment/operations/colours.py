"""Operations on colours, which are RGB in [0, 1]. Each does what Kornia's function of that name does, and clamps as it does.

The three at the end, which are not clamped, are DSA's (Zhao and Bilen 2021): their gradient is never cut off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from augment import ranges
from augment.operations.base import Pointwise, Size, Values
from augment.program import ColourStep
from augment.ranges import Range, Value


@dataclass(frozen=True, kw_only=True)
class _Scalar(Pointwise):
    """An operation of one number, drawn from its one range, whose name is the value's too."""

    count: ClassVar[int] = 1

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        (name,) = self.limits
        return {name: self.range_of(name, progress).draw(uniform[:, 0])}


@dataclass(frozen=True, kw_only=True)
class _Factor(_Scalar):
    """An operation by a factor, 1 for no change."""

    limits: ClassVar = {"factor": (0.0, math.inf)}

    factor: Value


@dataclass(frozen=True, kw_only=True)
class Brightness(_Factor):
    """Multiplies colours by a factor. Value: factor."""

    name: ClassVar[str] = "brightness"


@dataclass(frozen=True, kw_only=True)
class Contrast(_Factor):
    """Moves colours away from the image's mean grey by a factor, below 1 towards it. Value: factor."""

    name: ClassVar[str] = "contrast"


@dataclass(frozen=True, kw_only=True)
class Saturation(_Factor):
    """Moves colours away from their own grey by a factor, below 1 towards it. Value: factor."""

    name: ClassVar[str] = "saturation"


@dataclass(frozen=True, kw_only=True)
class Hue(_Scalar):
    """Turns hues by `turns` of the colour circle. Value: turns."""

    name: ClassVar[str] = "hue"
    limits: ClassVar = {"turns": (-0.5, 0.5)}

    turns: Value


@dataclass(frozen=True, kw_only=True)
class Jitter(Pointwise):
    """Changes brightness, contrast, saturation and hue, in an order of each sample's own (ColorJitter of torchvision and Kornia).

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
            setting = getattr(self, name)
            if isinstance(setting, (int, float)) and not isinstance(setting, bool) and setting >= 0:
                setting = Range(max(0.0, 1.0 - setting), 1.0 + setting)
            object.__setattr__(self, name, ranges.read(f"color_jitter.{name}", setting, 0.0, math.inf))
        hue = self.hue
        if isinstance(hue, (int, float)) and not isinstance(hue, bool) and hue >= 0:
            hue = Range(-float(hue), float(hue))
        object.__setattr__(self, "hue", ranges.read("color_jitter.hue", hue, -0.5, 0.5))

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        names = ("brightness", "contrast", "saturation", "hue")
        drawn = {name: self.range_of(name, progress).draw(uniform[:, i]) for i, name in enumerate(names)}
        return drawn | {"order": uniform[:, 4:].argsort(1, kind="stable").astype(np.int8)}

    def step(self, values: Values, on: np.ndarray) -> ColourStep:
        return ColourStep("jitter", on, values)


@dataclass(frozen=True, kw_only=True)
class Gamma(_Scalar):
    """Raises colours to the power of gamma. Value: gamma."""

    name: ClassVar[str] = "gamma"
    limits: ClassVar = {"gamma": (0.01, 100)}

    gamma: Value


@dataclass(frozen=True, kw_only=True)
class Solarize(_Scalar):
    """Inverts colours at or above a threshold in [0, 1]. Value: threshold."""

    name: ClassVar[str] = "solarize"
    limits: ClassVar = {"threshold": (0.0, 1.0)}

    threshold: Value


@dataclass(frozen=True, kw_only=True)
class Posterize(Pointwise):
    """Reduces colours to their highest `bits` of eight; whole numbers, both ends included. Value: bits."""

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
    """Inverts colours: 1 - x."""

    name: ClassVar[str] = "invert"


@dataclass(frozen=True, kw_only=True)
class Grayscale(Pointwise):
    """Replaces colours by their grey, the luma (0.299, 0.587, 0.114) in all three channels."""

    name: ClassVar[str] = "grayscale"


@dataclass(frozen=True, kw_only=True)
class ChannelShuffle(Pointwise):
    """Puts the channels into a random order. Value: order (n, 3), the source of each channel."""

    name: ClassVar[str] = "channel_shuffle"
    count: ClassVar[int] = 3

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return {"order": uniform.argsort(1, kind="stable").astype(np.int8)}


@dataclass(frozen=True, kw_only=True)
class Autocontrast(Pointwise):
    """Stretches each channel to [0, 1]; a flat one, of less than half a level of 255, stays as it is (PIL, torchvision)."""

    name: ClassVar[str] = "autocontrast"


@dataclass(frozen=True, kw_only=True)
class Equalize(Pointwise):
    """Flattens each channel's histogram, in 256 levels."""

    name: ClassVar[str] = "equalize"


@dataclass(frozen=True, kw_only=True)
class BrightnessShift(_Scalar):
    """Adds a shift to colours, not clamped (DSA). Value: shift."""

    name: ClassVar[str] = "brightness_shift"
    limits: ClassVar = {"shift": (-1.0, 1.0)}

    shift: Value


@dataclass(frozen=True, kw_only=True)
class SaturationMean(_Factor):
    """Moves colours away from the mean of their own channels by a factor, not clamped (DSA). Value: factor."""

    name: ClassVar[str] = "saturation_mean"


@dataclass(frozen=True, kw_only=True)
class ContrastMean(_Factor):
    """Moves colours away from the mean of the whole image by a factor, not clamped (DSA). Value: factor."""

    name: ClassVar[str] = "contrast_mean"
