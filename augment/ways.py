"""The ways to move the pixels of a batch: copied whole, filtered along both axes, stretched, or looked up one by one."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from augment.homography import Stage, stages
from augment.lines import Lines
from augment.program import Warp
from augment.resample import coverage, nearest, positions, resample, to_device

_FAR = 1e4  # in units of half a frame: certainly outside, and finite
_CACHED = 1 << 19  # pixels of output made at a time on a CPU where much is made on the way
_BLOCK = 1 << 14  # elements of an image from which copying row by row beats one gather on a CPU


def layout_of(images: torch.Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def copied(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
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
        made = made.contiguous(memory_format=layout_of(images))
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
    if images.device.type == "cpu" and images[0].numel() >= _BLOCK and not images.requires_grad:
        made = torch.empty_like(images)
        for where, axes in kinds:
            for sample in where.tolist():
                made[sample] = images[sample].flip(axes) if axes else images[sample]
        return made
    made = images.clone()
    for where, axes in kinds:
        if axes:
            index = torch.from_numpy(where).to(images.device)
            made = made.index_copy_(0, index, images.index_select(0, index).flip(axes))
    return made


def _gathered(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Pixels y, x (n, h, w) of images (n, C, H, W), of any dtype."""
    channels, height, width = images.shape[1:]
    index = y * width + x
    flat = index.flatten(1)
    if layout_of(images) == torch.channels_last:
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


def filtered(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    """Axis-aligned, by weighted rows and columns."""
    assert lines is not None
    return resample(images, *lines, warp.fill)


def stretched(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    """Axis-aligned and not shrinking: a grid of one position a row and one a column."""
    assert lines is not None
    rows, columns = lines
    places, covers = [], []
    for each in (columns, rows):
        on = to_device(each, images.device)
        index, position = positions(each, on)
        places.append(((2 * position + 1) / each.size_in - 1).to(images.dtype))
        covers.append(coverage(each, on, index, edge=False))
    grid = _grid(places[0][:, None, :], places[1][:, :, None])
    wide, tall = (None if cover is None else cover.to(images.dtype) for cover in covers)
    cover = None
    if wide is not None or tall is not None:
        one = images.new_ones((1, 1, 1))
        cover = (one if tall is None else tall[:, :, None]) * (one if wide is None else wide[:, None, :])
    return _sampled(images, grid, cover, warp)


def _grid(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n, h, w, 2) with x and y in planes of their own: `grid_sample` reads that as fast, and it is made faster."""
    shape = torch.broadcast_shapes(x.shape, y.shape)
    planes = x.new_empty(shape[0], 2, *shape[1:])
    planes[:, 0], planes[:, 1] = x, y
    return planes.permute(0, 2, 3, 1)


def _sampled(images: torch.Tensor, grid: torch.Tensor, cover: torch.Tensor | None, warp: Warp) -> torch.Tensor:
    """`grid_sample`, with zero where `warp.fill` is to be: it fades to zero beyond the source."""
    values = images - warp.fill if warp.fill else images
    made = F.grid_sample(values, grid, warp.interpolation, "zeros", align_corners=False)
    if cover is not None:
        made = made * cover[:, None]
    if warp.fill:
        made = made + warp.fill
    return made.contiguous(memory_format=layout_of(images))


def turned(images: torch.Tensor, warp: Warp, lines: Lines | None) -> torch.Tensor:
    """Any homography: a position for each pixel, through the frames that bite."""
    frames, last = stages(warp)
    kind = images.dtype if images.is_floating_point() else torch.float32
    packed = [last.reshape(len(last), 9)]
    for stage in frames:
        packed += [stage.matrix.reshape(len(last), 9), *stage[1:]]
    numbers = torch.from_numpy(np.concatenate(packed, 1)).to(images.device, kind)
    x, y = (axis[:, None] for axis in _centres(warp, images.device, kind))
    x, y = (axis.expand(len(images), -1, -1) for axis in (x, y.transpose(1, 2)))
    height, width = warp.size
    count = len(images)
    if frames and images.device.type == "cpu":  # a few at a time, so that what is made on the way stays in the cache
        count = max(1, _CACHED // (height * width))
    made = [
        _looked_up(images[some], frames, last, numbers[some], x[some], y[some], warp)
        for some in (slice(start, start + count) for start in range(0, len(images), count))
    ]
    return made[0] if len(made) == 1 else torch.cat(made)


def _centres(warp: Warp, device: torch.device, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x (n or 1, w) and y (n or 1, h) of the output's pixels in -1..1, as they were before the last roll."""
    found = []
    for axis, side in ((1, warp.size[1]), (0, warp.size[0])):
        index = torch.arange(side, device=device)[None]
        roll = warp.steps[-1].roll
        if roll is not None:
            index = (index - torch.from_numpy(roll[:, axis : axis + 1]).to(device)).remainder(side)
        found.append((2 * index.to(kind) + 1) / side - 1)
    return found[0], found[1]


def _looked_up(
    images: torch.Tensor,
    frames: list[Stage],
    last: np.ndarray,
    numbers: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    warp: Warp,
) -> torch.Tensor:
    """Carry x (n, 1, w) and y (n, h, 1) to the source and read there; `numbers` (n, ...) are `last` and the stages' rows."""
    cover, at = None, 9
    for stage in frames:
        x, y = _mapped(numbers[:, at : at + 9], stage.matrix, x, y)
        low, high, slope, offset = numbers[:, at + 9 : at + 17, None, None].unflatten(1, (4, 2)).unbind(1)
        at += 17
        if stage.slope.any():
            for place, axis in ((x, 0), (y, 1)):
                share = torch.addcmul(offset[:, axis], place.abs(), slope[:, axis], value=-1)
                # half covered is where the outermost pixel's area ends
                share = (share > 0.5).to(share.dtype) if warp.interpolation == "nearest" else share.clamp_(0, 1)
                cover = share if cover is None else cover * share
        x, y = (torch.clamp(place, low[:, axis], high[:, axis]) for place, axis in ((x, 0), (y, 1)))
    if not (last == np.eye(3)).all():
        x, y = _mapped(numbers[:, :9], last, x, y)
    if warp.interpolation == "nearest":
        return _nearest(images, x, y, cover, warp.fill)
    return _sampled(images, _grid(x, y), cover, warp)


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
