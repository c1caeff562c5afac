"""Operations on torch that read a neighbourhood, write a region or draw while applying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from augment.errors import PolicyError
from augment.pointwise import records_gradient
from augment.program import Filter

BLOCK = 1 << 17  # numbers in a block that stays in the second-level cache
LARGE = 64 * 64  # pixels from which cv2's separable filter beats weighted sums of shifted batches


def apply_filter(images: Tensor, filter: Filter, overwrite: bool = False) -> Tensor:
    """`filter` on images (n, C, H, W) float in [0, 1], sample by sample as drawn; samples that are off stay as they are.

    `overwrite`: the images are the caller's to lose, and may be written over where that saves a copy. Noise may leave [0, 1], as
    Kornia's does. Blur, sharpness, erase and noise are differentiable in the images.
    """
    rows = np.flatnonzero(filter.on)
    if not len(rows):
        return images if overwrite else images.clone()
    values = {key: value[rows] for key, value in filter.values.items()}
    constants = filter.constants
    operations: dict[str, Callable[[Tensor], Tensor]] = {
        "gaussian_blur": lambda part: gaussian_blur(
            part, values["sigma"], int(constants["kernel"]), constants.get("border", "reflect")
        ),
        "sharpness": lambda part: sharpness(part, values["factor"]),
        "gaussian_noise": lambda part: gaussian_noise(part, values["std"], values["seed"]),
        "kornia": lambda part: run_operation(part, constants["operation"], constants["arguments"], values["seed"]),
    }
    in_place = overwrite and not records_gradient(images)
    if filter.name == "erase":
        return erase(images if in_place else images.clone(), rows, values, float(constants["value"]))
    if filter.name not in operations:
        raise PolicyError(f"No filter is called {filter.name!r}; there are erase, {', '.join(operations)}.")
    apply = operations[filter.name]
    if len(rows) == len(images):
        return apply(images)
    chosen = torch.from_numpy(rows).to(images.device)
    result = apply(images[chosen]).to(images.dtype)
    return images.index_copy_(0, chosen, result) if in_place else images.index_copy(0, chosen, result)


def gaussian_kernels(sigma: np.ndarray, size: int) -> np.ndarray:
    """(n, size) float32 weights exp(-x^2 / 2 sigma^2), each row summing to one; sigma 0 is the identity."""
    squares = (np.arange(size) - size // 2) ** 2.0
    spread = 2.0 * sigma.astype(np.float64)[:, None] ** 2
    weights = np.where(spread > 0, np.exp(-squares / np.where(spread > 0, spread, 1.0)), squares == 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def gaussian_blur(images: Tensor, sigma: np.ndarray, size: int, border: str = "reflect") -> Tensor:
    """kornia.filters.gaussian_blur2d with a square kernel of odd `size` and one sigma (n,) per image."""
    radius = size // 2
    if size % 2 == 0 or radius >= min(images.shape[-2:]):
        height, width = images.shape[-2:]
        raise PolicyError(f"A blur kernel of {size} pixels must be odd and fit images of {height} x {width} pixels twice.")
    kernels = gaussian_kernels(sigma, size)
    plain = images.dtype == torch.float32 and not images.is_cuda and not records_gradient(images)
    if plain and border == "reflect" and images.shape[-2] * images.shape[-1] >= LARGE:
        images = images.contiguous()
        out = torch.empty_like(images)
        for planes, results, kernel in zip(images.numpy(), out.numpy(), kernels, strict=True):
            for plane, result in zip(planes, results, strict=True):
                cv2.sepFilter2D(plane, -1, kernel, kernel, dst=result, borderType=cv2.BORDER_REFLECT_101)
        return out
    weights = torch.from_numpy(kernels).to(images.device, images.dtype)
    if images.is_cuda:
        return _blur_by_convolution(images, weights, border)
    return _by_blocks(images, lambda part, rows: _blur_by_shifts(part, weights[rows], border))


def _by_blocks(images: Tensor, apply: Callable[[Tensor, slice], Tensor], size: int | None = None) -> Tensor:
    """`apply` on blocks that fit the cache, or on all at once where a gradient is recorded or there is a device."""
    size = size or max(BLOCK // images[0].numel(), 1)
    if images.is_cuda or records_gradient(images) or len(images) <= size:
        return apply(images, slice(None))
    out = torch.empty_like(images)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        out[rows] = apply(images[rows], rows)
    return out


def _padded(images: Tensor, axis: int, radius: int, border: str) -> Tensor:
    amounts = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
    return functional.pad(images, amounts, mode=border)


def _blur_by_shifts(images: Tensor, weights: Tensor, border: str) -> Tensor:
    """Weighted sums of shifted copies, columns first; weights (n, size)."""
    for axis in (3, 2):
        length = images.shape[axis]
        padded = _padded(images, axis, weights.shape[1] // 2, border)
        images = padded.narrow(axis, 0, length) * weights[:, 0, None, None, None]
        for tap in range(1, weights.shape[1]):
            images = images.addcmul_(padded.narrow(axis, tap, length), weights[:, tap, None, None, None])
    return images


def _blur_by_convolution(images: Tensor, weights: Tensor, border: str) -> Tensor:
    """Two depthwise convolutions with a group for every channel of every image, in full precision."""
    count, channels, height, width = images.shape
    planes = images.reshape(1, count * channels, height, width)
    kernels = weights.repeat_interleave(channels, dim=0)[:, None]
    with torch.backends.cudnn.flags(allow_tf32=False):
        for axis, kernel in ((3, kernels[:, :, None, :]), (2, kernels[:, :, :, None])):
            padded = _padded(planes, axis, weights.shape[1] // 2, border)
            planes = functional.conv2d(padded, kernel, groups=count * channels)
    return planes.reshape(images.shape)


def sharpness(images: Tensor, factor: np.ndarray) -> Tensor:
    """kornia.enhance.sharpness: the image away from its 3 x 3 average (centre weighs 5 of 13) by `factor` (n,); border kept."""
    if min(images.shape[-2:]) < 3:
        raise PolicyError("Sharpness needs images of at least 3 x 3 pixels.")
    factors = torch.from_numpy(factor.astype(np.float64)).to(images.device, images.dtype)
    if images[0].numel() > BLOCK // 2 and not images.is_cuda and not records_gradient(images):  # a block of its own: a number is faster than a broadcast tensor
        return _by_blocks(images, lambda part, rows: _sharpness(part, float(factor[rows.start])), 1)
    return _by_blocks(images, lambda part, rows: _sharpness(part, factors[rows, None, None, None]))


def _sharpness(images: Tensor, factor: Tensor | float) -> Tensor:
    rows = images[..., :-2, :] + images[..., 1:-1, :]
    rows += images[..., 2:, :]
    average = rows[..., :-2] + rows[..., 1:-1]
    average += rows[..., 2:]
    inner = images[..., 1:-1, 1:-1]
    average = average.add_(inner, alpha=4).div_(13)
    out = images.clone()
    if isinstance(factor, Tensor):
        out[..., 1:-1, 1:-1] = torch.addcmul(average, inner - average, factor)
    else:
        out[..., 1:-1, 1:-1] = average.mul_(1 - factor).add_(inner, alpha=factor)
    return out.clamp(0.0, 1.0) if records_gradient(images) else out.clamp_(0.0, 1.0)


def erase(images: Tensor, rows: np.ndarray, values: dict[str, np.ndarray], fill: float) -> Tensor:
    """Writes `fill` into a rectangle of each of the samples `rows`, in place."""
    boxes = np.stack([values[key].astype(np.int64) for key in ("top", "left", "height", "width")], 1)
    if images.is_cuda:  # two launches in place of one for each sample
        full = np.zeros((len(images), 4), np.int64)
        full[rows] = boxes
        top, left, height, width = torch.from_numpy(full).to(images.device).T[:, :, None]
        down = torch.arange(images.shape[2], device=images.device)[None]
        right = torch.arange(images.shape[3], device=images.device)[None]
        inside = ((down >= top) & (down < top + height))[:, :, None] & ((right >= left) & (right < left + width))[:, None]
        return images.masked_fill_(inside[:, None], fill)
    for row, (top, left, height, width) in zip(rows.tolist(), boxes.tolist(), strict=True):
        images[row, :, top : top + height, left : left + width] = fill
    return images


def gaussian_noise(images: Tensor, std: np.ndarray, seed: np.ndarray) -> Tensor:
    """images + std noise, unclamped as Kornia's; the noise of a sample is drawn in (C, H, W) order on the host from its own seed (n,)
    uint64, so that it is the same on every device and in every batch."""
    noise = torch.empty(images.shape, dtype=torch.float32)
    for field, spread, number in zip(noise, std.tolist(), seed.tolist(), strict=True):
        field.normal_(0.0, spread, generator=torch.Generator().manual_seed(number))
    return images + noise.to(images.device, images.dtype)


@contextmanager
def forked_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Global torch generators of the host and `device`, seeded inside and put back afterwards: Kornia draws from them."""
    on_device = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_device):
        torch.default_generator.manual_seed(seed)
        if on_device:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def run_operation(images: Tensor, operation: str, arguments: dict[str, Any], seed: np.ndarray) -> Tensor:
    """Any other 2-D intensity operation of kornia.augmentation, one sample at a time under its own seed (n,) uint64.

    Covers the operations that draw while they apply (RandomPlasma*, RandomDissolving): a batch is never drawn together.
    """
    import kornia.augmentation as kornia_augmentation

    kind = getattr(kornia_augmentation, operation, None)
    if not (isinstance(kind, type) and issubclass(kind, kornia_augmentation.IntensityAugmentationBase2D)):
        raise PolicyError(f"kornia.augmentation has no 2-D intensity operation called {operation!r}.")
    try:
        module = kind(**{**arguments, "p": 1.0})
    except (TypeError, ValueError) as error:
        raise PolicyError(f"kornia.augmentation.{operation} does not take {arguments}: {error}.") from error
    outputs = []
    for image, number in zip(images.split(1), seed.tolist(), strict=True):
        with forked_generators(images.device, int(number)):
            outputs.append(module(image))
    return torch.cat(outputs)
