"""Axis-aligned resampling on the device: where each output row and column reads, as positions, whole pixels or short weighted sums.

A separable filter is a matrix with a few entries in each row. It is applied as a bag of weighted rows, twice, with a
transposition in between: no entry that is zero is read, which at 512 px is about four times faster than the dense product on a CPU.
Bag is torch's word (`embedding_bag`): some rows of a table, weighed and added up.
"""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import torch
import torch.nn.functional as F

from augment.axis_maps import AxisMap, EdgeFade


def to_device(axis_map: AxisMap, device: torch.device) -> dict[str, torch.Tensor]:
    """Copy a map's numbers to a device at once, as (n, 1) float64 columns by field; those of its k-th fade end in k."""
    names = [field.name for field in fields(axis_map) if isinstance(getattr(axis_map, field.name), np.ndarray)]
    columns = {name: getattr(axis_map, name) for name in names}
    for place, fade in enumerate(_fades(axis_map, True)):
        columns |= {f"{name}{place}": getattr(fade, name) for name in ("scale", "shift", "low", "high")}
    packed = torch.from_numpy(np.stack([column.astype(float) for column in columns.values()])[..., None]).to(device)
    return dict(zip(columns, packed, strict=True))


def positions(axis_map: AxisMap, numbers: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Output indices after rolling, (n or 1, size), and the source positions (n, size) they read; float64, unclipped by the source.

    `numbers` here and below are the map's own on the device, from `to_device`.
    """
    index = torch.arange(axis_map.size, dtype=torch.float64, device=numbers["scale"].device)[None]
    if "roll" in numbers:
        index = (index - numbers["roll"]).remainder(axis_map.size)
    return index, _position(numbers, index, "")


def coverage(
    axis_map: AxisMap, numbers: dict[str, torch.Tensor], index: torch.Tensor, edge: bool
) -> torch.Tensor | None:
    """(n, size) share of each output index inside every frame on the way, the source's own too if `edge`; None for all of it."""
    cover = None
    for place, fade in enumerate(_fades(axis_map, edge)):
        position = _position(numbers, index, place)
        share = torch.minimum(position + 1, fade.size - position).clamp_(0, 1)
        cover = share if cover is None else cover * share
    return cover


def _fades(axis_map: AxisMap, edge: bool) -> tuple[EdgeFade, ...]:
    """The fades of a map, the source's own last if `edge`."""
    return (*axis_map.fades, axis_map.edge) if edge and axis_map.edge is not None else axis_map.fades


def _position(numbers: dict[str, torch.Tensor], index: torch.Tensor, place: int | str) -> torch.Tensor:
    """Where output indices read in the frame of a fade, or in the source for the place ""."""
    return torch.clamp(
        numbers[f"scale{place}"] * index + numbers[f"shift{place}"], numbers[f"low{place}"], numbers[f"high{place}"]
    )


def nearest(axis_map: AxisMap, numbers: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(n, size) int64 pixel read by each output index, and (n, size) bool whether it is inside every frame; None for all."""
    index, position = positions(axis_map, numbers)
    inside = None
    for place, fade in enumerate(_fades(axis_map, True)):
        pixel = _round(_position(numbers, index, place))
        within = (pixel >= 0) & (pixel < fade.size)
        inside = within if inside is None else inside & within
    source = torch.clamp(_round(position), numbers["first"], numbers["last"])
    return source.clamp_(0, axis_map.size_in - 1).long(), inside


def _round(position: torch.Tensor) -> torch.Tensor:
    """Round halves up, as F.interpolate's nearest-exact does, also when float arithmetic fell just short of the half."""
    return (position + (0.5 + 1e-6)).floor()


def taps(axis_map: AxisMap, numbers: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, size, K) int32 pixels and float64 weights of each output index; a row's weights sum to its coverage.

    Pixels beyond a crop's box are left out and the rest is weighed up to one, as in F.interpolate with antialias. Taps that a
    sample does not need weigh nothing.
    """
    index, _ = positions(axis_map, numbers)
    cover = coverage(axis_map, numbers, index, edge=True)
    position = numbers["scale"] * index + numbers["shift"]  # a box bounds the taps, not the position
    width = numbers["width"]
    start = (position - width).floor() + 1
    pixel = start[..., None] + torch.arange(math.ceil(2 * float(axis_map.width.max())), device=start.device)
    readable = torch.clamp(pixel, numbers["first"][..., None], numbers["last"][..., None])
    weight = (1 - (pixel - position[..., None]).abs_().div_(width[..., None])).clamp_(min=0) * (readable == pixel)
    total = _in_order(weight)[..., None]
    alone = torch.arange(weight.shape[-1], device=start.device) == 0
    weight = torch.where(total > 0, weight / total, alone.to(weight.dtype))
    if cover is not None:
        weight = weight * cover[..., None]
    return readable.clamp_(0, axis_map.size_in - 1).int(), weight


def _in_order(weights: torch.Tensor) -> torch.Tensor:
    """Sum over the last axis, one after the other: zeros at the end, for the taps of other samples, do not change a bit."""
    if weights.device.type == "cpu":
        return weights.cumsum(-1)[..., -1]
    total = weights[..., 0]
    for tap in range(1, weights.shape[-1]):
        total = total + weights[..., tap]
    return total


def resample(images: torch.Tensor, rows: AxisMap, columns: AxisMap, fill: float) -> torch.Tensor:
    """Filter and resample (n, C, H, W) float32 or float64 along both axes to (n, C, h, w); keeps channels_last; differentiable.

    `fill` in [0, 1] is what the uncovered share of an output pixel is made of.
    """
    count, channels, height, width = images.shape
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    row_pixels, row_weights = taps(rows, to_device(rows, images.device))
    column_pixels, column_weights = taps(columns, to_device(columns, images.device))
    planes = 1 if last else channels
    table = images.permute(0, 2, 3, 1) if last else images.contiguous()
    output = _bags(table.reshape(count * planes, height, -1), row_pixels, row_weights)
    # channels_last: (n, h, W C); else (n, C h, W). Transposed, either is W rows of all that shares a column
    output = output.view(count, rows.size, -1) if last else output.view(count, -1, width)
    output = _bags(_transposed(output).view(count, width, -1), column_pixels, column_weights)
    if last:
        output = _transposed(output.view(count, columns.size * channels, rows.size))
        output = output.view(count, rows.size, columns.size, channels).permute(0, 3, 1, 2)
    else:
        output = _transposed(output).view(count, channels, rows.size, columns.size)
    return _fill(output, row_weights, column_weights, fill) if fill else output


def _bags(table: torch.Tensor, pixels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(m, H, L) and (n, h, K) pixels and weights, m a multiple of n, to (m, h, L): weighted sums of rows."""
    repeats = len(table) // len(pixels)
    height, length = table.shape[1:]
    offsets = torch.arange(len(table), dtype=torch.int32, device=table.device) * height
    index = pixels.repeat_interleave(repeats, 0).add_(offsets[:, None, None])
    sums = F.embedding_bag(
        index.view(-1, index.shape[-1]),
        table.reshape(-1, length),
        mode="sum",
        per_sample_weights=weights.to(table.dtype).repeat_interleave(repeats, 0).view(-1, index.shape[-1]),
    )
    return sums.view(len(table), -1, length)


def _transposed(planes: torch.Tensor) -> torch.Tensor:
    """(n, a, b) to (n, b, a), contiguous. One plane at a time on a CPU: torch has a blocked copy for those only."""
    if planes.device.type != "cpu" or planes.requires_grad:
        return planes.transpose(1, 2).contiguous()
    transposed = planes.new_empty(planes.shape[0], planes.shape[2], planes.shape[1])
    for plane, target in zip(planes, transposed, strict=True):
        target.copy_(plane.t())
    return transposed


def _fill(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, fill: float) -> torch.Tensor:
    """Add `fill` where the weights of rows and columns leave a share uncovered."""
    tall, wide = (_in_order(weights).to(images.dtype) for weights in (rows, columns))
    return images.addcmul(tall[:, None, :, None], wide[:, None, None, :], value=-fill).add_(fill)
