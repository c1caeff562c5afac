"""Operations that read a neighbourhood or write a region, on batches with values of each sample's own; differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from augment.errors import PolicyError
from augment.pointwise import records_gradient
from augment.program import Filter

BLOCK = 1 << 17  # numbers in a part of a batch that stays in the second-level cache: half a mebibyte of float32
FAINT = 1e-8  # a tap whose weight is below changes no float32 in [0, 1]
LARGE = 64 * 64  # pixels from which OpenCV's filter beats shifted copies of a whole batch


def apply_filter(images: torch.Tensor, step: Filter) -> torch.Tensor:
    """Carry out one filter on (n, C, H, W) float images where it is on; returns new images, or the input where it is on nowhere."""
    apply = _FILTERS[step.name]
    if step.on.all():
        return apply(images, step.values, step.constants)
    if not step.on.any():
        return images
    places = np.flatnonzero(step.on)
    index = torch.from_numpy(places).to(images.device)
    filtered = apply(images[index], {name: column[places] for name, column in step.values.items()}, step.constants)
    return images.index_copy(0, index, filtered)


Values = dict[str, np.ndarray]


def gaussian_weights(sigma: torch.Tensor, kernel: int) -> torch.Tensor:
    """Compute (n, kernel) weights of Gaussians of `sigma` (n,) pixels, which sum to one."""
    offset = torch.arange(kernel, device=sigma.device, dtype=sigma.dtype) - kernel // 2
    weights = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    return weights / weights.sum(1, keepdim=True)


def _gaussian_blur(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """Blur by one pass along each axis, in a way that gives a sample the same bits in any batch.

    That is OpenCV's separable filter for large planes on a CPU, shifted copies added up for small ones and for gradients (several
    times faster than a grouped convolution there), and a depthwise convolution on a device.
    """
    kernel = constants["kernel"]
    # On the host: a device adds a row up in an order that depends on how many there are.
    weights = gaussian_weights(torch.from_numpy(values["sigma"]).to(images.dtype), kernel)
    if images.device.type != "cpu":
        return _blur_by_convolution(images, weights.to(images.device))
    plain = images.dtype == torch.float32 and not records_gradient(images)
    if plain and images.shape[2] * images.shape[3] >= LARGE:
        return _blur_by_opencv(images.detach(), [_trimmed(line) for line in weights.numpy()])
    return _in_blocks(images, lambda part, rows: _blur_by_shifts(part, weights[rows]))


def _trimmed(line: np.ndarray) -> np.ndarray:
    """Cut the faint ends off a symmetric row of weights: SimCLR's 51 taps at 512 pixels are at most 23 for its sigma of 2."""
    faint = int(np.argmax(line >= FAINT))
    return line[faint : len(line) - faint]


def _blur_by_opencv(images: torch.Tensor, weights: list[np.ndarray]) -> torch.Tensor:
    """Blur plane by plane with rows of weights; of images in channels_last all channels at once."""
    import cv2  # here: a device does without it

    out = torch.empty_like(images)
    if images.is_contiguous(memory_format=torch.channels_last) and images.shape[1] <= 4:
        sources, results = images.permute(0, 2, 3, 1).numpy(), out.permute(0, 2, 3, 1).numpy()
        for source, result, line in zip(sources, results, weights, strict=True):
            cv2.sepFilter2D(source, -1, line, line, dst=result, borderType=cv2.BORDER_REFLECT_101)
        return out
    images = images.contiguous()
    out = torch.empty_like(images)
    for planes, results, line in zip(images.numpy(), out.numpy(), weights, strict=True):
        for plane, result in zip(planes, results, strict=True):
            cv2.sepFilter2D(plane, -1, line, line, dst=result, borderType=cv2.BORDER_REFLECT_101)
    return out


def _blur_by_convolution(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Blur by two depthwise convolutions with weights (n, kernel) of each image's own."""
    count, channels, height, width = images.shape
    reach = weights.shape[1] // 2
    padded = functional.pad(images, (reach, reach, reach, reach), mode="reflect")
    padded = padded.reshape(1, count * channels, height + 2 * reach, width + 2 * reach)
    each = weights.repeat_interleave(channels, 0)
    # Ten bits would show: no TF32, and no half precision where a trainer runs under autocast.
    with torch.backends.cudnn.flags(allow_tf32=False), torch.autocast(images.device.type, enabled=False):
        padded = functional.conv2d(padded, each[:, None, None, :], groups=count * channels)
        return functional.conv2d(padded, each[:, None, :, None], groups=count * channels).reshape(images.shape)


def _blur_by_shifts(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Blur by adding up shifted copies, by weights (n, kernel) of each image's own."""
    kernel, (height, width) = weights.shape[1], images.shape[2:]
    reach = kernel // 2
    scale = weights[:, :, None, None, None]
    for dimension, length in ((3, width), (2, height)):
        pad = (reach, reach, 0, 0) if dimension == 3 else (0, 0, reach, reach)
        padded = functional.pad(images, pad, mode="reflect")
        images = padded.narrow(dimension, reach, length) * scale[:, reach]
        for step in range(reach):
            # The kernel is the same to both sides.
            sides = padded.narrow(dimension, step, length) + padded.narrow(dimension, kernel - 1 - step, length)
            images = torch.addcmul(images, sides, scale[:, step])
    return images


def _in_blocks(images: torch.Tensor, apply: Callable[[torch.Tensor, slice], torch.Tensor]) -> torch.Tensor:
    """Run `apply` on parts of the batch that fit the second-level cache; on all at once for a gradient or a device."""
    size = max(BLOCK // images[0].numel(), 1)
    if images.device.type != "cpu" or records_gradient(images) or len(images) <= size:
        return apply(images, slice(0, len(images)))
    out = torch.empty_like(images)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        out[rows] = apply(images[rows], rows)
    return out


def _sharpness(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """Move away from PIL's SMOOTH, the kernel (1 1 1, 1 5 1, 1 1 1) / 13, by each image's factor; the border stays."""
    if min(images.shape[2:]) < 3:
        return images.clamp(0, 1)
    factors = torch.from_numpy(values["factor"]).to(images.device, images.dtype)[:, None, None, None]
    alone = images[0].numel() > BLOCK // 2 and images.device.type == "cpu" and not records_gradient(images)

    def sharpen(part: torch.Tensor, rows: slice) -> torch.Tensor:
        """Sharpen the images at places `rows`."""
        smooth = part[:, :, :-2] + part[:, :, 1:-1]
        smooth += part[:, :, 2:]
        smooth = (smooth[..., :-2] + smooth[..., 1:-1]).add_(smooth[..., 2:])
        inner = part[:, :, 1:-1, 1:-1]
        smooth = smooth.add_(inner, alpha=4).div_(13).clamp(0, 1)
        result = part.clone()
        if alone:  # torch is faster with a number than with a tensor that is broadcast
            factor = float(factors[rows.start])
            result[:, :, 1:-1, 1:-1] = smooth.mul_(1 - factor).add_(inner, alpha=factor)
        else:
            result[:, :, 1:-1, 1:-1] = torch.addcmul(smooth, inner - smooth, factors[rows])
        return result.clamp(0, 1) if records_gradient(images) else result.clamp_(0, 1)

    return _in_blocks(images, sharpen)


def _erase(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """Paint a rectangle of one value over each image."""
    if images.device.type == "cpu" and not records_gradient(images):
        images = images.clone()
        boxes = zip(*(values[side].tolist() for side in ("top", "left", "height", "width")), strict=True)
        for image, (top, left, height, width) in zip(images, boxes, strict=True):
            image[:, top : top + height, left : left + width] = constants["value"]
        return images
    sides = {name: torch.from_numpy(column).to(images.device)[:, None] for name, column in values.items()}
    row, column = (torch.arange(length, device=images.device) for length in images.shape[2:])
    down = (row >= sides["top"]) & (row < sides["top"] + sides["height"])
    across = (column >= sides["left"]) & (column < sides["left"] + sides["width"])
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    return images.masked_fill(inside, constants["value"])


def _gaussian_noise(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """Add noise, drawn on the host in float32, so that a seed means the same noise on every device."""
    noise = np.empty(images.shape, np.float32)
    for field, seed, std in zip(noise, values["seed"], values["std"], strict=True):
        np.random.Generator(np.random.PCG64(int(seed))).standard_normal(dtype=np.float32, out=field)
        field *= std
    return images + torch.from_numpy(noise).to(images.device, images.dtype)


def _kornia(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """Call Kornia on one image at a time, under a forked global generator: nothing outside sees it or changes what it draws."""
    operation = kornia_operation(constants["operation"], constants["arguments"])
    results = []
    for image, seed in zip(images, values["seed"], strict=True):
        with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            torch.manual_seed(int(seed))
            results.append(operation(image[None]))
    return torch.cat(results)


def kornia_operation(name: str, arguments: dict[str, Any]) -> Any:
    """Build an intensity operation of kornia.augmentation that always applies. `PolicyError` for others and wrong arguments."""
    from kornia import augmentation

    kind = getattr(augmentation, name, None)
    if not (isinstance(kind, type) and issubclass(kind, augmentation.IntensityAugmentationBase2D)):
        raise PolicyError(f"kornia.operation takes an intensity operation of kornia.augmentation, and {name!r} is none")
    if "p" in arguments:
        raise PolicyError(
            f"kornia.augmentation.{name} is switched by the operation's own p, not by one in its arguments"
        )
    try:
        return kind(p=1.0, **arguments)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"kornia.augmentation.{name} cannot use {arguments}: {error}") from error


_FILTERS: dict[str, Callable[[torch.Tensor, Values, dict[str, Any]], torch.Tensor]] = {
    "gaussian_blur": _gaussian_blur,
    "sharpness": _sharpness,
    "erase": _erase,
    "gaussian_noise": _gaussian_noise,
    "kornia": _kornia,
}
