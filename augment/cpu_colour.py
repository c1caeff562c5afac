"""Colours of the CPU path: affine maps of a pixel's colour are one `transform`, functions of one channel one table.

A map is carried out at once where Kornia's clamp after it can bite, so that it saturates there; others wait to be composed
with the next, as DSA's do, which are not clamped. Contrast takes the mean that the image has at that point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from augment.cpu_warp import Call
from augment.program import Colour

Values = dict[str, Any]
Target = np.ndarray | None
_LUMA = np.array([0.299, 0.587, 0.114])
_JITTER = ("brightness", "contrast", "saturation", "hue")
_LEVELS = np.arange(256.0)
_SHARES = np.arange(256, dtype=np.float32) / np.float32(255)
#: Kornia clamps after these, and not after the others; DSA's leave [0, 1] and only the next clamp brings them back.
_CLAMPED = {"brightness", "contrast", "saturation"}
_UNCLAMPED = {"brightness_shift", "saturation_mean", "contrast_mean"}


def plan_colour(plan: list[list[Call]], colour: Colour) -> None:
    """Append each image's call to its list."""
    steps: list[list[tuple[str, Values]]] = [[] for _ in plan]
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
    for calls, own in zip(plan, steps, strict=True):
        if own:
            calls.append(_chain(own))


def _chain(steps: list[tuple[str, Values]]) -> Call:
    if len(steps) == 1 and steps[0][0] in _ALONE:
        name, values = steps[0]
        alone = _ALONE[name]
        return lambda image, target: alone(image, values, target)

    final = len(steps) - 1

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        pending: np.ndarray | None = None
        loose = False
        for place, (name, values) in enumerate(steps):
            into = target if place == final else None
            if name in _MATRICES:
                matrix = _MATRICES[name](image, pending, values)
                pending = matrix if pending is None else _then(matrix, pending)
                loose = loose or name in _UNCLAMPED
                if name in _CLAMPED and (loose or values["factor"] > 1):
                    image, pending, loose = _transformed(image, pending, into), None, False
            else:
                loose = False
                if pending is not None:
                    image, pending = _transformed(image, pending, None), None
                image = _ALONE[name](image, values, into)
        return image if pending is None else _transformed(image, pending, target)

    return call


def _transformed(image: np.ndarray, matrix: np.ndarray, target: Target) -> np.ndarray:
    return cv2.transform(image, matrix.astype(np.float32), dst=target)


def _then(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(3, 4) of one map after another."""
    made = second[:, :3] @ first
    made[:, 3] += second[:, 3]
    return made


def _uniform(own: float, grey: float, shift: float) -> np.ndarray:
    """own x + grey luma(x) + shift."""
    made = np.empty((3, 4))
    made[:, :3] = grey * _LUMA
    made[0, 0] += own
    made[1, 1] += own
    made[2, 2] += own
    made[:, 3] = shift
    return made


def _mean(image: np.ndarray, pending: np.ndarray | None) -> np.ndarray:
    mean = np.array(cv2.mean(image)[:3])
    return mean if pending is None else pending[:, :3] @ mean + pending[:, 3]


def _contrast(image: np.ndarray, pending: np.ndarray | None, values: Values) -> np.ndarray:
    factor = values["factor"]
    return _uniform(factor, 0.0, (1 - factor) * float(_LUMA @ _mean(image, pending)))


def _contrast_mean(image: np.ndarray, pending: np.ndarray | None, values: Values) -> np.ndarray:
    factor = values["factor"]
    return _uniform(factor, 0.0, (1 - factor) * float(_mean(image, pending).mean()))


def _saturation_mean(image: np.ndarray, pending: np.ndarray | None, values: Values) -> np.ndarray:
    made = _uniform(values["factor"], 0.0, 0.0)
    made[:, :3] += (1 - values["factor"]) / 3
    return made


def _channel_shuffle(image: np.ndarray, pending: np.ndarray | None, values: Values) -> np.ndarray:
    return np.concatenate([np.eye(3)[values["order"]], np.zeros((3, 1))], 1)


_MATRICES: dict[str, Callable[[np.ndarray, np.ndarray | None, Values], np.ndarray]] = {
    "brightness": lambda image, pending, values: _uniform(values["factor"], 0.0, 0.0),
    "contrast": _contrast,
    "saturation": lambda image, pending, values: _uniform(values["factor"], 1 - values["factor"], 0.0),
    "grayscale": lambda image, pending, values: _uniform(0.0, 1.0, 0.0),
    "invert": lambda image, pending, values: _uniform(-1.0, 0.0, 255.0),
    "channel_shuffle": _channel_shuffle,
    "brightness_shift": lambda image, pending, values: _uniform(1.0, 0.0, 255 * values["shift"]),
    "saturation_mean": _saturation_mean,
    "contrast_mean": _contrast_mean,
}


def _hue(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """In 256 hues, saturations and values: within 9 levels, half a level on average. In floats it would take five times as long."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    turn = round(256 * values["turns"])
    hsv[:, :, 0] += np.uint8(turn % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=target)


def _grayscale(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=target)


def _table(image: np.ndarray, levels: np.ndarray, target: Target) -> np.ndarray:
    return cv2.LUT(image, np.rint(levels.clip(0, 255)).astype(np.uint8), dst=target)


def _solarize(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """Two passes without a table: 255 where a level is at or above the threshold, and that added bit by bit."""
    lowest = int(np.searchsorted(_SHARES, np.float32(values["threshold"])))
    if lowest == 0:
        return cv2.bitwise_not(image, dst=target)
    return cv2.bitwise_xor(image, cv2.threshold(image, lowest - 1, 255, cv2.THRESH_BINARY)[1], dst=target)


def _posterize(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    return np.bitwise_and(image, np.uint8(256 - (1 << (8 - values["bits"]))), out=target)


def _autocontrast(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    matrix = np.zeros((3, 4))
    low = cv2.reduce(image, 0, cv2.REDUCE_MIN)[0].min(0).astype(float)
    high = cv2.reduce(image, 0, cv2.REDUCE_MAX)[0].max(0).astype(float)
    slope = 1 / ((high - low) / 255 + 1e-6)
    matrix[[0, 1, 2], [0, 1, 2]] = slope
    matrix[:, 3] = -low * slope
    return _transformed(image, matrix, target)


def _equalize(image: np.ndarray, values: Values, target: Target) -> np.ndarray:
    """PIL's: unchanged where the step is 0."""
    tables = np.empty((1, 256, 3))
    for channel in range(3):
        histogram = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (histogram.sum() - histogram[np.flatnonzero(histogram)[-1]]) // 255
        tables[0, :, channel] = (histogram.cumsum() - histogram + step // 2) // step if step else _LEVELS
    return _table(image, tables, target)


def _alone(name: str) -> Callable[[np.ndarray, Values, Target], np.ndarray]:
    make = _MATRICES[name]
    return lambda image, values, target: _transformed(image, make(image, None, values), target)


_ALONE: dict[str, Callable[[np.ndarray, Values, Target], np.ndarray]] = {
    "hue": _hue,
    "gamma": lambda image, values, target: _table(image, 255 * (_LEVELS / 255) ** values["gamma"], target),
    "solarize": _solarize,
    "posterize": _posterize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda image, values, target: cv2.bitwise_not(image, dst=target),
    "grayscale": _grayscale,
    **{name: _alone(name) for name in _MATRICES if name not in ("invert", "grayscale")},
}
