"""The four samplers: ways to read the pixels of a batch by a warp. Which of them a sample takes, `augment.warp` decides.

* `copy_pixels`: whole pixels, where every output pixel is one of the source: flips, shifts, crops, and nearest interpolation.
* `filter_axes`: weighted sums along rows and along columns, where an axis-aligned warp shrinks.
* `sample_axes`: bilinear interpolation on a grid made of one position a row and one a column, where it does not shrink.
* `sample_homography`: a position for every pixel, for turns, shears and perspectives.

All take images (n, C, H, W) and return new images (n, C, h, w) of the same memory format, black or `warp.fill` where nothing is read.

Worked example, on one row of pixels: mirrored, shrunk to half, and stretched to double; last a square is turned by 90 degrees.
Shrunk, output 0 lies at 0.5 of the source and weighs its pixels 0, 1 and 2 by a triangle two pixels wide to either side: 0.75,
0.75 and 0.25, which over their sum are 3/7, 3/7 and 1/7. Stretched, the positions are -0.25, 0.25, 0.75 and 1.25, of which the
outer two are held at the outermost centres.

>>> from augment.axis_maps import axis_maps
>>> from augment.draws import draw, program
>>> from augment.policy import load
>>> def moved(sampler, operation, rows):
...     images = torch.tensor(rows)[None, None]
...     (warp,) = program(draw(load([operation]), ["some key"], tuple(images.shape[2:])))
...     maps = () if sampler is sample_homography else (axis_maps(warp),)
...     return [[round(value, 4) for value in row] for row in sampler(images, warp, *maps)[0, 0].tolist()]
>>> moved(copy_pixels, {"horizontal_flip": {"p": 1.0}}, [[0.0, 7.0, 14.0, 21.0]])
[[21.0, 14.0, 7.0, 0.0]]
>>> moved(filter_axes, {"resize": {"size": [1, 2]}}, [[0.0, 7.0, 14.0, 21.0]])
[[5.0, 16.0]]
>>> moved(sample_axes, {"resize": {"size": [1, 4]}}, [[0.0, 8.0]])
[[0.0, 2.0, 6.0, 8.0]]
>>> moved(sample_homography, {"rotate": {"degrees": 90}}, [[1.0, 2.0], [3.0, 4.0]])
[[2.0, 4.0], [1.0, 3.0]]
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from augment.axis_maps import AxisMaps
from augment.homography import Frame, frames_back
from augment.program import Warp
from augment.resample import coverage, nearest, positions, resample, to_device

_FAR = 1e4  # in units of half a frame: certainly outside, and finite
_CACHED = 1 << 19  # pixels of output computed at a time on a CPU where much is computed on the way
_BLOCK = 1 << 14  # elements of an image from which copying row by row beats one gather on a CPU


def layout_of(images: torch.Tensor) -> torch.memory_format:
    """The memory format to give to a result: channels_last if `images` are that and nothing else."""
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def copy_pixels(images: torch.Tensor, warp: Warp, maps: AxisMaps) -> torch.Tensor:
    """Copy whole pixels of images (n, C, H, W), of any dtype, by row and column."""
    rows, columns = maps
    upside, mirrored = rows.flips, columns.flips
    if upside is not None and mirrored is not None:
        return _flip(images, upside, mirrored)
    (y, y_inside), (x, x_inside) = (nearest(each, to_device(each, images.device)) for each in maps)
    inside = None
    if y_inside is not None or x_inside is not None:
        everywhere = torch.ones((1, 1, 1), dtype=torch.bool, device=images.device)
        inside = (everywhere if y_inside is None else y_inside[:, :, None]) & (
            everywhere if x_inside is None else x_inside[:, None, :]
        )
    if images.device.type == "cpu" and images[0].numel() >= _BLOCK and not images.requires_grad:
        copies = images.new_empty(len(images), images.shape[1], rows.size, columns.size)
        for image, copy, row, column in zip(images, copies, y, x, strict=True):
            torch.index_select(image.index_select(1, row), 2, column, out=copy)
        copies = copies.contiguous(memory_format=layout_of(images))
    else:
        copies = _gather(images, y[:, :, None], x[:, None, :])
    return copies if inside is None else _fill_outside(copies, inside, warp.fill)


def _flip(images: torch.Tensor, upside: np.ndarray, mirrored: np.ndarray) -> torch.Tensor:
    """Turn each image over along the axes where `upside` and `mirrored` (n,) bool say so."""
    kinds = [
        (np.flatnonzero((upside == up) & (mirrored == side)), [axis for axis, on in ((-2, up), (-1, side)) if on])
        for up in (False, True)
        for side in (False, True)
    ]
    kinds = [(where, axes) for where, axes in kinds if len(where)]
    if len(kinds) == 1:
        return images.flip(kinds[0][1]) if kinds[0][1] else images.clone()
    if images.device.type == "cpu" and images[0].numel() >= _BLOCK and not images.requires_grad:
        flipped = torch.empty_like(images)
        for where, axes in kinds:
            for sample in where.tolist():
                flipped[sample] = images[sample].flip(axes) if axes else images[sample]
        return flipped
    flipped = images.clone()
    for where, axes in kinds:
        if axes:
            index = torch.from_numpy(where).to(images.device)
            flipped = flipped.index_copy_(0, index, images.index_select(0, index).flip(axes))
    return flipped


def _gather(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Read the pixels y, x (n, h, w) int64 of images (n, C, H, W), of any dtype."""
    channels, height, width = images.shape[1:]
    index = y * width + x
    flat = index.flatten(1)
    if layout_of(images) == torch.channels_last:
        pixels = images.permute(0, 2, 3, 1).reshape(len(images), height * width, channels)
        gathered = pixels.gather(1, flat[:, :, None].expand(-1, -1, channels))
        return gathered.view(len(images), *index.shape[1:], channels).permute(0, 3, 1, 2)
    pixels = images.reshape(len(images), channels, height * width)
    return pixels.gather(2, flat[:, None].expand(-1, channels, -1)).view(len(images), channels, *index.shape[1:])


def _fill_outside(images: torch.Tensor, inside: torch.Tensor, fill: float) -> torch.Tensor:
    """Set the pixels that are not `inside` (n, h, w) to `fill` in [0, 1], in levels of 255 for integers; writes to `images`."""
    if images.dtype == torch.bool:
        return images & inside[:, None] if not fill else images | ~inside[:, None]
    value = fill if images.is_floating_point() else round(fill * 255)
    return images.masked_fill_(~inside[:, None], value)  # always fresh: in place keeps its layout


def filter_axes(images: torch.Tensor, warp: Warp, maps: AxisMaps) -> torch.Tensor:
    """Resample images (n, C, H, W) float by weighted sums along both axes, as they shrink; differentiable."""
    return resample(images, *maps, warp.fill)


def sample_axes(images: torch.Tensor, warp: Warp, maps: AxisMaps) -> torch.Tensor:
    """Interpolate images (n, C, H, W) float at one position a row and one a column; differentiable."""
    centres, covers = [], []
    for each in reversed(maps):  # x before y
        numbers = to_device(each, images.device)
        index, position = positions(each, numbers)
        centres.append(((2 * position + 1) / each.size_in - 1).to(images.dtype))
        covers.append(coverage(each, numbers, index, edge=False))
    grid = _grid(centres[0][:, None, :], centres[1][:, :, None])
    wide, tall = (None if cover is None else cover.to(images.dtype) for cover in covers)
    cover = None
    if wide is not None or tall is not None:
        one = images.new_ones((1, 1, 1))
        cover = (one if tall is None else tall[:, :, None]) * (one if wide is None else wide[:, None, :])
    return _interpolate(images, grid, cover, warp)


def _grid(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n, h, w, 2) with x and y in planes of their own: `grid_sample` reads that as fast, and it is written faster."""
    shape = torch.broadcast_shapes(x.shape, y.shape)
    planes = x.new_empty(shape[0], 2, *shape[1:])
    planes[:, 0], planes[:, 1] = x, y
    return planes.permute(0, 2, 3, 1)


def _interpolate(images: torch.Tensor, grid: torch.Tensor, cover: torch.Tensor | None, warp: Warp) -> torch.Tensor:
    """Read `images` at a grid (n, h, w, 2) in -1..1, with `warp.fill` beyond the source and where `cover` (n, h, w) leaves a share.

    `grid_sample` fades to zero beyond the source, so it is given images in which `warp.fill` is zero.
    """
    values = images - warp.fill if warp.fill else images
    sampled = F.grid_sample(values, grid, warp.interpolation, "zeros", align_corners=False)
    if cover is not None:
        sampled = sampled * cover[:, None]
    if warp.fill:
        sampled = sampled + warp.fill
    return sampled.contiguous(memory_format=layout_of(images))


def sample_homography(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Read images (n, C, H, W) at a position for each output pixel, through the frames that cut; floats unless the nearest is read."""
    frames, to_source = frames_back(warp)
    kind = images.dtype if images.is_floating_point() else torch.float32
    numbers = torch.from_numpy(_pack(frames, to_source)).to(images.device, kind)
    x, y = (axis[:, None] for axis in _centres(warp, images.device, kind))
    x, y = (axis.expand(len(images), -1, -1) for axis in (x, y.transpose(1, 2)))
    height, width = warp.size
    count = len(images)
    if (
        frames and images.device.type == "cpu"
    ):  # a few at a time, so that what is computed on the way stays in the cache
        count = max(1, _CACHED // (height * width))
    parts = []
    for some in (slice(start, start + count) for start in range(0, len(images), count)):
        source_x, source_y, cover = _positions(frames, to_source, numbers[some], x[some], y[some], warp)
        if warp.interpolation == "nearest":
            parts.append(_read_nearest(images[some], source_x, source_y, cover, warp.fill))
        else:
            parts.append(_interpolate(images[some], _grid(source_x, source_y), cover, warp))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pack(frames: list[Frame], to_source: np.ndarray) -> np.ndarray:
    """(n, 9 + 17 a frame) float64 for one copy to a device: `to_source`, then each frame's matrix, low, high, slope and offset."""
    columns = [to_source.reshape(len(to_source), 9)]
    for frame in frames:
        columns += [frame.matrix.reshape(len(to_source), 9), *frame[1:]]
    return np.concatenate(columns, 1)


def _centres(warp: Warp, device: torch.device, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x (n or 1, w) and y (n or 1, h) of the output's pixels in -1..1, as they were before the last roll."""
    centres = []
    for axis, side in ((1, warp.size[1]), (0, warp.size[0])):
        index = torch.arange(side, device=device)[None]
        roll = warp.steps[-1].roll
        if roll is not None:
            index = (index - torch.from_numpy(roll[:, axis : axis + 1]).to(device)).remainder(side)
        centres.append((2 * index.to(kind) + 1) / side - 1)
    return centres[0], centres[1]


def _positions(
    frames: list[Frame],
    to_source: np.ndarray,
    numbers: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    warp: Warp,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Carry output pixels x (n, 1, w) and y (n, h, 1) to the source: x and y (n, h, w) there, and what share the frames cover.

    The share is None where no frame fades. `numbers` is what `_pack` packs, for some of the samples.
    """
    cover = None
    for place, frame in enumerate(frames):
        columns = numbers[:, 9 + 17 * place : 26 + 17 * place]
        x, y = _mapped(columns[:, :9], frame.matrix, x, y)
        low, high, slope, offset = columns[:, 9:, None, None].unflatten(1, (4, 2)).unbind(1)
        if frame.slope.any():
            for coordinate, axis in ((x, 0), (y, 1)):
                share = torch.addcmul(offset[:, axis], coordinate.abs(), slope[:, axis], value=-1)
                # half covered is where the outermost pixel's area ends
                share = (share > 0.5).to(share.dtype) if warp.interpolation == "nearest" else share.clamp_(0, 1)
                cover = share if cover is None else cover * share
        x, y = (torch.clamp(coordinate, low[:, axis], high[:, axis]) for coordinate, axis in ((x, 0), (y, 1)))
    if not (to_source == np.eye(3)).all():
        x, y = _mapped(numbers[:, :9], to_source, x, y)
    return x, y, cover


def _mapped(
    numbers: torch.Tensor, matrix: np.ndarray, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map points x, y by (n, 9) matrices; `matrix` holds them on the host, for all samples, and tells which terms no sample has."""
    m = numbers[:, :, None, None].unbind(1)
    across = torch.addcmul(torch.addcmul(m[2], m[1], y) if matrix[:, 0, 1].any() else m[2], m[0], x)
    down = (
        torch.addcmul(torch.addcmul(m[5], m[4], y), m[3], x) if matrix[:, 1, 0].any() else torch.addcmul(m[5], m[4], y)
    )
    if not (matrix[:, 2] == [0, 0, 1]).all():
        depth = torch.addcmul(torch.addcmul(m[8], m[7], y), m[6], x)
        visible = depth > 1e-6
        across, down = ((coordinate / depth).clamp_(-_FAR, _FAR).where(visible, _FAR) for coordinate in (across, down))
    return across, down


def _read_nearest(
    images: torch.Tensor, x: torch.Tensor, y: torch.Tensor, cover: torch.Tensor | None, fill: float
) -> torch.Tensor:
    """Read the pixel that each position x, y (n, h, w) in -1..1 lies in, `fill` outside the source and where nothing is covered."""
    height, width = images.shape[2:]
    column, row = (((coordinate + 1) * (side / 2)).floor() for coordinate, side in ((x, width), (y, height)))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    if cover is not None:
        inside = inside & (cover > 0)
    pixels = _gather(images, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long())
    return _fill_outside(pixels, inside, fill)
