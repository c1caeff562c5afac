"""Colour on torch: the colour plan of a batch carried out on its images, in as few passes over memory as it takes.

Without a gradient on a CPU the batch goes through in blocks that stay in the second-level cache, every entry of the plan in place;
large images one at a time, with Python numbers in place of broadcast tensors (torch vectorises only those). Where the block
is cut depends on the size of an image alone, so that splitting a batch never changes a bit.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from augment import colour_plan, pointwise
from augment.colour_plan import ColourPlan, plan_colour
from augment.program import Colour

BLOCK = 1 << 17  # numbers in a block: half a mebibyte of float32

OPERATIONS: dict[int, Callable[..., Tensor]] = {
    colour_plan.HUE: pointwise.hue,
    colour_plan.GAMMA: pointwise.gamma,
    colour_plan.SOLARIZE: pointwise.solarize,
    colour_plan.POSTERIZE: pointwise.posterize,
    colour_plan.AUTOCONTRAST: pointwise.autocontrast,
    colour_plan.EQUALIZE: pointwise.equalize,
}


class Pass(NamedTuple):
    """One pass over a block of images: `apply` takes the images and the memory to write to, None for new memory.

    `moves`: it cannot write over what it reads.
    """

    apply: Callable[[Tensor, Tensor | None], Tensor]
    moves: bool = False


def apply_colour(
    images: Tensor,
    colour: Colour,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bounded: bool | np.ndarray = True,
) -> Tensor:
    """Colour images (n, 3, H, W) float, RGB in [0, 1], as drawn, and normalise them if `mean` and `std` (3,) are there.

    The images are not written to, and are returned themselves where nothing is on. Results are in [0, 1] up to one rounding, or
    normalised, in the images' memory format. Differentiable where Kornia is. `bounded`, for all or (n,) bool: where it is False an
    image may lie outside [0, 1] (noise, unclamped steps before); clamps then act as Kornia's functions do.
    """
    if mean is not None and std is not None:
        plan = plan_colour(colour, len(images), np.asarray(mean, float), np.asarray(std, float), bounded)
    else:
        plan = plan_colour(colour, len(images), bounded=bounded)
    if not plan.active.any():
        return images
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    recorded = pointwise.records_gradient(images)
    fused = None if recorded or not images.is_cuda or images.dtype == torch.float64 else _fused_colour()
    if fused and (fits := fused.can_fuse(plan)).any():
        if fits.all():
            return fused.apply_fused(images, plan)
        coloured = torch.empty_like(images, memory_format=layout)
        for where, apply in ((np.flatnonzero(fits), fused.apply_fused), (np.flatnonzero(~fits), _pass_by_pass)):
            index = torch.from_numpy(where).to(images.device)
            coloured = coloured.index_copy_(0, index, apply(images[index], plan.take(where)))
        return coloured
    if images.is_cuda or recorded:
        return _pass_by_pass(images, plan).contiguous(memory_format=layout)
    images = images.detach()
    out = torch.empty_like(images, memory_format=layout)
    if images.shape[2] * images.shape[3] >= pointwise.ALONE:
        size, passes_of = 1, _SingleImage(plan).passes
    else:
        size, passes_of = max(BLOCK // images[0].numel(), 1), partial(_batch_passes, plan)
    planar = images.is_contiguous()
    spare = torch.empty(1 if planar else 3, *images[:size].shape, dtype=images.dtype)
    for start in range(0, len(images), size):
        block = slice(start, min(start + size, len(images)))
        source = images[block]
        scratch = spare[:, : len(source)]
        if planar:
            _run(passes_of(block, source), source, out[block], scratch[0])
        else:
            source = scratch[0].copy_(source)
            out[block] = _run(passes_of(block, source), source, scratch[1], scratch[2])
    return out


@cache
def _fused_colour() -> ModuleType | None:
    """Import augment.fused_colour where Triton is, which comes with torch for CUDA on Linux; None elsewhere."""
    return importlib.import_module("augment.fused_colour") if importlib.util.find_spec("triton") else None


def _run(passes: list[Pass], source: Tensor, out: Tensor, spare: Tensor) -> Tensor:
    """Carry out all passes from `source` into `out`, by way of `spare` where a pass cannot work in place; writes to both."""
    if not passes:
        return out.copy_(source)
    moves = sum(one.moves for one in passes[1:])
    here = out if moves % 2 == 0 else spare
    source = passes[0].apply(source, here)
    for one in passes[1:]:
        if one.moves:
            here = spare if here is out else out
        source = one.apply(source, here)
    return source


# ---- many images at once: tensors of coefficients


def _pass_by_pass(images: Tensor, plan: ColourPlan) -> Tensor:
    """Colour the whole batch pass by pass, each into memory of its own: on a device, and for a gradient."""
    result = images.contiguous()
    for one in _batch_passes(plan, slice(None), result):
        result = one.apply(result, None)
    return result


def _batch_passes(plan: ColourPlan, block: slice, images: Tensor) -> list[Pass]:
    """The passes of the samples `block`, their numbers on the images' device and of their type."""

    def like(numbers: np.ndarray) -> Tensor:
        """Numbers on the images' device, of their type."""
        return torch.from_numpy(numbers).to(images.device, images.dtype)

    passes = []
    for index in range(plan.coefficients.shape[1]):
        if not plan.active[block, index].any():
            continue
        coefficients = plan.coefficients[block, index]
        if (coefficients != colour_plan.IDENTITY).any():
            uses_mean = bool(coefficients[:, :, 3:6].any())
            passes.append(Pass(partial(_affine, like(coefficients), uses_mean), moves=True))
        if (clamp := plan.clamp[block, index]).any():
            low, high = plan.low[index], plan.high[index]
            if clamp.all():
                passes.append(Pass(partial(_clamp, low, high)))
            else:
                own_low, own_high = (
                    like(np.where(clamp[:, None], bound, beyond))[:, :, None, None]
                    for bound, beyond in ((low, -np.inf), (high, np.inf))
                )
                passes.append(Pass(partial(_clamp_some, own_low, own_high)))
        operation = plan.operation[block, index]
        for code in np.unique(operation[operation != colour_plan.NOTHING]):
            rows = operation == code
            value = like(plan.value[block, index][rows])[:, None, None, None]
            passes.append(Pass(_on_rows(partial(_operate, OPERATIONS[int(code)], value), rows, images.device)))
    return passes


def _operate(operation: Callable[..., Tensor], value: pointwise.Value, images: Tensor, out: Tensor | None) -> Tensor:
    """Apply an operation of `augment.pointwise`, with the arguments in a pass's order."""
    return operation(images, value, out=out)


def _on_rows(
    apply: Callable[[Tensor, Tensor | None], Tensor], rows: np.ndarray, device: torch.device
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """A function that applies `apply` to the samples `rows` (n,) bool and leaves the others as they are."""
    if rows.all():
        return apply
    chosen = torch.from_numpy(np.flatnonzero(rows)).to(device)

    def apply_to_some(images: Tensor, out: Tensor | None) -> Tensor:
        if out is None:
            return images.index_copy(0, chosen, apply(images[chosen], None))
        part = images[chosen]
        if out is not images:
            out.copy_(images)
        return out.index_copy_(0, chosen, apply(part, part))

    return apply_to_some


def _affine(coefficients: Tensor, uses_mean: bool, images: Tensor, out: Tensor | None) -> Tensor:
    """A x + M m + c of images (k, 3, H, W) with coefficients (k, 3, 7), one map for each image."""
    flat = images.flatten(2)
    constant = coefficients[:, :, 6]
    if uses_mean:
        red, green, blue = (coefficients[:, :, 3:6] * pointwise.channel_means(images)[:, None]).unbind(2)
        constant = constant + (red + green + blue)
    target = None if out is None else out.flatten(2)
    if (
        images.is_cuda or torch.get_float32_matmul_precision() != "highest"
    ):  # a matrix product would be in TF32 or bfloat16
        result = torch.addcmul(constant[:, :, None], coefficients[:, :, 0:1], flat[:, 0:1], out=target)
        for channel in (1, 2):
            weight = coefficients[:, :, channel, None]
            result = torch.addcmul(result, weight, flat[:, channel : channel + 1], out=target)
    else:
        with torch.autocast("cpu", enabled=False):
            result = torch.baddbmm(constant[:, :, None], coefficients[:, :, :3], flat, out=target)
    return result.view(images.shape)


def _clamp(low: np.ndarray, high: np.ndarray, images: Tensor, out: Tensor | None) -> Tensor:
    """Clamp channel by channel between bounds (3,), which are numbers: at once where they are the same."""
    if (low == low[0]).all() and (high == high[0]).all():
        return torch.clamp(images, float(low[0]), float(high[0]), out=out)
    if out is None:
        bounds = torch.from_numpy(np.stack([low, high])).to(images.device, images.dtype)[:, :, None, None]
        return torch.clamp(images, bounds[0], bounds[1])
    for channel in range(3):
        torch.clamp(images[:, channel], float(low[channel]), float(high[channel]), out=out[:, channel])
    return out


def _clamp_some(low: Tensor, high: Tensor, images: Tensor, out: Tensor | None) -> Tensor:
    """Clamp between bounds (k, 3, 1, 1) of each image's own, infinite where it is not clamped: in two passes, which torch vectorises."""
    return torch.minimum(torch.maximum(images, low, out=out), high, out=out)


# ---- one image at a time: Python numbers


class _SingleImage:
    """The passes of each image alone, with what kind of map each of its entries is: found once for the batch."""

    def __init__(self, plan: ColourPlan) -> None:
        self.plan = plan
        linear = plan.coefficients[..., :3]
        off_diagonal = linear * (1 - np.eye(3))
        self.diagonal = np.logical_not(off_diagonal.any((2, 3)))
        self.gray = (plan.coefficients == plan.coefficients[:, :, :1]).all((2, 3))
        self.uses_mean = np.asarray(plan.coefficients[..., 3:6].any((2, 3)))
        self.changes = (plan.coefficients != colour_plan.IDENTITY).any((2, 3))

    def passes(self, block: slice, images: Tensor) -> list[Pass]:
        """What the one image of `block` goes through; `images` is there for `_batch_passes`' signature."""
        del images
        plan, sample = self.plan, block.start
        passes = []
        for index in np.flatnonzero(plan.active[sample]):
            if self.changes[sample, index]:
                coefficients = plan.coefficients[sample, index]
                uses_mean = bool(self.uses_mean[sample, index])
                if self.diagonal[sample, index]:
                    passes.append(Pass(partial(_scale_and_shift, coefficients, uses_mean)))
                elif self.gray[sample, index]:
                    passes.append(Pass(partial(_to_gray, coefficients, uses_mean)))
                else:
                    passes.append(Pass(partial(_mix, coefficients, uses_mean), moves=True))
            if plan.clamp[sample, index]:
                passes.append(Pass(partial(_clamp, plan.low[index], plan.high[index])))
            if code := int(plan.operation[sample, index]):
                passes.append(Pass(partial(_operate, OPERATIONS[code], float(plan.value[sample, index]))))
        return passes


def _constant(coefficients: np.ndarray, uses_mean: bool, images: Tensor) -> np.ndarray:
    """M m + c of one image, (3,) float64."""
    constant = coefficients[:, 6]
    return constant + coefficients[:, 3:6] @ images.mean((2, 3))[0].double().numpy() if uses_mean else constant


def _scale_and_shift(coefficients: np.ndarray, uses_mean: bool, images: Tensor, out: Tensor | None) -> Tensor:
    """Map each channel of one image by itself: A is diagonal."""
    assert out is not None
    scale, shift = coefficients[range(3), range(3)].tolist(), _constant(coefficients, uses_mean, images).tolist()
    constants = torch.tensor(shift, dtype=images.dtype)  # shift + scale x is one pass when the shift has no dimension
    if len(set(scale)) == len(set(shift)) == 1:
        return torch.add(constants[0], images, alpha=scale[0], out=out)
    for channel in range(3):
        torch.add(constants[channel], images[:, channel], alpha=scale[channel], out=out[:, channel])
    return out


def _to_gray(coefficients: np.ndarray, uses_mean: bool, images: Tensor, out: Tensor | None) -> Tensor:
    """Map one image to the same mixture of its channels in all three."""
    assert out is not None
    shift = float(_constant(coefficients, uses_mean, images)[0])
    red, green, blue = images[0]
    gray = torch.mul(red, float(coefficients[0, 0]), out=out[0, 0])
    gray.add_(green, alpha=float(coefficients[0, 1])).add_(blue, alpha=float(coefficients[0, 2]))
    if shift:
        gray.add_(shift)
    out[0, 1:] = gray
    return out


def _mix(coefficients: np.ndarray, uses_mean: bool, images: Tensor, out: Tensor | None) -> Tensor:
    """Map one image by any A."""
    numbers = np.concatenate([coefficients[:, :3], _constant(coefficients, uses_mean, images)[:, None]], axis=1)
    one = torch.from_numpy(numbers[None, :, [0, 1, 2, 0, 0, 0, 3]]).to(images.dtype)
    return _affine(one, False, images, out)
