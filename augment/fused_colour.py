"""A colour plan in one Triton kernel: a pixel is read once, goes through all entries in registers and is written once.

For a CUDA device and no gradient. A contrast needs the mean of what its entry is given, so each sample's contrasts cost one more
reading each: a first kernel runs the entries before it and leaves sums by block, which are added in a fixed order. Autocontrast
and equalize need extremes and histograms and are not here.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from augment import colour_plan
from augment.colour_plan import ColourPlan
from augment.pointwise import channel_means

WIDTH = 20  # numbers of an entry: A by row, constant, low, high, operation, value
PIXELS = 1024  # of a block
OPERATIONS = (colour_plan.NOTHING, colour_plan.HUE, colour_plan.GAMMA, colour_plan.SOLARIZE, colour_plan.POSTERIZE)
_HUE = tl.constexpr(colour_plan.HUE)
_GAMMA = tl.constexpr(colour_plan.GAMMA)
_SOLARIZE = tl.constexpr(colour_plan.SOLARIZE)
_POSTERIZE = tl.constexpr(colour_plan.POSTERIZE)
_WIDTH = tl.constexpr(WIDTH)


def can_fuse(plan: ColourPlan) -> np.ndarray:
    """(n,) bool: samples whose operations this kernel has, all of them."""
    return np.asarray(np.isin(plan.operation, OPERATIONS).all(1))


def apply_fused(images: Tensor, plan: ColourPlan) -> Tensor:
    """Carry out a plan on images (n, 3, H, W) of any float type on a CUDA device; returns new images of the same type and format."""
    count, _, height, width = images.shape
    pixels = height * width
    if not images.is_contiguous() and not images.is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous()
    out = torch.empty_like(images)
    table = torch.from_numpy(_table(plan)).to(images.device)
    blocks = triton.cdiv(pixels, PIXELS)
    strides = (images.stride(0), images.stride(1), images.stride(3))
    with torch.cuda.device(images.device) if images.is_cuda else nullcontext():  # Triton launches on the current one
        _add_means(images, plan, table, blocks, strides)
        total = table.shape[1]
        _entries_kernel[(count, blocks)](images, out, table, None, pixels, *strides, blocks, total, PIXELS)
    return out


def _add_means(images: Tensor, plan: ColourPlan, table: Tensor, blocks: int, strides: tuple[int, int, int]) -> None:
    """Add M m to the constants of the table, contrast after contrast of each sample; writes to `table`."""
    wants = np.asarray(plan.coefficients[..., 3:6].any((2, 3)))
    for number in range(int(wants.sum(1).max(initial=0))):
        rows = np.flatnonzero(wants.sum(1) > number)
        at = np.argsort(np.logical_not(wants[rows]), axis=1, kind="stable")[:, number]
        until = np.zeros(len(images), np.int32)
        until[rows] = at + 1  # 0: nothing to do
        sums = images.new_empty((len(images), 3, blocks), dtype=torch.float32)
        _entries_kernel[(len(images), blocks)](
            images,
            sums,
            table,
            torch.from_numpy(until).to(images.device),
            images.shape[2] * images.shape[3],
            *strides,
            blocks,
            table.shape[1],
            PIXELS,
        )
        place = torch.from_numpy(np.stack([rows, at])).to(images.device)
        weights = torch.from_numpy(plan.coefficients[rows, at, :, 3:6]).to(images.device, torch.float32)
        means = channel_means(sums[place[0]]) * (blocks / (images.shape[2] * images.shape[3]))
        red, green, blue = (weights * means[:, None]).unbind(2)
        table[place[0], place[1], 9:12] += red + green + blue


def _table(plan: ColourPlan) -> np.ndarray:
    """The plan as the kernel reads it, (n, R, WIDTH) float32."""
    count, total = plan.operation.shape
    table = np.empty((count, total, WIDTH), np.float32)
    table[..., :9] = plan.coefficients[..., :3].reshape(count, total, 9)
    table[..., 9:12] = plan.coefficients[..., 6]
    bounded = plan.clamp[..., None]
    table[..., 12:15] = np.where(bounded, plan.low, -np.inf)
    table[..., 15:18] = np.where(bounded, plan.high, np.inf)
    table[..., 18], table[..., 19] = plan.operation, plan.value
    return table


def _jit(function: Any) -> Any:
    return triton.jit(function)


@_jit
def _channel_of_hue(turn, chroma, top, bottom, shift):  # type: ignore[no-untyped-def]
    """clamp(V + C - ||t + shift C| - 3C|, m, V): see augment.pointwise.hue."""
    shift = shift - 6.0 * tl.floor(shift / 6.0) - 3.0
    wave = tl.abs(tl.abs(turn + shift * chroma) - 3.0 * chroma)
    return tl.minimum(tl.maximum(top + chroma - wave, bottom), top)


@_jit
def _plus(a, b):  # type: ignore[no-untyped-def]
    return a + b


@_jit
def _power(x, gamma):  # type: ignore[no-untyped-def]
    return tl.where(x > 0.0, tl.exp2(gamma * tl.log2(tl.maximum(x, 1e-30))), tl.where(gamma == 0.0, 1.0, 0.0))


@_jit
def _posterized(x, bits):  # type: ignore[no-untyped-def]
    levels = 255.0 * tl.exp2(bits - 8.0)
    return tl.where(bits == 8.0, x, tl.floor(x * levels) / levels)


@_jit
def _entries_kernel(  # type: ignore[no-untyped-def]
    images,
    out,
    table,
    until,
    pixels,
    sample_stride,
    channel_stride,
    pixel_stride,
    blocks,
    total,
    PIXELS: tl.constexpr,
):
    """Program (sample, block). With `until`, sums over the block of what entry until - 1 of the sample is given go to `out`."""
    sample = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    end = total
    if until is not None:
        end = tl.load(until + sample) - 1
        if end < 0:
            return
    place = block * PIXELS + tl.arange(0, PIXELS)
    inside = place < pixels
    source = images + sample * sample_stride + place * pixel_stride
    red = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    green = tl.load(source + channel_stride, mask=inside, other=0.0).to(tl.float32)
    blue = tl.load(source + 2 * channel_stride, mask=inside, other=0.0).to(tl.float32)
    for index in range(0, end):
        row = table + (sample * total + index) * _WIDTH
        r = tl.load(row) * red + tl.load(row + 1) * green + tl.load(row + 2) * blue + tl.load(row + 9)
        g = tl.load(row + 3) * red + tl.load(row + 4) * green + tl.load(row + 5) * blue + tl.load(row + 10)
        b = tl.load(row + 6) * red + tl.load(row + 7) * green + tl.load(row + 8) * blue + tl.load(row + 11)
        red = tl.minimum(tl.maximum(r, tl.load(row + 12)), tl.load(row + 15))
        green = tl.minimum(tl.maximum(g, tl.load(row + 13)), tl.load(row + 16))
        blue = tl.minimum(tl.maximum(b, tl.load(row + 14)), tl.load(row + 17))
        operation = tl.load(row + 18).to(tl.int32)
        value = tl.load(row + 19)
        if operation == _HUE:
            top = tl.maximum(tl.maximum(red, green), blue)
            bottom = tl.minimum(tl.minimum(red, green), blue)
            chroma = top - bottom
            way = tl.abs(green + blue - red + top - 2.0 * bottom)
            turn = tl.where(green >= blue, way, -way)
            red = _channel_of_hue(turn, chroma, top, bottom, 6.0 * value)
            green = _channel_of_hue(turn, chroma, top, bottom, 6.0 * value + 4.0)
            blue = _channel_of_hue(turn, chroma, top, bottom, 6.0 * value + 2.0)
        if operation == _GAMMA:
            red, green, blue = _power(red, value), _power(green, value), _power(blue, value)
        if operation == _SOLARIZE:
            red = tl.where(red < value, red, 1.0 - red)
            green = tl.where(green < value, green, 1.0 - green)
            blue = tl.where(blue < value, blue, 1.0 - blue)
        if operation == _POSTERIZE:
            red, green, blue = _posterized(red, value), _posterized(green, value), _posterized(blue, value)
    if until is not None:
        target = out + sample * 3 * blocks + block
        tl.store(target, tl.reduce(tl.where(inside, red, 0.0), 0, _plus))
        tl.store(target + blocks, tl.reduce(tl.where(inside, green, 0.0), 0, _plus))
        tl.store(target + 2 * blocks, tl.reduce(tl.where(inside, blue, 0.0), 0, _plus))
    else:
        target = out + sample * sample_stride + place * pixel_stride
        kind = out.dtype.element_ty
        tl.store(target, red.to(kind), mask=inside)
        tl.store(target + channel_stride, green.to(kind), mask=inside)
        tl.store(target + 2 * channel_stride, blue.to(kind), mask=inside)
