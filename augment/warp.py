"""Consecutive geometric operations on a batch of images as one resampling: differentiable, on any device.

What is only cut, scaled, mirrored and shifted is two small matrix products an image, or plain indexing where no pixel is mixed
with another; everything else is one `grid_sample`. Which of these a sample takes is decided for it alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from augment import frames
from augment.frames import Axis, Stage
from augment.program import Warp


def apply_warp(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Warp images (n, C, H, W), float for `bilinear`, any dtype for `nearest`, into (n, C, h, w).

    What is cut out and resized is filtered by a triangle where it shrinks (`antialias`), as `interpolate(antialias=True)`
    does inside the box; a sample that turns after that is resampled twice, so as not to lose the filter. Other warps are
    not filtered, as they are not in Kornia.
    """
    assert images.shape[2:] == warp.size_in, f"a warp of {warp.size_in} got images of {tuple(images.shape[2:])}"
    rolls = [place for place, step in enumerate(warp.steps) if step.roll is not None]
    if rolls:
        return _around_roll(images, warp, rolls[0])
    aligned = frames.axis_aligned(warp)
    groups = [np.flatnonzero(group) for group in (~warp.on, warp.on & aligned, warp.on & ~aligned)]
    made = [
        _one_kind(
            images if len(places) == len(images) else images[torch.from_numpy(places).to(images.device)],
            warp,
            places,
            kind,
        )
        for kind, places in enumerate(groups)
        if len(places)
    ]
    if len(made) == 1:
        return made[0]
    order = np.concatenate(groups).argsort()
    result = torch.cat(made)[torch.from_numpy(order).to(images.device)]
    return _as_given(result, images)


def _one_kind(images: torch.Tensor, warp: Warp, places: np.ndarray, kind: int) -> torch.Tensor:
    if kind == 0:
        return images
    part = warp if len(places) == len(warp.on) else frames.take(warp, places)
    if kind == 1:
        return _as_given(_aligned(images, part), images)
    shrinks = _shrinks_first(part)
    if not shrinks.any():
        return _as_given(_gridded(images, frames.stages(part), part), images)
    if shrinks.all():
        first = _aligned(images, frames.part(part, 0, 1))
        rest = frames.part(part, 1, len(part.steps))
        return _as_given(_gridded(first, frames.stages(rest), rest), images)
    groups = [np.flatnonzero(shrinks), np.flatnonzero(~shrinks)]
    made = [
        _one_kind(images[torch.from_numpy(group).to(images.device)], frames.take(part, group), group, 2)
        for group in groups
    ]
    return torch.cat(made)[torch.from_numpy(np.concatenate(groups).argsort()).to(images.device)]


def _shrinks_first(warp: Warp) -> np.ndarray:
    """Samples whose first step is a cut-out that shrinks, with something else to come that is not along the axes."""
    matrix = warp.steps[0].matrix
    if not warp.antialias or warp.interpolation == "nearest" or len(warp.steps) == 1 or warp.steps[0].clamp is None:
        return np.zeros(len(matrix), bool)
    return frames.axis_aligned(frames.part(warp, 0, 1)) & (
        (np.abs(matrix[:, 0, 0]) < 1 - 1e-6) | (np.abs(matrix[:, 1, 1]) < 1 - 1e-6)
    )


def _around_roll(images: torch.Tensor, warp: Warp, place: int) -> torch.Tensor:
    if place:
        images = apply_warp(images, frames.part(warp, 0, place))
    roll = warp.steps[place].roll
    assert roll is not None
    height, width = images.shape[2:]
    rows = torch.from_numpy((np.arange(height) - roll[:, :1]) % height).to(images.device)
    columns = torch.from_numpy((np.arange(width) - roll[:, 1:]) % width).to(images.device)
    images = _picked(images, rows, columns)
    if place + 1 < len(warp.steps):
        images = apply_warp(images, frames.part(warp, place + 1, len(warp.steps)))
    return images


def _picked(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Pixels at rows (n, h) and columns (n, w)."""
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _aligned(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    rows, columns = frames.axes(warp)
    exact = rows.exact & columns.exact
    if warp.interpolation == "nearest" or exact.all():
        return _indexed(images, rows, columns, warp.fill)
    if exact.any():
        groups = [np.flatnonzero(exact), np.flatnonzero(~exact)]
        made = [
            _aligned(images[torch.from_numpy(group).to(images.device)], frames.take(warp, group)) for group in groups
        ]
        return torch.cat(made)[torch.from_numpy(np.concatenate(groups).argsort()).to(images.device)]
    antialias = warp.antialias and warp.steps[0].clamp is not None
    down, inside_down = _matrix(rows, antialias, images)
    across, inside_across = _matrix(columns, antialias, images)
    count, channels, height, width = images.shape
    wide = torch.bmm(images.reshape(count, channels * height, width), across.transpose(1, 2))
    result = (down[:, None] @ wide.reshape(count, channels, height, -1)).contiguous()
    if warp.fill:
        result = result + warp.fill * (1 - inside_down[:, None, :, None] * inside_across[:, None, None, :])
    return result


def _matrix(axis: Axis, antialias: bool, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, out, in) weights along an axis, and (n, out) what they sum to; the rest is fill."""
    device = like.device
    source, share = (
        torch.from_numpy(axis.source).to(device),
        torch.from_numpy(np.ascontiguousarray(axis.share)).to(device),
    )
    low, high = (torch.from_numpy(bound).to(device)[:, None, None] for bound in (axis.low, axis.high))
    width = np.minimum(np.abs(axis.scale), 1.0) if antialias else np.ones_like(axis.scale)
    slope = torch.from_numpy(width).to(device)[:, None, None]
    pixel = torch.arange(axis.length, device=device, dtype=torch.float64)
    if not antialias and axis.clamped:
        source = source.clamp(low[:, :, 0], high[:, :, 0])
    weights = (1 - (pixel - source[:, :, None]).abs() * slope).clamp(min=0)
    weights = torch.where((pixel >= low) & (pixel <= high), weights, 0)
    total = weights.sum(2)
    if not axis.clamped:
        whole = _triangle_sum(source, slope[:, :, 0])
        share = share * total / whole
    weights = weights * (share / total.clamp(min=1e-30))[:, :, None]
    return weights.to(like.dtype), share.to(like.dtype)


def _triangle_sum(source: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Sum of a triangle's weights over all whole numbers, in the frame or not."""
    reach = int(torch.ceil(1 / slope.min()).item()) + 1
    near = torch.arange(-reach, reach + 1, device=source.device, dtype=source.dtype)
    offset = near + (source.round() - source)[:, :, None]
    return (1 - offset.abs() * slope[:, :, None]).clamp(min=0).sum(2)


def _indexed(images: torch.Tensor, rows: Axis, columns: Axis, fill: float) -> torch.Tensor:
    picked, inside = [], []
    for axis in (rows, columns):
        nearest = np.floor(axis.source + 0.5)
        there = axis.share > 0.5
        if not axis.clamped:
            there = there & (nearest >= 0) & (nearest <= axis.length - 1)
        picked.append(
            torch.from_numpy(nearest.clip(axis.low[:, None], axis.high[:, None]).astype(np.int64)).to(images.device)
        )
        inside.append(torch.from_numpy(there).to(images.device))
    result = _picked(images, *picked)
    if all(bool(there.all()) for there in inside):
        return result
    beyond = torch.tensor(fill, device=images.device).to(images.dtype)
    return torch.where((inside[0][:, :, None] & inside[1][:, None, :])[:, None], result, beyond)


def _gridded(images: torch.Tensor, stages: tuple[Stage, ...], warp: Warp) -> torch.Tensor:
    work = torch.float64 if images.dtype == torch.float64 else torch.float32
    device = images.device
    height, width = stages[-1].size
    x = torch.arange(width, device=device, dtype=work).expand(1, height, width)
    y = torch.arange(height, device=device, dtype=work)[:, None].expand(1, height, width)
    share: torch.Tensor | None = None
    for place in range(len(stages) - 1, -1, -1):
        stage = stages[place]
        for edge in stage.edges:
            there = _covered(*_mapped(edge.inverse, x, y), edge.size)
            there = torch.where(torch.from_numpy(edge.matters).to(device)[:, None, None], there, 1)
            share = there if share is None else share * there
        x, y = _mapped(stage.inverse, x, y)
        if stage.clamp is not None:
            left, top, right, bottom = torch.from_numpy(stage.clamp).to(device, work).T[:, :, None, None]
            x, y = torch.maximum(torch.minimum(x, right), left), torch.maximum(torch.minimum(y, bottom), top)
        elif place:
            there = _covered(x, y, stage.size_in)
            share = there if share is None else share * there
            x, y = x.clamp(0, stage.size_in[1] - 1), y.clamp(0, stage.size_in[0] - 1)
    grid = torch.stack([(2 * x + 1) / stages[0].size_in[1] - 1, (2 * y + 1) / stages[0].size_in[0] - 1], -1)
    padding = "zeros" if stages[0].clamp is None else "border"
    given = images.to(work) if images.dtype not in (torch.float32, torch.float64) else images
    made = functional.grid_sample(
        given - warp.fill if warp.fill else given, grid, warp.interpolation, padding, align_corners=False
    )
    if share is not None:
        made = made * ((share > 0.5).to(work) if warp.interpolation == "nearest" else share)[:, None]
    return (made + warp.fill if warp.fill else made).to(images.dtype)


def _mapped(matrix: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    m = torch.from_numpy(np.ascontiguousarray(matrix)).to(x.device, x.dtype)[:, :, :, None, None]
    new_x, new_y = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2], m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
    if (matrix[:, 2, :2] == 0).all():
        return new_x, new_y
    depth = m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]
    return new_x / depth, new_y / depth


def _covered(x: torch.Tensor, y: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """How much of bilinear samples lies on a frame's pixels."""
    across = torch.minimum(x + 1, size[1] - x).clamp(0, 1)
    return across * torch.minimum(y + 1, size[0] - y).clamp(0, 1)


def _as_given(result: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """In the memory format of the images that came in."""
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return result.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
