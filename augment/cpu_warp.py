"""Geometry of the CPU path: each sample's steps as slices, resizes, flips and as few warps as its frames allow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from augment.homography import SLACK, frame_sizes, hull, inverse
from augment.program import Warp, WarpStep

#: One step of one image: takes (H, W, C) uint8, or (H, W) for one channel, and never writes to it. The last one of an image is
#: handed the array to write to, and returns it, or another one to be copied there.
Call = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
CallLists = list[list[Call]]  #: of each image of a batch
Size = tuple[int, int]
_NOTHING, _FLIP_X, _FLIP_Y, _FLIP_BOTH, _SHIFT, _AFFINE, _PERSPECTIVE = range(7)


def add_warp_calls(call_lists: CallLists, warp: Warp) -> None:
    """Append each image's calls to its list."""
    count, sizes = len(call_lists), frame_sizes(warp)
    if not any(one.clamp is None and other.clamp is None for one, other in pairwise(warp.steps)) and not any(
        step.roll is not None for step in warp.steps
    ):  # no two matrices in a row: nothing to multiply, and no frame between them
        for place, step in enumerate(warp.steps):
            rows = np.flatnonzero(step.acts())
            if step.clamp is None:
                _add_matrix_calls(call_lists, rows, step.matrix[rows], sizes[place], step.size, warp)
            else:
                _add_box_or_roll_calls(call_lists, rows, step, sizes[place], warp)
        return
    cuts = frames_that_cut(warp)
    pending = np.tile(np.eye(3), (count, 1, 1))
    began = np.full(count, -1)  # the frame that a sample's pending matrix starts from; -1 where there is none

    def flush(where: np.ndarray, place: int) -> None:
        """Carry out the pending matrices of the samples `where` (n,) bool before step `place`."""
        for start in np.unique(began[where]).tolist():
            if start >= 0:
                rows = np.flatnonzero(where & (began == start))
                _add_matrix_calls(call_lists, rows, pending[rows], sizes[start], sizes[place], warp)
        began[where] = -1

    for place, step in enumerate(warp.steps):
        acts = step.acts()
        if step.clamp is not None or step.roll is not None:
            flush(acts, place)
            _add_box_or_roll_calls(call_lists, np.flatnonzero(acts), step, sizes[place], warp)
            continue
        if cuts is not None and cuts[place].any():
            flush(cuts[place], place)
        fresh = acts & (began < 0)
        pending[fresh], began[fresh] = np.eye(3), place
        pending = np.where(acts[:, None, None], step.matrix @ pending, pending)
    flush(np.ones(count, bool), len(warp.steps))


def frames_that_cut(warp: Warp) -> np.ndarray | None:
    """(steps, n) bool: where what lies beyond a step's frame has to be cut off before it; None where no two matrices meet.

    A frame cuts where the picture reaches beyond one of its sides and something beyond that side would be read later on.
    Steps between two such frames are carried out as one.
    """
    matrices = [step.clamp is None and step.roll is None for step in warp.steps]
    if sum(matrices) < 2:
        return None
    sizes = frame_sizes(warp)
    acting = np.stack([step.acts() for step in warp.steps])
    acting[~np.array(matrices)] = False
    fills = [matrix and _fills(step, size) for matrix, step, size in zip(matrices, warp.steps, sizes, strict=False)]
    if acting[~np.array(fills)].sum(0).max(initial=0) < 2:
        return None
    reaches = _reaches(warp, sizes)
    count = acting.shape[1]
    cuts = np.zeros_like(acting)
    content = np.zeros((count, 4))  # the picture's rectangle and, in `pending`, where it has moved since
    pending, running = np.tile(np.eye(3), (count, 1, 1)), np.zeros(count, bool)
    for place, step in enumerate(warp.steps):
        height, width = sizes[place]
        if not matrices[place]:
            running &= ~step.acts()
            continue
        low, high = hull(pending, content)
        out = np.concatenate([low < -0.5 - SLACK, high > np.array([width, height]) - 0.5 + SLACK], 1)
        reach = reaches[place]
        read = np.concatenate([reach[:, :2] < -SLACK, reach[:, 2:] > np.array([width, height]) - 1 + SLACK], 1)
        cuts[place] = acting[place] & running & (out & read).any(1)
        fresh = acting[place] & (cuts[place] | ~running)
        content[fresh] = [-0.5, -0.5, width - 0.5, height - 0.5]
        pending[fresh] = np.eye(3)
        running |= acting[place]
        pending = np.where(acting[place][:, None, None], step.matrix @ pending, pending)
    return cuts


def _fills(step: WarpStep, frame: Size) -> bool:
    """Whether a step fills its frame exactly with what was in it, as a flip does."""
    if step.size != frame:
        return False
    across, down = {(1.0, 0.0), (-1.0, frame[1] - 1.0)}, {(1.0, 0.0), (-1.0, frame[0] - 1.0)}
    return all(
        (a, right) in across and (d, lower) in down and not (b or c or e or f) and g == 1
        for (a, b, right), (c, d, lower), (e, f, g) in step.matrix.tolist()
    )


def _reaches(warp: Warp, sizes: list[Size]) -> list[np.ndarray]:
    """For each step (n, 4): left, top, right and bottom pixel centre of what is read of its frame, or beyond it."""
    reaches: list[np.ndarray] = []
    reach = np.tile(_whole(sizes[-1]), (len(warp.on), 1))
    for step, size in zip(reversed(warp.steps), reversed(sizes[:-1]), strict=True):
        if step.clamp is not None:
            before = step.clamp
        elif step.roll is not None:
            before = np.tile(_whole(size), (len(reach), 1))
        else:
            before = np.concatenate(hull(inverse(step.matrix), reach), 1)
        reach = np.where(step.acts()[:, None], before, reach)
        reaches.append(reach)
        # a neighbour beyond the border weighs in, and nothing further out
        reach = np.clip(reach, -1, np.tile(size[::-1], 2))
    return reaches[::-1]


def _whole(size: Size) -> np.ndarray:
    """The rectangle of pixel centres of a frame: left, top, right, bottom."""
    return np.array([0.0, 0.0, size[1] - 1.0, size[0] - 1.0])


def _add_box_or_roll_calls(call_lists: CallLists, rows: np.ndarray, step: WarpStep, size: Size, warp: Warp) -> None:
    """Append the crop or the roll of a step to the lists of the samples `rows`, whose images are of `size` before it."""
    if step.roll is not None:
        for row in rows.tolist():
            down, right = step.roll[row].tolist()
            if down or right:
                call_lists[row].append(_roll(down, right))
        return
    assert step.clamp is not None
    boxes = step.clamp.tolist()
    for row in rows.tolist():
        left, top, right, bottom = boxes[row]
        left, top = (max(int(side), 0) for side in (left, top))
        right, bottom = min(int(right) + 1, size[1]), min(int(bottom) + 1, size[0])
        call_lists[row].append(_crop_resize(left, top, right, bottom, step.size, warp))


def _crop_resize(left: int, top: int, right: int, bottom: int, size: Size, warp: Warp) -> Call:
    """Cut out rows top..bottom - 1 and columns left..right - 1 and resize them to `size`."""
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
    """(size,) which of `count` pixels each of `size` reads; halves go up as in the torch path, where OpenCV falls short of some."""
    return (2 * np.arange(size) + 1) * count // (2 * size)


def _roll(down: int, right: int) -> Call:
    """Shift in a circle, in pixels."""
    return lambda image, target: np.roll(image, (down, right), (0, 1))


def _add_matrix_calls(
    call_lists: CallLists, rows: np.ndarray, matrix: np.ndarray, before: Size, size: Size, warp: Warp
) -> None:
    """Append the cheapest call for each matrix (k, 3, 3) to the lists of the samples `rows`, from frames `before` to `size`."""
    fill = round(255 * warp.fill)
    for row, numbers, own in zip(rows.tolist(), matrix.tolist(), matrix, strict=True):
        kind = _kind(numbers, before, size)
        if kind == _NOTHING:
            continue
        if kind in _FLIPS:
            call_lists[row].append(_FLIPS[kind])
        elif kind == _SHIFT:
            call_lists[row].append(_shift(round(float(own[1, 2])), round(float(own[0, 2])), size, fill))
        else:
            call_lists[row].append(_warp(own, kind, size, warp, fill))


def _kind(matrix: list[list[float]], before: Size, size: Size) -> int:
    """Choose the cheapest kind of call that carries a matrix out."""
    (a, b, right), (c, d, down), (e, f, g) = matrix
    rest = (abs(a) - 1, abs(d) - 1, b, c, e, f, g - 1, right - round(right), down - round(down))
    if all(-_WHOLE < one < _WHOLE for one in rest):
        kind = _UPRIGHT.get((round(a), round(d)), _AFFINE)
        across = size[1] - 1 if a < 0 else 0, size[0] - 1 if d < 0 else 0
        if before == size and (round(right), round(down)) == across:
            return kind
        if kind == _NOTHING:
            return _SHIFT
    return _PERSPECTIVE if e or f else _AFFINE


_WHOLE = 1e-6  # what a whole pixel may be off by
_UPRIGHT = {(1, 1): _NOTHING, (-1, 1): _FLIP_X, (1, -1): _FLIP_Y, (-1, -1): _FLIP_BOTH}
_FLIPS: dict[int, Call] = {
    _FLIP_X: lambda image, target: cv2.flip(image, 1, dst=target),
    _FLIP_Y: lambda image, target: cv2.flip(image, 0, dst=target),
    _FLIP_BOTH: lambda image, target: cv2.flip(image, -1, dst=target),
}


def _shift(down: int, right: int, size: Size, fill: int) -> Call:
    """Move by whole pixels into a frame of `size`, with the level `fill` round it."""

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        height, width = image.shape[:2]
        shifted = np.empty((*size, *image.shape[2:]), np.uint8) if target is None else target
        shifted.fill(fill)
        top, left = max(down, 0), max(right, 0)
        bottom, end = min(height + down, size[0]), min(width + right, size[1])
        if bottom > top and end > left:
            shifted[top:bottom, left:end] = image[top - down : bottom - down, left - right : end - right]
        return shifted

    return call


def _warp(matrix: np.ndarray, kind: int, size: Size, warp: Warp, fill: int) -> Call:
    """Warp by a matrix (3, 3) into a frame of `size`, with the level `fill` beyond the image."""
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
