"""What an operation is: its settings, how it is drawn, and which segment of a program it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, Self

import numpy as np

from augment import ranges
from augment.errors import PolicyError
from augment.program import ColourStep, Filter, WarpStep
from augment.ranges import Range, Value

Family = Literal["geometric", "colour", "filter"]
Size = tuple[int, int]
Values = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a policy: its settings, read from params.yaml. `p` is the share of samples it is applied to.

    A subclass has a `name` (its word in params.yaml), draws `count` uniform numbers a sample, and names the limits of those of
    its settings that are ranges in `limits`. `draw` turns the numbers into values, for images of a size, and `step` puts values
    into a program. Settings and values are in the units of the class's docstring. A setting that cannot be used raises
    `PolicyError`. docs/add_an_operation.md adds one.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    count: ClassVar[int] = 0
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    #: Whether the operation changes the size of the image, and so must apply to every sample.
    resizes: ClassVar[bool] = False

    p: Value = Range(1.0, 1.0)

    def __post_init__(self) -> None:
        for name, (low, high) in ({"p": (0.0, 1.0)} | dict(self.limits)).items():
            object.__setattr__(self, name, ranges.read(f"{self.name}.{name}", getattr(self, name), low, high))
        for share in (self.p,) if isinstance(self.p, Range) else (self.p.start, self.p.end):
            if share.low != share.high:
                raise PolicyError(f"{self.name}.p takes one probability, got [{share.low:g}, {share.high:g}]")
        if self.resizes and self.p != Range(1.0, 1.0):
            raise PolicyError(f"{self.name} changes the size of an image, so it applies to all of them: leave p at 1")
        self.check()

    def check(self) -> None:
        """Refuse settings that contradict each other."""

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """Read an operation from the words of params.yaml; a `PolicyError` names the word and the nearest one."""
        words = [field.name for field in fields(cls)]
        for word in settings:
            if word not in words:
                near = get_close_matches(str(word), words, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(words)}"
                raise PolicyError(f"{cls.name} does not take {word!r}{hint}")
        for field in fields(cls):
            if field.default is MISSING and field.default_factory is MISSING and field.name not in settings:
                raise PolicyError(f"{cls.name} needs {field.name}")
        arguments: dict[str, Any] = {
            word: tuple(value) if isinstance(value, list) else value for word, value in settings.items()
        }
        return cls(**arguments)

    def range_of(self, name: str, progress: float) -> Range:
        """The range of a setting at `progress` in [0, 1]."""
        return ranges.at(getattr(self, name), progress)

    def gate(self, uniform: np.ndarray, progress: float) -> np.ndarray:
        """(n,) bool: where the operation is on, decided by uniform numbers (n,)."""
        share = self.range_of("p", progress)
        return uniform < share.high

    @property
    def ever(self) -> bool:
        """Whether the operation can be on at all."""
        return max(share.high for share in ((self.p,) if isinstance(self.p, Range) else (self.p.start, self.p.end))) > 0

    def check_size(self, size: Size) -> None:
        """Refuse images of a size that the operation cannot take, whatever is drawn for them."""

    def size_after(self, size: Size) -> Size:
        """Height and width after the operation."""
        return size

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        """Turn (n, count) numbers in [0, 1) into the values of n samples of `size`: arrays of n rows by name."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Geometric(Operation):
    """An operation that moves pixels: boxes, masks and points go with it."""

    family: ClassVar[Family] = "geometric"

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        """The matrices of n samples, the identity for those that are not `on` (n,) bool; `size` is the images' before it."""
        raise NotImplementedError

    def steps(self, values: Values, on: np.ndarray, size: Size) -> tuple[WarpStep, ...]:
        """The operation as steps: `step` alone, unless it takes more than one to say."""
        return (self.step(values, on, size),)


@dataclass(frozen=True, kw_only=True)
class Pointwise(Operation):
    """An operation that changes the colour of a pixel, from that pixel and at most statistics of the image."""

    family: ClassVar[Family] = "colour"

    def step(self, values: Values, on: np.ndarray) -> ColourStep:
        """The step under the operation's own name."""
        return ColourStep(self.name, on, values)


@dataclass(frozen=True, kw_only=True)
class Local(Operation):
    """An operation that reads a neighbourhood, or writes a region."""

    family: ClassVar[Family] = "filter"

    def constants(self, size: Size) -> dict[str, Any]:
        """What is the same for all samples of `size`."""
        return {}

    def step(self, values: Values, on: np.ndarray, size: Size) -> Filter:
        """The filter under the operation's own name."""
        return Filter(self.name, on, values, self.constants(size))


@dataclass(frozen=True, kw_only=True)
class Identity(Operation):
    """Does nothing, as one of the alternatives of a group."""

    name: ClassVar[str] = "identity"
    family: ClassVar[Family] = "geometric"


def read_size(where: str, value: Any) -> Size:
    """Read (height, width) from one integer or two."""
    pair = (value, value) if isinstance(value, int) else value
    if not (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= 1 << 15 for side in pair)
    ):
        raise PolicyError(f"{where} takes pixels, one number or [height, width], got {value!r}")
    return pair[0], pair[1]


def read_pair(where: str, value: Any, low: float, high: float = math.inf) -> tuple[float, float]:
    """Read a plain [low, high] that no schedule moves."""
    bounds = ranges.read(where, value, low, high)
    if not isinstance(bounds, Range) or bounds.signed:
        raise PolicyError(f"{where} takes [low, high], got {value!r}")
    return bounds.low, bounds.high
