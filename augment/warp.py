"""Carry out a warp on a batch of tensors with one resampling, by the cheapest sampler that is right for each sample.

Copies where only whole pixels move; weighted rows where an axis-aligned warp shrinks; one `grid_sample` for all else, with its
grid made from rows and columns where that is enough (`augment.warp_samplers`). Which of them is decided for each sample by itself,
so splitting a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from augment.axis_maps import AxisMaps, axis_maps
from augment.homography import axis_aligned, frame_sizes, take
from augment.program import Warp
from augment.warp_samplers import copy_pixels, filter_axes, layout_of, sample_axes, sample_homography


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
            images = _resample_once(images, part)
        return images
    warped = images.new_empty(len(images), images.shape[1], *warp.size).contiguous(memory_format=layout_of(images))
    kinds, kind = np.unique(np.stack(rolls, 1), axis=0, return_inverse=True)
    for place in range(len(kinds)):  # a roll parts the steps round it, but not those of a sample that is not rolled
        where = np.flatnonzero(kind.reshape(-1) == place)
        index = torch.from_numpy(where).to(images.device)
        warped = warped.index_copy_(
            0, index, apply_warp(images.index_select(0, index), _without_idle_rolls(take(warp, where)))
        )
    return warped


def _without_idle_rolls(warp: Warp) -> Warp:
    """Leave out the rolls that are off, of a warp whose rolls are on for all samples or for none."""
    steps = tuple(step for step in warp.steps if step.roll is None or step.acts().all())
    return replace(warp, steps=steps)


def _between_rolls(warp: Warp) -> list[Warp]:
    """Split a warp into parts with at most one roll each, at their end: a roll is no map of the plane."""
    ends = [place + 1 for place, step in enumerate(warp.steps) if step.roll is not None]
    ends += [len(warp.steps)] if not ends or ends[-1] < len(warp.steps) else []
    if len(ends) == 1:
        return [warp]
    parts, start, size = [], 0, warp.size_in
    for end in ends:
        parts.append(replace(warp, size_in=size, steps=warp.steps[start:end]))
        start, size = end, warp.steps[end - 1].size
    return parts


def _resample_once(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Carry out a warp that rolls at most at its end; `TypeError` for integers where pixels are to be interpolated."""
    jobs = _jobs(warp)
    exact = warp.interpolation == "nearest" or all(job.exact for job in jobs)
    if not (exact or images.is_floating_point()):
        raise TypeError(f"this warp interpolates and needs floats, got {images.dtype}")
    small = images.dtype in (torch.float16, torch.bfloat16) and not exact
    values = images.float() if small else images
    if len(jobs) == 1 and len(jobs[0].where) == len(images):
        warped = jobs[0].sample(values)
    else:
        shape = (len(images), images.shape[1], *warp.size)
        layout = layout_of(images)
        covered = sum(len(job.where) for job in jobs) == len(images)
        warped = values.new_empty(shape).contiguous(memory_format=layout) if covered else values.clone()
        for job in jobs:
            index = torch.from_numpy(job.where).to(images.device)
            warped = warped.index_copy_(0, index, job.sample(values.index_select(0, index)))
    return warped.to(images.dtype) if small else warped


class _Job(NamedTuple):
    """The samples at places `where`, what samples them, and whether that copies whole pixels (`exact`)."""

    where: np.ndarray
    sample: Callable[[torch.Tensor], torch.Tensor]
    exact: bool = False


def _jobs(warp: Warp) -> list[_Job]:
    """Decide which samples go by which sampler. Those that are off are left out, or copied with the others if all are only copied."""
    straight = axis_aligned(warp.steps)
    on = warp.on if warp.size == warp.size_in else np.ones_like(warp.on)
    whole, shrinking = np.zeros_like(on), np.zeros_like(on)
    maps: AxisMaps | None = None
    within = np.flatnonzero(straight)
    if len(within):
        maps = axis_maps(warp if len(within) == len(on) else take(warp, within))
        whole[within] = (maps[0].integral & maps[1].integral) | (warp.interpolation == "nearest")
        shrinking[within] = _shrink(maps)
    if maps is not None and (whole | ~on).all():
        return [_Job(np.arange(len(on)), partial(copy_pixels, warp=warp, maps=maps), exact=True)]
    first = np.zeros_like(on) if warp.interpolation == "nearest" else _shrinks_first(warp, on & ~straight)
    jobs = []
    if maps is not None:
        for chosen, sampler in (
            (whole, copy_pixels),
            (~whole & shrinking, filter_axes),
            (~whole & ~shrinking, sample_axes),
        ):
            where = np.flatnonzero(straight & chosen & on)
            if len(where):
                places = np.searchsorted(within, where)
                own = maps if len(places) == len(within) else (maps[0].take(places), maps[1].take(places))
                sample = partial(sampler, warp=_part(warp, where), maps=own)
                jobs.append(_Job(where, sample, sampler is copy_pixels))
    for chosen, turner in ((first, _filter_then_turn), (~straight & ~first, sample_homography)):
        where = np.flatnonzero(chosen & on)
        if len(where):
            jobs.append(_Job(where, partial(turner, warp=_part(warp, where))))
    return jobs


def _part(warp: Warp, where: np.ndarray) -> Warp:
    """The warp of the samples at places `where`: itself if those are all."""
    return warp if len(where) == len(warp.on) else take(warp, where)


def _shrink(maps: AxisMaps) -> np.ndarray:
    """(n,) bool where either axis averages source pixels."""
    return maps[0].shrinks | maps[1].shrinks


def _last_resize(warp: Warp) -> int:
    """Count the steps up to and including the last one that changes the size; 0 for none."""
    sizes = frame_sizes(warp)
    return max((place + 1 for place, step in enumerate(warp.steps) if step.size != sizes[place]), default=0)


def _shrinks_first(warp: Warp, chosen: np.ndarray) -> np.ndarray:
    """(n,) bool: chosen samples whose steps up to the last resize are axis-aligned and shrink, and are to be antialiased."""
    count = _last_resize(warp)
    shrinks = np.zeros_like(chosen)
    if not (warp.antialias and count and chosen.any()):
        return shrinks
    where = np.flatnonzero(chosen & axis_aligned(warp.steps[:count]))
    if len(where):
        shrinks[where] = _shrink(axis_maps(take(warp, where, slice(0, count))))
    return shrinks


def _filter_then_turn(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Carry out the steps up to the last resize, which shrink, and then the others: two resamplings."""
    everything, count = np.arange(len(images)), _last_resize(warp)
    shrunk = _resample_once(images, take(warp, everything, slice(0, count)))
    return _resample_once(shrunk, take(warp, everything, slice(count, None)))
