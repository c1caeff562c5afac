"""Colours of the CPU path: affine maps of a pixel's colour are composed into one pass, functions of one channel are one table.

A map is own x + grey luma(x) + mean mean(x) + shift, with the same four numbers for all channels. Two in a row make a third by a
few multiplications; small matrices would take longer than the pixels of a small image. A map is carried out at once where
Kornia's clamp after it can bite, so that it saturates there; others wait to be composed with the next, as those of DSA do (Zhao
and Bilen 2021), which are not clamped. Contrast takes the mean that the image has at that point.

For example saturation 0.5 is (0.5, 0.5, 0, 0), half the pixel and half its grey. Invert, (-1, 0, 0, 255), after it is
(-0.5, -0.5, 0, 255).

>>> _composed((-1.0, 0.0, 0.0, 255.0), (0.5, 0.5, 0.0, 0.0))
(-0.5, -0.5, 0.0, 255.0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from augment.cpu_warp import Call, CallLists
from augment.program import Colour

Values = dict[str, Any]
Target = np.ndarray | None
#: own, grey, mean, shift, see above; shift in levels.
Map = tuple[float, float, float, float]
_LUMA = (0.299, 0.587, 0.114)
_JITTER = ("brightness", "contrast", "saturation", "hue")
_LEVELS = np.arange(256.0)
_SHARES = np.arange(256, dtype=np.float32) / np.float32(255)
#: Kornia clamps after these, and not after the others; DSA's leave [0, 1] and only the next clamp brings them back.
_CLAMPED = {"brightness", "contrast", "saturation"}
_UNCLAMPED = {"brightness_shift", "saturation_mean", "contrast_mean"}


def add_colour_calls(call_lists: CallLists, colour: Colour) -> None:
    """Append each image's call to its list."""
    steps: list[list[tuple[str, Values]]] = [[] for _ in call_lists]
    for step in colour.steps:
        columns = {name: column.tolist() for name, column in step.values.items()}
        for index in np.flatnonzero(step.on).tolist():
            values = {name: column[index] for name, column in columns.items()}
            if step.name == "jitter":
                for place in values["order"]:
                    name = _JITTER[place]
                    if values[name] != (0 if name == "hue" else 1):
                        steps[index].append((name, {"turns" if name == "hue" else "factor": values[name]}))
            else:
                steps[index].append((step.name, values))
    for calls, own in zip(call_lists, steps, strict=True):
        if own:
            calls.append(_chain(own))


def _chain(steps: list[tuple[str, Values]]) -> Call:
    """One call that carries out an image's steps, each a name and its values, in as few passes as its clamps allow."""
    if len(steps) == 1 and steps[0][0] in _ALONE:
        name, values = steps[0]
        alone = _ALONE[name]
        return lambda image, target: alone(image, values, target)

    final = len(steps) - 1

    def call(image: np.ndarray, target: Target) -> np.ndarray:
        pending: Map | None = None
        loose = False
        for place, (name, values) in enumerate(steps):
            into = target if place == final else None
            if name in _MAPS:
                step_map = _MAPS[name](image, pending, values)
                pending = step_map if pending is None else _composed(step_map, pending)
                loose = loose or name in _UNCLAMPED
                if name in _CLAMPED and (loose or values["factor"] > 1):
                    image, pending, loose = _mapped(image, pending, into), None, False
            else:
                if pending is not None:
                    image, pending, loose = _mapped(image, pending, None), None, False
                image = _ALONE[name](image, values, into)
        return image if pending is None else _mapped(image, pending, target)

    return call


def _mapped(image: np.ndarray, colours: Map, target: Target) -> np.ndarray:
    """Carry out a map on an image (H, W, 3) uint8, saturating at 0 and 255."""
    own, grey, mean, shift = colours
    if grey == mean == 0:
        if shift >= 0 and 255 * own + shift >= 0:  # nothing is below 0, of which this would take the absolute value
            return cv2.convertScaleAbs(image, target, own, shift)
        return cv2.addWeighted(image, own, image, 0, shift, target)
    red, green, blue = (grey * share + mean / 3 for share in _LUMA)
    rows = [[own + red, green, blue, shift], [red, own + green, blue, shift], [red, green, own + blue, shift]]
    return cv2.transform(image, np.array(rows, np.float32), target)


def _composed(second: Map, first: Map) -> Map:
    """Compose two maps: `second` after `first`."""
    own, grey, mean, shift = first
    next_own, next_grey, next_mean, next_shift = second
    return (
        next_own * own,
        next_own * grey + next_grey * (own + grey) + next_mean * grey,
        next_own * mean + next_grey * mean + next_mean * (own + mean),
        (next_own + next_grey + next_mean) * shift + next_shift,
    )


def _averages(image: np.ndarray, pending: Map | None) -> tuple[float, float]:
    """Average luma and channels over the image as it is once the pending map is carried out; both in levels."""
    channels = cv2.mean(image)
    luma, mean = sum(share * one for share, one in zip(_LUMA, channels, strict=False)), sum(channels[:3]) / 3
    if pending is None:
        return luma, mean
    own, grey, towards, shift = pending
    rest = grey * luma + towards * mean + shift
    return own * luma + rest, own * mean + rest


def _contrast(image: np.ndarray, pending: Map | None, values: Values) -> Map:
    """Away from the mean luma that the image has once `pending` is carried out."""
    return values["factor"], 0.0, 0.0, (1 - values["factor"]) * _averages(image, pending)[0]


def _contrast_mean(image: np.ndarray, pending: Map | None, values: Values) -> Map:
    """Away from the mean that the image has once `pending` is carried out."""
    return values["factor"], 0.0, 0.0, (1 - values["factor"]) * _averages(image, pending)[1]


_MAPS: dict[str, Callable[[np.ndarray, Map | None, Values], Map]] = {
    "brightness": lambda image, pending, values: (values["factor"], 0.0, 0.0, 0.0),
    "contrast": _contrast,
    "saturation": lambda image, pending, values: (values["factor"], 1 - values["factor"], 0.0, 0.0),
    "grayscale": lambda image, pending, values: (0.0, 1.0, 0.0, 0.0),
    "invert": lambda image, pending, values: (-1.0, 0.0, 0.0, 255.0),
    "brightness_shift": lambda image, pending, values: (1.0, 0.0, 0.0, 255 * values["shift"]),
    "saturation_mean": lambda image, pending, values: (values["factor"], 0.0, 1 - values["factor"], 0.0),
    "contrast_mean": _contrast_mean,
}


def _hue(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Turn hues, in 256 hues, saturations and values: within 9 levels, half a level on average; five times as fast as in floats."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    turn = np.zeros(rows.shape[1], np.uint8)
    turn[::3] = round(256 * values["turns"]) % 256
    np.add(rows, turn, out=rows)  # whole rows, which is five times as fast as every third byte
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=target)


def _grayscale(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Put luma into all channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=target)


def _table(image: np.ndarray, levels: np.ndarray, target: Target) -> np.ndarray:
    """Replace level i of all channels by levels[i] (256,), rounded and clipped."""
    return cv2.LUT(image, np.rint(levels.clip(0, 255)).astype(np.uint8), dst=target)


def _solarize(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Invert by two passes without a table: 255 where a level is at or above the threshold, and that added bit by bit."""
    lowest = int(np.searchsorted(_SHARES, np.float32(values["threshold"])))
    if lowest == 0:
        return cv2.bitwise_not(image, dst=target)
    return cv2.bitwise_xor(image, cv2.threshold(image, lowest - 1, 255, cv2.THRESH_BINARY)[1], dst=target)


def _posterize(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Keep the highest bits."""
    return np.bitwise_and(image, np.uint8(256 - (1 << (8 - values["bits"]))), out=target)


def _channel_shuffle(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Let each channel be another's."""
    planes = cv2.split(image)
    return cv2.merge([planes[source] for source in values["order"]], target)


def _autocontrast(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Stretch each channel from its least to its greatest level."""
    matrix = np.zeros((3, 4), np.float32)
    for channel, plane in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(plane)
        if low == high:  # flat: it stays
            matrix[channel, channel] = 1
            continue
        slope = 1 / ((high - low) / 255 + 1e-6)
        matrix[channel, channel], matrix[channel, 3] = slope, -low * slope
    return cv2.transform(image, matrix, target)


def _equalize(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Equalize each channel as PIL does: unchanged where the step of its table is 0."""
    pixels = len(image) * image.shape[1]
    planes = list(cv2.split(image))
    for channel, plane in enumerate(planes):
        counts = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int32)
        step = (pixels - int(counts[counts.nonzero()[0][-1]])) // 255
        if step:
            levels = (counts.cumsum() - counts + step // 2) // step
            planes[channel] = cv2.LUT(plane, np.minimum(levels, 255).astype(np.uint8))
    return cv2.merge(planes, target)


def _alone(name: str) -> Callable[[np.ndarray, Values, Target], np.ndarray]:
    """A function that carries out one map by itself."""
    map_of = _MAPS[name]
    return lambda image, values, target: _mapped(image, map_of(image, None, values), target)


_ALONE: dict[str, Callable[[np.ndarray, Values, Target], np.ndarray]] = {
    "hue": _hue,
    "gamma": lambda image, values, target: _table(image, 255 * (_LEVELS / 255) ** values["gamma"], target),
    "solarize": _solarize,
    "posterize": _posterize,
    "channel_shuffle": _channel_shuffle,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda image, values, target: cv2.bitwise_not(image, dst=target),
    "grayscale": _grayscale,
    **{name: _alone(name) for name in _MAPS if name not in ("invert", "grayscale")},
}
