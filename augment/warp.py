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

from augment.homography import axis_aligned, take
from augment.lines import Lines, line
from augment.program import Warp
from augment.ways import copied, filtered, layout_of, stretched, turned


def apply_warp(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Warp (n, C, H, W) images to (n, C, h, w); values in [0, 1] if `warp.fill` is not 0. Differentiable in the images.

    Where only whole pixels move, and with nearest interpolation, any dtype comes back exactly; otherwise floats are needed.
    Float16 and bfloat16 are sampled in float32. Samples that are off come back untouched. channels_last is kept.
    What is cut out and shrunk is filtered by a triangle (`antialias`), as `interpolate(antialias=True)` does inside the box, all
    axis-aligned steps taken together; of a warp that also turns, the axis-aligned steps up to the last change of size are
    carried out first if they shrink, at the price of a second resampling. Other warps are not filtered, as they are not in Kornia.
    """
    if not warp.steps:
        return images
    rolls = [step.acts() for step in warp.steps if step.roll is not None]
    if all(acts.all() for acts in rolls):
        for part in _between_rolls(warp):
            images = _one_roll(images, part)
        return images
    made = images.new_empty(len(images), images.shape[1], *warp.size).contiguous(memory_format=layout_of(images))
    kinds, kind = np.unique(np.stack(rolls, 1), axis=0, return_inverse=True)
    for place in range(len(kinds)):  # a roll parts the steps round it, but not those of a sample that is not rolled
        where = np.flatnonzero(kind.reshape(-1) == place)
        index = torch.from_numpy(where).to(images.device)
        made = made.index_copy_(0, index, apply_warp(images.index_select(0, index), _rolled(take(warp, where))))
    return made


def _rolled(warp: Warp) -> Warp:
    """Without the rolls that are off."""
    steps = tuple(step for step in warp.steps if step.roll is None or step.acts().all())
    return replace(warp, steps=steps)


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
    whole = warp.interpolation == "nearest" or all(job.way is copied for job in jobs)
    if not (whole or images.is_floating_point()):
        raise TypeError(f"this warp interpolates and needs floats, got {images.dtype}")
    small = images.dtype in (torch.float16, torch.bfloat16) and not whole
    values = images.float() if small else images
    if len(jobs) == 1 and len(jobs[0].where) == len(images):
        made = jobs[0].way(values, jobs[0].warp, jobs[0].lines)
    else:
        shape = (len(images), images.shape[1], *warp.size)
        layout = layout_of(images)
        covered = sum(len(job.where) for job in jobs) == len(images)
        made = values.new_empty(shape).contiguous(memory_format=layout) if covered else values.clone()
        for job in jobs:
            index = torch.from_numpy(job.where).to(images.device)
            made = made.index_copy_(0, index, job.way(values.index_select(0, index), job.warp, job.lines))
    return made.to(images.dtype) if small else made


Way = Callable[[torch.Tensor, Warp, Lines | None], torch.Tensor]


class _Job(NamedTuple):
    """Samples `where` that go one way: their warp, and the lines of y and x if it is axis-aligned."""

    where: np.ndarray
    way: Way
    warp: Warp
    lines: Lines | None


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
        banded[within] = _shrinks(lines)
    if lines is not None and (whole | ~on).all():
        return [_Job(every, copied, warp, lines)]
    first = none if warp.interpolation == "nearest" else _shrinks_first(warp, on & ~straight)
    found: list[tuple[np.ndarray, Way]] = [
        (straight & whole, copied),
        (straight & ~whole & banded, filtered),
        (straight & ~whole & ~banded, stretched),
        (first, _filtered_then_turned),
        (~straight & ~first, turned),
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
