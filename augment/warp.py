"""Carry out a warp on a batch of tensors with one resampling, by the cheapest means that is right for each sample.

Copies where only whole pixels move; weighted rows where an axis-aligned warp shrinks; one `grid_sample` for all else, with its
grid made from rows and columns where that is enough. Which of them is a sample's own affair, so splitting a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from augment.homography import Line, axis_aligned, line, stages, take
from augment.program import Warp
from augment.resample import coverage, nearest, positions, resample, to_device

_FAR = 1e4  # in units of half a frame: certainly outside, and finite
_CACHED = 1 << 17  # pixels of output made at a time on a CPU
_BLOCK = 1 << 14  # elements of an image from which copying row by row beats one gather on a CPU


def apply_warp(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Warp (n, C, H, W) images to (n, C, h, w); values in [0, 1] if `warp.fill` is not 0. Differentiable in the images.

    Where only whole pixels move, and with nearest interpolation, any dtype comes back exactly; otherwise floats are needed.
    Float16 and bfloat16 are sampled in float32. Samples that are off come back untouched. channels_last is kept.
    Antialiasing widens the triangle of axis-aligned warps that shrink; of a warp that also turns, the axis-aligned steps up to the
    last change of size are carried out first if they shrink, at the price of a second resampling.
    """
    for part in _between_rolls(warp):
        images = _one_roll(images, part)
    return images


def _between_rolls(warp: Warp) -> list[Warp]:
    """Parts with at most one roll each, at their end: a roll is no map of the plane."""
    ends = [place + 1 for place, step in enumerate(warp.steps) if step.roll is not None]
    ends += [len(warp.steps)] if not ends or ends[-1] < len(warp.steps) else []
    if len(ends) == 1:
        return [warp]
    parts, start, size = [], 0, warp.size_in
    for end in ends:
        parts.append(replace(warp, size_in=size, steps=warp.steps[start:end]))
        start, size = end, warp.steps[end - 1].size
    return parts


def _one_roll(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    jobs = _jobs(warp)
    whole = warp.interpolation == "nearest" or all(job.way is _copied for job in jobs)
    if not (whole or images.is_floating_point()):
        raise TypeError(f"this warp interpolates and needs floats, got {images.dtype}")
    small = images.dtype in (torch.float16, torch.bfloat16) and not whole
    values = images.float() if small else images
    if len(jobs) == 1 and len(jobs[0].where) == len(images):
        made = _chunked(values, jobs[0])
    else:
        shape = (len(images), images.shape[1], *warp.size)
        layout = _layout(images)
        covered = sum(len(job.where) for job in jobs) == len(images)
        made = values.new_empty(shape).contiguous(memory_format=layout) if covered else values.clone()
        for job in jobs:
            index = torch.from_numpy(job.where).to(images.device)
            made = made.index_copy_(0, index, _chunked(values[index], job))
    return made.to(images.dtype) if small else made


Lines = tuple[Line, Line]
Way = Callable[[torch.Tensor, Warp, Lines | None], torch.Tensor]


class _Job(NamedTuple):
    """Samples `where` that go one way: their warp, and the lines of y and x if it is axis-aligned."""

    where: np.ndarray
    way: Way
    warp: Warp
    lines: Lines | None


def _chunked(images: torch.Tensor, job: _Job) -> torch.Tensor:
    """On a CPU a few images at a time, so that what is made on the way stays in its cache."""
    height, width = job.warp.size
    count = max(1, _CACHED // (height * width))
    if images.device.type != "cpu" or len(images) <= count or job.way is _copied:
        return job.way(images, job.warp, job.lines)
    parts = []
    for start in range(0, len(images), count):
        where = np.arange(start, min(start + count, len(images)))
        lines = None if job.lines is None else (job.lines[0].take(where), job.lines[1].take(where))
        parts.append(job.way(images[start : start + count], take(job.warp, where), lines))
    return torch.cat(parts)


def _jobs(warp: Warp) -> list[_Job]:
    """Which samples go which way. Those that are off are left out, or copied with the others if all are only copied."""
    straight = axis_aligned(warp.steps)
    on = warp.on if warp.size == warp.size_in else np.ones_like(warp.on)
    every, none = np.arange(len(on)), np.zeros_like(on)
    whole, banded = none.copy(), none.copy()
    lines = None
    if straight.any():
        within = np.flatnonzero(straight)
        part = warp if len(within) == len(on) else take(warp, within)
        lines = line(part, 0), line(part, 1)
        whole[within] = (lines[0].integral & lines[1].integral) | (warp.interpolation == "nearest")
        banded[within] = _shrinks(lines) | (warp.interpolation == "bicubic")
    if lines is not None and (whole | ~on).all():
        return [_Job(every, _copied, warp, lines)]
    first = none if warp.interpolation == "nearest" else _shrinks_first(warp, on & ~straight)
    found: list[tuple[np.ndarray, Way]] = [
        (straight & whole, _copied),
        (straight & ~whole & banded, _filtered),
        (straight & ~whole & ~banded, _stretched),
        (first, _filtered_then_turned),
        (~straight & ~first, _turned),
    ]
    jobs = []
    for chosen, way in found:
        where = np.flatnonzero(chosen & on)
        if len(where):
            mine = None
            if lines is not None and straight[where[0]]:
                places = np.searchsorted(within, where)
                mine = lines if len(places) == len(within) else (lines[0].take(places), lines[1].take(places))
            jobs.append(_Job(where, way, warp if len(where) == len(on) else take(warp, where), mine))
    return jobs


def _shrinks(lines: Lines) -> np.ndarray:
    return (lines[0].width > 1 + 1e-6) | (lines[1].width > 1 + 1e-6)


def _last_resize(warp: Warp) -> int:
    """How many steps lead up to and include the last one that changes the size; 0 for none."""
    frames = [warp.size_in, *(step.size for step in warp.steps)]
    return max((place + 1 for place, step in enumerate(warp.steps) if step.size != frames[place]), default=0)


def _shrinks_first(warp: Warp, chosen: np.ndarray) -> np.ndarray:
    """(n,) bool: chosen samples whose steps up to the last resize are axis-aligned and shrink, and are to be antialiased."""
    count = _last_resize(warp)
    found = np.zeros_like(chosen)
    if not (warp.antialias and count and chosen.any()):
        return found
    where = np.flatnonzero(chosen & axis_aligned(warp.steps[:count]))
    if len(where):
        leading = take(warp, where, slice(0, count))
        found[where] = _shrinks((line(leading, 0), line(leading, 1)))
    return found


def _filtered_then_turned(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    every, count = np.arange(len(images)), _last_resize(warp)
    return _one_roll(_one_roll(images, take(warp, every, slice(0, count))), take(warp, every, slice(count, None)))


def _layout(images: torch.Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _copied(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    """Whole pixels, found by row and column."""
    assert lines is not None
    rows, columns = lines
    upside, mirrored = rows.flips, columns.flips
    if upside is not None and mirrored is not None:
        return _flipped(images, upside, mirrored)
    (y, y_inside), (x, x_inside) = (nearest(each, to_device(each, images.device)) for each in (rows, columns))
    inside = None
    if y_inside is not None or x_inside is not None:
        every = torch.ones((1, 1, 1), dtype=torch.bool, device=images.device)
        inside = (every if y_inside is None else y_inside[:, :, None]) & (
            every if x_inside is None else x_inside[:, None, :]
        )
    if images.device.type == "cpu" and images[0].numel() >= _BLOCK and not images.requires_grad:
        made = images.new_empty(len(images), images.shape[1], rows.size, columns.size)
        for image, place, row, column in zip(images, made, y, x, strict=True):
            torch.index_select(image.index_select(1, row), 2, column, out=place)
        made = made.contiguous(memory_format=_layout(images))
    else:
        made = _gathered(images, y[:, :, None], x[:, None, :])
    return made if inside is None else _filled(made, inside, warp.fill)


def _flipped(images: torch.Tensor, upside: np.ndarray, mirrored: np.ndarray) -> torch.Tensor:
    """Each image turned over along the axes where it says so."""
    kinds = [
        (np.flatnonzero((upside == up) & (mirrored == side)), [axis for axis, on in ((-2, up), (-1, side)) if on])
        for up in (False, True)
        for side in (False, True)
    ]
    kinds = [(where, axes) for where, axes in kinds if len(where)]
    if len(kinds) == 1:
        return images.flip(kinds[0][1]) if kinds[0][1] else images.clone()
    made = images.clone()
    for where, axes in kinds:
        if axes:
            index = torch.from_numpy(where).to(images.device)
            made = made.index_copy_(0, index, images[index].flip(axes))
    return made


def _gathered(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Pixels y, x (n, h, w) of images (n, C, H, W), of any dtype."""
    channels, height, width = images.shape[1:]
    index = y * width + x
    flat = index.flatten(1)
    if _layout(images) == torch.channels_last:
        pixels = images.permute(0, 2, 3, 1).reshape(len(images), height * width, channels)
        found = pixels.gather(1, flat[:, :, None].expand(-1, -1, channels))
        return found.view(len(images), *index.shape[1:], channels).permute(0, 3, 1, 2)
    pixels = images.reshape(len(images), channels, height * width)
    return pixels.gather(2, flat[:, None].expand(-1, channels, -1)).view(len(images), channels, *index.shape[1:])


def _filled(images: torch.Tensor, inside: torch.Tensor, fill: float) -> torch.Tensor:
    if images.dtype == torch.bool:
        return images & inside[:, None] if not fill else images | ~inside[:, None]
    value = fill if images.is_floating_point() else round(fill * 255)
    return images.masked_fill_(~inside[:, None], value)  # always fresh: in place keeps its layout


def _filtered(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    """Axis-aligned, by weighted rows and columns."""
    assert lines is not None
    return resample(images, *lines, warp.interpolation, warp.antialias, warp.fill)


def _stretched(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    """Axis-aligned and not shrinking: a grid of one position a row and one a column."""
    assert lines is not None
    rows, columns = lines
    places, covers = [], []
    for each in (columns, rows):
        on = to_device(each, images.device)
        index, position = positions(each, on)
        places.append(((2 * position + 1) / each.size_in - 1).to(images.dtype))
        covers.append(coverage(each, on, index, edge=False))
    grid = torch.stack(torch.broadcast_tensors(places[0][:, None, :], places[1][:, :, None]), -1)
    wide, tall = (None if cover is None else cover.to(images.dtype) for cover in covers)
    cover = None
    if wide is not None or tall is not None:
        one = images.new_ones((1, 1, 1))
        cover = (one if tall is None else tall[:, :, None]) * (one if wide is None else wide[:, None, :])
    return _sampled(images, grid, cover, warp)


def _sampled(images: torch.Tensor, grid: torch.Tensor, cover: torch.Tensor | None, warp: Warp) -> torch.Tensor:
    """`grid_sample`, with zero where `warp.fill` is to be: it fades to zero beyond the source."""
    values = images - warp.fill if warp.fill else images
    made = F.grid_sample(values, grid, warp.interpolation, "zeros", align_corners=False)
    if cover is not None:
        made = made * cover[:, None]
    if warp.fill:
        made = made + warp.fill
    return made.contiguous(memory_format=_layout(images))


def _turned(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    """Any homography: a position for each pixel, through the frames that bite."""
    frames, last = stages(warp)
    height, width = warp.size
    kind = images.dtype if images.is_floating_point() else torch.float32
    packed = [last.reshape(len(last), 9)]
    for stage in frames:
        packed += [stage.matrix.reshape(len(last), 9), *stage[1:]]
    numbers = torch.from_numpy(np.concatenate(packed, 1)).to(images.device, kind)
    x, y = (
        ((2 * torch.arange(side, device=images.device, dtype=kind) + 1) / side - 1)[None] for side in (width, height)
    )
    roll = warp.steps[-1].roll
    if roll is not None:
        down, right = (torch.from_numpy(roll[:, axis : axis + 1]).to(images.device) for axis in (0, 1))
        x, y = (
            (2 * (torch.arange(side, device=images.device) - by).remainder(side).to(kind) + 1) / side - 1
            for side, by in ((width, right), (height, down))
        )
    x, y = x[:, None, :], y[:, :, None]
    cover, at = None, 9
    for stage in frames:
        x, y = _mapped(numbers[:, at : at + 9], stage.matrix, x, y)
        low, high, slope, offset = numbers[:, at + 9 : at + 17, None, None].unflatten(1, (4, 2)).unbind(1)
        at += 17
        if stage.slope.any():
            for place, axis in ((x, 0), (y, 1)):
                share = torch.addcmul(offset[:, axis], place.abs(), slope[:, axis], value=-1)
                share = (share > 0).to(kind) if warp.interpolation == "nearest" else share.clamp_(0, 1)
                cover = share if cover is None else cover * share
        x, y = (torch.clamp(place, low[:, axis], high[:, axis]) for place, axis in ((x, 0), (y, 1)))
    if not (last == np.eye(3)).all():
        x, y = _mapped(numbers[:, :9], last, x, y)
    if warp.interpolation == "nearest":
        return _nearest(images, x, y, cover, warp.fill)
    grid = torch.stack(torch.broadcast_tensors(x, y), -1)
    return _sampled(images, grid, cover, warp)


def _mapped(
    numbers: torch.Tensor, matrix: np.ndarray, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The points x, y under (n, 9) matrices; `matrix` is the same on the host and tells which terms all samples lack."""
    m = numbers[:, :, None, None].unbind(1)
    across = torch.addcmul(torch.addcmul(m[2], m[1], y) if matrix[:, 0, 1].any() else m[2], m[0], x)
    down = (
        torch.addcmul(torch.addcmul(m[5], m[4], y), m[3], x) if matrix[:, 1, 0].any() else torch.addcmul(m[5], m[4], y)
    )
    if not (matrix[:, 2] == [0, 0, 1]).all():
        depth = torch.addcmul(torch.addcmul(m[8], m[7], y), m[6], x)
        seen = depth > 1e-6
        across, down = ((place / depth).clamp_(-_FAR, _FAR).where(seen, _FAR) for place in (across, down))
    return across, down


def _nearest(
    images: torch.Tensor, x: torch.Tensor, y: torch.Tensor, cover: torch.Tensor | None, fill: float
) -> torch.Tensor:
    height, width = images.shape[2:]
    column, row = (((place + 1) * (side / 2)).floor() for place, side in ((x, width), (y, height)))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    if cover is not None:
        inside = inside & (cover > 0)
    found = _gathered(images, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long())
    return _filled(found, inside, fill)
