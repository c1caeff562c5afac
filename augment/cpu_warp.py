"""Geometry of the CPU path: each sample's steps as slices, resizes, flips and at most one warp between two resizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from augment.program import Warp, WarpStep

#: One step of one image: takes (H, W, C) uint8, or (H, W) for one channel, and never writes to it. The last one of an image is
#: given the array to write to, and returns it, or another one to be copied there.
Call = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
Size = tuple[int, int]
_NOTHING, _FLIP_X, _FLIP_Y, _FLIP_BOTH, _SHIFT, _AFFINE, _PERSPECTIVE = range(7)


def plan_warp(plan: list[list[Call]], warp: Warp) -> None:
    """Append each image's calls to its list."""
    fill = round(255 * warp.fill)
    pending: np.ndarray | None = None
    size = before = warp.size_in
    for step in warp.steps:
        if step.clamp is not None or step.roll is not None:
            if pending is not None:
                _plan_matrix(plan, pending, before, size, warp, fill)
                pending = None
            _plan_special(plan, step, size, warp)
            before = step.size
        else:
            pending = step.matrix if pending is None else step.matrix @ pending
        size = step.size
    if pending is not None:
        _plan_matrix(plan, pending, before, size, warp, fill)


def _plan_special(plan: list[list[Call]], step: WarpStep, size: Size, warp: Warp) -> None:
    if step.roll is not None:
        for calls, (down, right) in zip(plan, step.roll.tolist(), strict=True):
            if down or right:
                calls.append(_roll(down, right))
        return
    assert step.clamp is not None
    boxes = step.clamp.clip([0, 0, 0, 0], [size[1] - 1, size[0] - 1] * 2).astype(int).tolist()
    for calls, (left, top, right, bottom) in zip(plan, boxes, strict=True):
        calls.append(_crop_resize(left, top, right + 1, bottom + 1, step.size, warp))


def _crop_resize(left: int, top: int, right: int, bottom: int, size: Size, warp: Warp) -> Call:
    height, width = bottom - top, right - left
    if (height, width) == size:
        return lambda image, target: np.ascontiguousarray(image[top:bottom, left:right])
    if warp.interpolation == "nearest":
        rows, columns = top + _nearest(height, size[0])[:, None], left + _nearest(width, size[1])
        return lambda image, target: image[rows, columns]
    wanted = (size[1], size[0])
    narrow = (min(width, size[1]), min(height, size[0]))
    if not warp.antialias or narrow == (width, height):
        return lambda image, target: cv2.resize(image[top:bottom, left:right], wanted, dst=target)
    if narrow == wanted:
        return lambda image, target: cv2.resize(
            image[top:bottom, left:right], wanted, dst=target, interpolation=cv2.INTER_AREA
        )
    # OpenCV averages areas only where both axes shrink: the one that does is shrunk before the other grows.
    return lambda image, target: cv2.resize(
        cv2.resize(image[top:bottom, left:right], narrow, interpolation=cv2.INTER_AREA), wanted, dst=target
    )


def _nearest(count: int, size: int) -> np.ndarray:
    """The pixel that each of `size` reads of `count`; halves go up as in the torch path, where OpenCV falls short of some."""
    return (2 * np.arange(size) + 1) * count // (2 * size)


def _roll(down: int, right: int) -> Call:
    return lambda image, target: np.roll(image, (down, right), (0, 1))


def _plan_matrix(plan: list[list[Call]], matrix: np.ndarray, before: Size, size: Size, warp: Warp, fill: int) -> None:
    kinds = _kinds(matrix, before, size)
    for calls, kind, own in zip(plan, kinds, matrix, strict=True):
        if kind == _NOTHING:
            continue
        if kind in _FLIPS:
            calls.append(_FLIPS[kind])
        elif kind == _SHIFT:
            calls.append(_shift(round(float(own[1, 2])), round(float(own[0, 2])), size, fill))
        else:
            calls.append(_warp(own, kind, size, warp, fill))


def _kinds(matrix: np.ndarray, before: Size, size: Size) -> list[int]:
    """The cheapest kind of call that carries each matrix out."""
    near = np.rint(matrix)
    whole = np.abs(matrix - near).max((1, 2)) < 1e-6
    kinds = [_AFFINE] * len(matrix)
    if matrix[:, 2, :2].any():
        kinds = np.where(matrix[:, 2, :2].any(1), _PERSPECTIVE, _AFFINE).tolist()
    ends = {
        _NOTHING: (0, 0),
        _FLIP_X: (size[1] - 1, 0),
        _FLIP_Y: (0, size[0] - 1),
        _FLIP_BOTH: (size[1] - 1, size[0] - 1),
    }
    for index in np.flatnonzero(whole).tolist():
        (a, b, right), (c, d, down), _ = near[index].astype(int).tolist()
        kind = _UPRIGHT.get((a, b, c, d))
        if kind is not None and before == size and (right, down) == ends[kind]:
            kinds[index] = kind
        elif kind == _NOTHING:
            kinds[index] = _SHIFT
    return kinds


_UPRIGHT = {(1, 0, 0, 1): _NOTHING, (-1, 0, 0, 1): _FLIP_X, (1, 0, 0, -1): _FLIP_Y, (-1, 0, 0, -1): _FLIP_BOTH}
_FLIPS: dict[int, Call] = {
    _FLIP_X: lambda image, target: cv2.flip(image, 1, dst=target),
    _FLIP_Y: lambda image, target: cv2.flip(image, 0, dst=target),
    _FLIP_BOTH: lambda image, target: cv2.flip(image, -1, dst=target),
}


def _shift(down: int, right: int, size: Size, fill: int) -> Call:
    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        height, width = image.shape[:2]
        made = np.empty((*size, *image.shape[2:]), np.uint8) if target is None else target
        made.fill(fill)
        top, left = max(down, 0), max(right, 0)
        bottom, end = min(height + down, size[0]), min(width + right, size[1])
        if bottom > top and end > left:
            made[top:bottom, left:end] = image[top - down : bottom - down, left - right : end - right]
        return made

    return call


def _warp(matrix: np.ndarray, kind: int, size: Size, warp: Warp, fill: int) -> Call:
    wanted = (size[1], size[0])
    options: dict[str, Any] = {
        "flags": cv2.INTER_NEAREST if warp.interpolation == "nearest" else cv2.INTER_LINEAR,
        "borderMode": cv2.BORDER_CONSTANT,
        "borderValue": (fill,) * 4,
    }
    if kind == _AFFINE:
        affine = np.ascontiguousarray(matrix[:2])
        return lambda image, target: cv2.warpAffine(image, affine, wanted, dst=target, **options)
    whole = np.ascontiguousarray(matrix)
    return lambda image, target: cv2.warpPerspective(image, whole, wanted, dst=target, **options)
