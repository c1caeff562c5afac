"""Operations that move pixels, as matrices from input to output pixel; conventions of angle and centre are Kornia's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from augment import ranges
from augment.errors import PolicyError
from augment.operations.base import Geometric, Size, Values, read_pair, read_size
from augment.program import WarpStep
from augment.ranges import Range, Value

_TRIES = 10


def _identity(count: int) -> np.ndarray:
    """(count, 3, 3) identities."""
    matrix = np.zeros((count, 3, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = matrix[:, 2, 2] = 1
    return matrix


def _scale_shift(scale_x: Any, scale_y: Any, shift_x: Any, shift_y: Any, count: int) -> np.ndarray:
    """(count, 3, 3) that map x to scale_x x + shift_x, and y likewise; numbers, or arrays (count,)."""
    matrix = np.zeros((count, 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = scale_x, scale_y, 1
    matrix[:, 0, 2], matrix[:, 1, 2] = shift_x, shift_y
    return matrix


def _where(on: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrices (n, 3, 3), the identity where the operation is not on."""
    return matrix if on.all() else np.where(on[:, None, None], matrix, np.eye(3))


def resize_matrix(count: int, left: Any, top: Any, width: Any, height: Any, size: Size) -> np.ndarray:
    """(count, 3, 3) that stretch a box to an image of `size`: pixel areas are stretched, not the distance of corner pixels."""
    scale_x, scale_y = size[1] / np.asarray(width, float), size[0] / np.asarray(height, float)
    return _scale_shift(
        scale_x, scale_y, (0.5 - np.asarray(left)) * scale_x - 0.5, (0.5 - np.asarray(top)) * scale_y - 0.5, count
    )


@dataclass(frozen=True, kw_only=True)
class ResizedCrop(Geometric):
    """Crops a random area and aspect and resizes it to `size` (Szegedy et al. 2015; torchvision's arithmetic).

    `scale` is the share of the image's area, `ratio` width over height, drawn log-uniformly; ten tries, then the largest
    crop in the middle that `ratio` allows. Values: top, left, height, width in pixels.
    """

    name: ClassVar[str] = "resized_crop"
    count: ClassVar[int] = 2 * _TRIES + 2
    limits: ClassVar = {"scale": (1e-4, 1.0), "ratio": (1e-2, 1e2)}
    resizes: ClassVar[bool] = True

    size: Any
    scale: Value = Range(0.08, 1.0)
    ratio: Value = Range(3 / 4, 4 / 3)

    def check(self) -> None:
        object.__setattr__(self, "size", read_size("resized_crop.size", self.size))

    def size_after(self, size: Size) -> Size:
        return self.size

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        height, width = size
        scale, ratio = self.range_of("scale", progress), self.range_of("ratio", progress)
        if len(uniform) == 1 and (box := self._first_try(uniform[0].tolist(), size, scale, ratio)):
            return {name: np.array([side], np.int32) for name, side in box.items()}
        area = height * width * (scale.low + (scale.high - scale.low) * uniform[:, :_TRIES])
        low, high = math.log(ratio.low), math.log(ratio.high)
        aspect = np.exp(low + (high - low) * uniform[:, _TRIES : 2 * _TRIES])
        widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first = fits.argmax(1)[:, None]
        fitted = fits.any(1)
        wide, tall = np.take_along_axis(widths, first, 1)[:, 0], np.take_along_axis(heights, first, 1)[:, 0]
        if not fitted.all():
            whole_h, whole_w = height, width
            if width / height < ratio.low:
                whole_h = round(width / ratio.low)
            elif width / height > ratio.high:
                whole_w = round(height * ratio.high)
            wide, tall = np.where(fitted, wide, whole_w), np.where(fitted, tall, whole_h)
        top = np.floor(uniform[:, -2] * (height - tall + 1))
        left = np.floor(uniform[:, -1] * (width - wide + 1))
        if not fitted.all():
            top = np.where(fitted, top, (height - tall) // 2)
            left = np.where(fitted, left, (width - wide) // 2)
        return {
            "top": top.astype(np.int32),
            "left": left.astype(np.int32),
            "height": tall.astype(np.int32),
            "width": wide.astype(np.int32),
        }

    def _first_try(self, uniform: list[float], size: Size, scale: Range, ratio: Range) -> dict[str, int] | None:
        """Do `draw`'s arithmetic for one image whose first try fits, number by number: arrays of one cost ten times that."""
        area = size[0] * size[1] * (scale.low + (scale.high - scale.low) * uniform[0])
        low, high = math.log(ratio.low), math.log(ratio.high)
        aspect = float(np.exp(low + (high - low) * uniform[_TRIES]))  # numpy's, to the bit, and not the C library's
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < width <= size[1] and 0 < height <= size[0]):
            return None
        top, left = (
            math.floor(u * (side + 1))
            for u, side in zip(uniform[-2:], (size[0] - height, size[1] - width), strict=True)
        )
        return {"top": top, "left": left, "height": height, "width": width}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        top, left, height, width = (values[side] for side in ("top", "left", "height", "width"))
        clamp = np.stack([left, top, left + width - 1, top + height - 1], 1).astype(float)
        return WarpStep(resize_matrix(len(on), left, top, width, height, self.size), self.size, clamp)


@dataclass(frozen=True, kw_only=True)
class RandomCrop(Geometric):
    """Crops `size` anywhere in the image padded by `padding` pixels of fill on each side. Values: top, left in pixels."""

    name: ClassVar[str] = "random_crop"
    count: ClassVar[int] = 2
    resizes: ClassVar[bool] = True

    size: Any
    padding: int = 0

    def check(self) -> None:
        object.__setattr__(self, "size", read_size("random_crop.size", self.size))
        if not isinstance(self.padding, int) or self.padding < 0:
            raise PolicyError(f"random_crop.padding takes pixels from 0 on, got {self.padding!r}")

    def size_after(self, size: Size) -> Size:
        return self.size

    def _room(self, size: Size) -> list[int]:
        """By how many pixels the crop may move down and to the right."""
        return [side + 2 * self.padding - wanted for side, wanted in zip(size, self.size, strict=True)]

    def check_size(self, size: Size) -> None:
        if min(self._room(size)) < 0:
            raise PolicyError(f"random_crop of {self.size} does not fit an image of {size} padded by {self.padding}")

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        room = self._room(size)
        top, left = (np.floor(uniform[:, axis] * (room[axis] + 1)) - self.padding for axis in (0, 1))
        return {"top": top.astype(np.int32), "left": left.astype(np.int32)}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return WarpStep(_scale_shift(1, 1, -values["left"], -values["top"], len(on)), self.size)


@dataclass(frozen=True, kw_only=True)
class Resize(Geometric):
    """Resizes the whole image to `size`; its aspect may change."""

    name: ClassVar[str] = "resize"
    resizes: ClassVar[bool] = True

    size: Any

    def check(self) -> None:
        object.__setattr__(self, "size", read_size(f"{self.name}.size", self.size))

    def size_after(self, size: Size) -> Size:
        return self.size

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return _resized(len(on), size, self.size)


def _resized(count: int, size: Size, target: Size) -> WarpStep:
    """Resize whole frames of `size` to `target`, their border standing for what is beyond it."""
    clamp = np.tile([0.0, 0.0, size[1] - 1.0, size[0] - 1.0], (count, 1))
    return WarpStep(resize_matrix(count, 0, 0, size[1], size[0], target), target, clamp)


@dataclass(frozen=True, kw_only=True)
class Letterbox(Resize):
    """Resizes the image into the middle of `size` without changing its aspect, fill around it.

    Its size there and the margins are whole pixels: an odd margin leaves the smaller half at the top and left.
    """

    name: ClassVar[str] = "letterbox"

    def steps(self, values: Values, on: np.ndarray, size: Size) -> tuple[WarpStep, ...]:
        scale = min(self.size[0] / size[0], self.size[1] / size[1])
        inner = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
        top, left = (self.size[0] - inner[0]) // 2, (self.size[1] - inner[1]) // 2
        padded = WarpStep(_scale_shift(1, 1, left, top, len(on)), self.size)
        return _resized(len(on), size, inner), padded


@dataclass(frozen=True, kw_only=True)
class CenterCrop(Geometric):
    """Crops the middle `size` of the image, without resizing; an odd margin leaves the smaller half at the top and left."""

    name: ClassVar[str] = "center_crop"
    resizes: ClassVar[bool] = True

    size: Any

    def check(self) -> None:
        object.__setattr__(self, "size", read_size("center_crop.size", self.size))

    def size_after(self, size: Size) -> Size:
        return self.size

    def check_size(self, size: Size) -> None:
        if size[0] < self.size[0] or size[1] < self.size[1]:
            raise PolicyError(f"center_crop of {self.size} does not fit an image of {size}")

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        top, left = (size[0] - self.size[0]) // 2, (size[1] - self.size[1]) // 2
        return WarpStep(_scale_shift(1, 1, -left, -top, len(on)), self.size)


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip(Geometric):
    """Mirrors the image: left and right change places."""

    name: ClassVar[str] = "horizontal_flip"

    p: Value = Range(0.5, 0.5)

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return WarpStep(_where(on, _scale_shift(-1, 1, size[1] - 1, 0, len(on))), size)


@dataclass(frozen=True, kw_only=True)
class VerticalFlip(Geometric):
    """Turns the image upside down: top and bottom change places."""

    name: ClassVar[str] = "vertical_flip"

    p: Value = Range(0.5, 0.5)

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return WarpStep(_where(on, _scale_shift(1, -1, 0, size[0] - 1, len(on))), size)


@dataclass(frozen=True, kw_only=True)
class Affine(Geometric):
    """Turns, scales and shears about the middle of the image, then shifts (kornia.geometry.get_affine_matrix2d).

    `degrees` turns clockwise as displayed, `shear_x` and `shear_y` are degrees, `translate_x` and `translate_y` shares of
    width and height, `scale` is isotropic unless `scale_y` is given. Values: in these units, translation in pixels.
    """

    name: ClassVar[str] = "affine"
    count: ClassVar[int] = 7
    limits: ClassVar = {
        "degrees": (-360, 360),
        "translate_x": (-1, 1),
        "translate_y": (-1, 1),
        "scale": (0.01, 100),
        "shear_x": (-89, 89),
        "shear_y": (-89, 89),
    }

    degrees: Value = Range(0.0, 0.0)
    translate_x: Value = Range(0.0, 0.0)
    translate_y: Value = Range(0.0, 0.0)
    scale: Value = Range(1.0, 1.0)
    scale_y: Value | None = None
    shear_x: Value = Range(0.0, 0.0)
    shear_y: Value = Range(0.0, 0.0)

    def check(self) -> None:
        if self.scale_y is not None:
            object.__setattr__(self, "scale_y", ranges.read(f"{self.name}.scale_y", self.scale_y, 0.01, 100))

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        drawn = {name: self.range_of(name, progress).draw(uniform[:, i]) for i, name in enumerate(self.limits)}
        drawn["translate_x"] *= np.float32(size[1])
        drawn["translate_y"] *= np.float32(size[0])
        drawn["scale_y"] = (
            drawn["scale"] if self.scale_y is None else self.range_of("scale_y", progress).draw(uniform[:, 6])
        )
        return drawn

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return WarpStep(_where(on, affine_matrix(values, size)), size)


def affine_matrix(values: Values, size: Size) -> np.ndarray:
    """(n, 3, 3) of `Affine`'s values for images of `size`: shear, scale and turn about the middle, then shift."""
    drawn = {name: column.astype(float) for name, column in values.items()}
    count = len(drawn["degrees"])
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    angle = np.radians(drawn["degrees"])
    turn = _identity(count)
    turn[:, 0, 0], turn[:, 0, 1] = np.cos(angle) * drawn["scale"], -np.sin(angle) * drawn["scale_y"]
    turn[:, 1, 0], turn[:, 1, 1] = np.sin(angle) * drawn["scale"], np.cos(angle) * drawn["scale_y"]
    shear_x, shear_y = np.tan(np.radians(drawn["shear_x"])), np.tan(np.radians(drawn["shear_y"]))
    shear = _identity(count)
    shear[:, 0, 1], shear[:, 1, 0], shear[:, 1, 1] = -shear_x, -shear_y, 1 + shear_x * shear_y
    to_middle, back = _scale_shift(1, 1, -x, -y, 1), _scale_shift(1, 1, x, y, 1)
    shift = _scale_shift(1, 1, drawn["translate_x"], drawn["translate_y"], count)
    return shift @ back @ turn @ shear @ to_middle


@dataclass(frozen=True, kw_only=True)
class Rotate(Geometric):
    """Turns about the middle, anticlockwise as displayed (kornia.augmentation.RandomRotation). Value: degrees."""

    name: ClassVar[str] = "rotate"
    count: ClassVar[int] = 1
    limits: ClassVar = {"degrees": (-360, 360)}

    degrees: Value

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return {"degrees": self.range_of("degrees", progress).draw(uniform[:, 0])}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return WarpStep(_where(on, affine_matrix(_only(degrees=-values["degrees"]), size)), size)


def _only(**values: np.ndarray) -> Values:
    """The values of `Affine`, neutral except for these."""
    like = next(iter(values.values()))
    neutral = dict.fromkeys(Affine.limits, np.zeros_like(like))
    one = np.ones_like(like)
    return neutral | {"scale": one, "scale_y": one} | values


@dataclass(frozen=True, kw_only=True)
class _Shear(Geometric):
    """A shear by degrees along the axis that its name ends in."""

    count: ClassVar[int] = 1
    limits: ClassVar = {"degrees": (-89, 89)}

    degrees: Value

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        return {"degrees": self.range_of("degrees", progress).draw(uniform[:, 0])}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return WarpStep(_where(on, affine_matrix(_only(**{self.name: values["degrees"]}), size)), size)


@dataclass(frozen=True, kw_only=True)
class ShearX(_Shear):
    """Shifts rows along x by tan(degrees) a row, about the middle. Value: degrees."""

    name: ClassVar[str] = "shear_x"


@dataclass(frozen=True, kw_only=True)
class ShearY(_Shear):
    """Shifts columns along y by tan(degrees) a column, about the middle. Value: degrees."""

    name: ClassVar[str] = "shear_y"


@dataclass(frozen=True, kw_only=True)
class _Translate(Geometric):
    """A shift along one axis, 0 for x and 1 for y, by a share of the side."""

    count: ClassVar[int] = 1
    limits: ClassVar = {"share": (-1, 1)}
    axis: ClassVar[int]

    share: Value

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        side = np.float32(size[1 - self.axis])
        return {"pixels": self.range_of("share", progress).draw(uniform[:, 0]) * side}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        matrix = _identity(len(on))
        matrix[:, self.axis, 2] = values["pixels"]
        return WarpStep(_where(on, matrix), size)


@dataclass(frozen=True, kw_only=True)
class TranslateX(_Translate):
    """Shifts to the right by a share of the width. Value: pixels."""

    name: ClassVar[str] = "translate_x"
    axis: ClassVar[int] = 0


@dataclass(frozen=True, kw_only=True)
class TranslateY(_Translate):
    """Shifts down by a share of the height. Value: pixels."""

    name: ClassVar[str] = "translate_y"
    axis: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Perspective(Geometric):
    """Moves each corner inwards by up to `distortion` of half a side (kornia.augmentation.RandomPerspective, basic).

    Values: corners (n, 8), x and y in pixels by which the corners moved, clockwise from the top left.
    """

    name: ClassVar[str] = "perspective"
    count: ClassVar[int] = 8

    distortion: Any = 0.5

    def check(self) -> None:
        object.__setattr__(self, "distortion", read_pair("perspective.distortion", self.distortion, 0, 1)[1])

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [size[1], size[0]] * self.distortion / 2
        return {"corners": (uniform * inward.reshape(-1)).astype(np.float32)}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        x, y = size[1] - 1.0, size[0] - 1.0
        start = np.array([[0, 0], [x, 0], [x, y], [0, y]])
        moved = np.where(on[:, None], values["corners"].reshape(len(on), 8), 0).reshape(-1, 4, 2)
        return WarpStep(_where(on, homography(start, start + moved)), size)


def homography(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n, 3, 3) that map four points (4, 2) to (n, 4, 2), the last entry 1; in pixels."""
    count = len(end)
    system = np.zeros((count, 8, 8))
    system[:, 0::2, 0:2] = system[:, 1::2, 3:5] = start
    system[:, 0::2, 2] = system[:, 1::2, 5] = 1
    system[:, 0::2, 6:8] = -end[:, :, :1] * start
    system[:, 1::2, 6:8] = -end[:, :, 1:] * start
    solved = np.linalg.solve(system, end.reshape(count, 8, 1))[..., 0]
    return np.concatenate([solved, np.ones((count, 1))], 1).reshape(count, 3, 3)


@dataclass(frozen=True, kw_only=True)
class Roll(Geometric):
    """Shifts in a circle by up to `pixels` each way: the jitter of DeepInversion and SRe2L. Values: down, right in pixels."""

    name: ClassVar[str] = "roll"
    count: ClassVar[int] = 2

    pixels: int

    def check(self) -> None:
        if not isinstance(self.pixels, int) or self.pixels < 0:
            raise PolicyError(f"roll.pixels takes pixels from 0 on, got {self.pixels!r}")

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        shift = np.floor(uniform * (2 * self.pixels + 1)).astype(np.int32) - self.pixels
        return {"down": shift[:, 0], "right": shift[:, 1]}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        shift = np.stack([values["down"], values["right"]], 1) * on[:, None]
        return WarpStep(_identity(len(on)), size, roll=shift)


@dataclass(frozen=True, kw_only=True)
class Shift(Geometric):
    """Shifts by whole pixels, up to a share of each side, fill behind it (CIFAR's padded crop, DSA's crop). Values: down, right."""

    name: ClassVar[str] = "shift"
    count: ClassVar[int] = 2

    share: Any = 0.125

    def check(self) -> None:
        object.__setattr__(self, "share", read_pair("shift.share", self.share, 0, 1)[1])

    def draw(self, uniform: np.ndarray, size: Size, progress: float) -> Values:
        reach = [int(side * self.share + 0.5) for side in size]
        drawn = [np.floor(uniform[:, axis] * (2 * reach[axis] + 1)) - reach[axis] for axis in (0, 1)]
        return {name: column.astype(np.int32) for name, column in zip(("down", "right"), drawn, strict=True)}

    def step(self, values: Values, on: np.ndarray, size: Size) -> WarpStep:
        return WarpStep(_where(on, _scale_shift(1, 1, values["right"], values["down"], len(on))), size)
