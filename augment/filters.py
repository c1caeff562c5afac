"""Operations that read a neighbourhood or write a region, on torch tensors (n, C, H, W) of floats in [0, 1].

Each sample is computed from itself alone, and only where the filter is on; the others come back as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from augment.errors import PolicyError
from augment.program import Filter

Rows = dict[str, np.ndarray]
_FAINT = 1e-8  # a Gaussian's tap below this share moves no float32 in [0, 1]
_CACHED = 1 << 18  # floats that a pass over a piece of the batch finds in the CPU's cache


def apply_filter(images: torch.Tensor, segment: Filter) -> torch.Tensor:
    """Carry out one filter; differentiable in `images`, in its dtype. Images where it is off are not copied if all are."""
    if segment.name not in _FUNCTIONS:
        raise PolicyError(f"there is no filter {segment.name!r}; there are {', '.join(sorted(_FUNCTIONS))}")
    where = np.flatnonzero(segment.on)
    if not len(where):
        return images
    function = _FUNCTIONS[segment.name]
    if len(where) == len(images):
        return function(images, segment.values, segment.constants)
    index = torch.from_numpy(where).to(images.device, non_blocking=True)
    values = {name: column[where] for name, column in segment.values.items()}
    return images.index_copy(0, index, function(images[index], values, segment.constants))


def gaussian_taps(sigma: np.ndarray, kernel: int) -> np.ndarray:
    """(n, kernel) float64 weights of Gaussians with `sigma` (n,) pixels, without the taps too faint to count."""
    away = np.arange(kernel) - kernel // 2
    weights = np.exp(-0.5 * (away / np.maximum(sigma.astype(float), 1e-3)[:, None]) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return np.where(weights < _FAINT, 0, weights)


def _gaussian_blur(images: torch.Tensor, values: Rows, constants: dict[str, Any]) -> torch.Tensor:
    """A row of taps down, then across, mirrored at the border. Taps that a sample does not need add an exact zero."""
    taps = gaussian_taps(values["sigma"], constants["kernel"])
    if images.device.type != "cpu" or _needs_grad(images) or images.dtype not in (torch.float32, torch.float64):
        return _blur_convolved(images, taps)
    made = torch.empty_like(images, memory_format=torch.contiguous_format)
    planes, target = images.flatten(0, 1), made.flatten(0, 1)
    taps = taps.repeat(images.shape[1], 0)
    count = max(1, _CACHED // planes[0].numel())
    for start in range(0, len(planes), count):
        _blur_pieces(planes[start : start + count], taps[start : start + count], target[start : start + count])
    return made


def _blur_pieces(planes: torch.Tensor, taps: np.ndarray, target: torch.Tensor) -> None:
    """Blur planes (k, H, W) into `target`, by shifted sums: quicker on a CPU than a depthwise convolution."""
    middle = taps.shape[1] // 2
    radius = middle - int(np.flatnonzero(taps.any(0))[0])
    weights = torch.from_numpy(taps[:, middle - radius : middle + radius + 1]).to(planes.dtype)[:, :, None, None]
    for axis, into in ((1, None), (2, target)):
        size = planes.shape[axis]
        padding = (radius, radius, 0, 0) if axis == 2 else (0, 0, radius, radius)
        padded = functional.pad(planes[None], padding, mode="reflect")[0]
        planes = torch.mul(padded.narrow(axis, 0, size), weights[:, 0], out=into)
        for tap in range(1, 2 * radius + 1):
            planes.addcmul_(padded.narrow(axis, tap, size), weights[:, tap])


def _blur_convolved(images: torch.Tensor, taps: np.ndarray) -> torch.Tensor:
    """Two depthwise convolutions whose groups are the planes of all images."""
    count, channels, height, width = images.shape
    weights = torch.from_numpy(taps.repeat(channels, 0)).to(images.device, images.dtype, non_blocking=True)
    radius = taps.shape[1] // 2
    planes = functional.pad(images, (radius,) * 4, mode="reflect").reshape(1, count * channels, height + 2 * radius, -1)
    with torch.autocast(images.device.type, enabled=False):
        planes = functional.conv2d(planes, weights[:, None, :, None], groups=count * channels)
        planes = functional.conv2d(planes, weights[:, None, None, :], groups=count * channels)
    return planes.reshape(images.shape)


def _sharpness(images: torch.Tensor, values: Rows, constants: dict[str, Any]) -> torch.Tensor:
    """x + (factor - 1) (x - smooth), smooth = (the 3 x 3 sum + 4 x) / 13; the border, which has no full 3 x 3, is kept."""
    if min(images.shape[2:]) < 3:
        return images
    factor = torch.from_numpy(values["factor"]).to(images.device, images.dtype, non_blocking=True)[:, None, None, None]
    if images.device.type == "cpu" and not _needs_grad(images):
        made = images.clone()
        count = max(1, _CACHED // images[0].numel())
        for start in range(0, len(images), count):
            rows = slice(start, start + count)
            made[rows, :, 1:-1, 1:-1] = _sharpened(images[rows], factor[rows])
        return made
    inside = _sharpened(images, factor)
    if not _needs_grad(images):
        made = images.clone()
        made[:, :, 1:-1, 1:-1] = inside
        return made
    edge = functional.pad(torch.zeros_like(inside, dtype=torch.bool), (1, 1, 1, 1), value=True)
    return torch.where(edge, images, functional.pad(inside, (1, 1, 1, 1)))


def _sharpened(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The pixels of `images` that have eight neighbours, sharpened."""
    across = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    total = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    centre = images[:, :, 1:-1, 1:-1]
    smooth = torch.add(total, centre, alpha=4) / 13
    made = torch.lerp(smooth, centre, factor.expand_as(smooth))
    return made.clamp(0, 1)


def _erase(images: torch.Tensor, values: Rows, constants: dict[str, Any]) -> torch.Tensor:
    top, left = values["top"].astype(int), values["left"].astype(int)
    bottom, right = top + values["height"], left + values["width"]
    if images.device.type == "cpu" and not _needs_grad(images):
        made = images.clone()
        corners = zip(top.tolist(), bottom.tolist(), left.tolist(), right.tolist(), strict=True)
        for index, (first, last, begin, end) in enumerate(corners):
            made[index, :, first:last, begin:end] = constants["value"]
        return made
    bounds = torch.from_numpy(np.stack([top, bottom, left, right])).to(images.device, non_blocking=True)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    tall = (rows >= bounds[0, :, None]) & (rows < bounds[1, :, None])
    wide = (columns >= bounds[2, :, None]) & (columns < bounds[3, :, None])
    return images.masked_fill((tall[:, :, None] & wide[:, None, :])[:, None], constants["value"])


def gaussian_noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The standard normal noise of one sample, float32 in (C, H, W) order: the same on every device."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, np.float32)


def _gaussian_noise(images: torch.Tensor, values: Rows, constants: dict[str, Any]) -> torch.Tensor:
    """x + noise, clamped, for a colour is in [0, 1]; Kornia's leaves the range."""
    noise = np.empty(images.shape, np.float32)
    for index, (seed, std) in enumerate(zip(values["seed"].tolist(), values["std"], strict=True)):
        np.multiply(gaussian_noise(seed, noise.shape[1:]), std, out=noise[index])
    return (images + torch.from_numpy(noise).to(images.device, images.dtype)).clamp(0, 1)


def _kornia(images: torch.Tensor, values: Rows, constants: dict[str, Any]) -> torch.Tensor:
    """Any intensity operation of kornia.augmentation, sample by sample, under a forked generator with the sample's seed."""
    operation = kornia_operation(constants["operation"], constants["arguments"])
    made = []
    with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
        for index, seed in enumerate(values["seed"].tolist()):
            torch.manual_seed(seed)
            made.append(operation(images[index : index + 1]))
    return torch.cat(made).to(images.dtype)


def kornia_operation(name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """The operation of that name, always on: when it acts has been drawn. Raises `PolicyError` for what is none of them."""
    import kornia.augmentation
    from kornia.augmentation import IntensityAugmentationBase2D

    kind = getattr(kornia.augmentation, name, None)
    if not (isinstance(kind, type) and issubclass(kind, IntensityAugmentationBase2D)):
        raise PolicyError(f"kornia.operation takes the name of an intensity operation of kornia.augmentation, got {name!r}")
    try:
        return kind(**{**arguments, "p": 1.0})
    except (TypeError, ValueError) as error:
        raise PolicyError(f"kornia.augmentation.{name} refuses its arguments: {error}") from error


def _needs_grad(images: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and images.requires_grad


_FUNCTIONS: dict[str, Callable[[torch.Tensor, Rows, dict[str, Any]], torch.Tensor]] = {
    "gaussian_blur": _gaussian_blur,
    "sharpness": _sharpness,
    "erase": _erase,
    "gaussian_noise": _gaussian_noise,
    "kornia": _kornia,
}
