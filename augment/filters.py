"""Operations that read a neighbourhood or write a region, on batches with values of each sample's own; differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from augment.errors import PolicyError
from augment.program import Filter


def apply_filter(images: torch.Tensor, step: Filter) -> torch.Tensor:
    """Carry out one filter on (n, C, H, W) float images where it is on; the input is not written to."""
    apply = _FILTERS[step.name]
    if step.on.all():
        return apply(images, step.values, step.constants)
    if not step.on.any():
        return images
    places = np.flatnonzero(step.on)
    index = torch.from_numpy(places).to(images.device)
    made = apply(images[index], {name: column[places] for name, column in step.values.items()}, step.constants)
    return images.index_copy(0, index, made)


Values = dict[str, np.ndarray]


def gaussian_weights(sigma: torch.Tensor, kernel: int) -> torch.Tensor:
    """(n, kernel) normalised weights of Gaussians of `sigma` (n,) pixels."""
    offset = torch.arange(kernel, device=sigma.device, dtype=sigma.dtype) - kernel // 2
    weights = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    return weights / weights.sum(1, keepdim=True)


def _gaussian_blur(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """Two passes of shifted copies added up: on a CPU several times faster than a grouped convolution, and one batch size's bits."""
    kernel = constants["kernel"]
    reach = kernel // 2
    weights = gaussian_weights(torch.from_numpy(values["sigma"]).to(images.device, images.dtype), kernel)
    count, channels, height, width = images.shape
    if images.device.type != "cpu":
        padded = functional.pad(images, (reach, reach, reach, reach), mode="reflect")
        padded = padded.reshape(1, count * channels, height + 2 * reach, width + 2 * reach)
        each = weights.repeat_interleave(channels, 0)
        padded = functional.conv2d(padded, each[:, None, None, :], groups=count * channels)
        return functional.conv2d(padded, each[:, None, :, None], groups=count * channels).reshape(images.shape)
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


def _sharpness(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """PIL's SMOOTH kernel (1 1 1, 1 5 1, 1 1 1) / 13 inside, the image itself on the border; then away from it by the factor."""
    factor = torch.from_numpy(values["factor"]).to(images.device, images.dtype)[:, None, None, None]
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = images[:, :, 1:-1, 1:-1]
    smooth = (torch.add(box, inner, alpha=4) / 13).clamp(0, 1)
    made = (smooth + (inner - smooth) * factor).clamp(0, 1)
    result = images.clamp(0, 1)
    if min(images.shape[2:]) < 3:
        return result
    if images.requires_grad:
        middle = functional.pad(made, (1, 1, 1, 1))
        inside = functional.pad(torch.ones_like(made[:1, :1], dtype=torch.bool), (1, 1, 1, 1))
        return torch.where(inside, middle, result)
    result[:, :, 1:-1, 1:-1] = made
    return result


def _erase(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    sides = {name: torch.from_numpy(column).to(images.device)[:, None] for name, column in values.items()}
    row, column = (torch.arange(length, device=images.device) for length in images.shape[2:])
    down = (row >= sides["top"]) & (row < sides["top"] + sides["height"])
    across = (column >= sides["left"]) & (column < sides["left"] + sides["width"])
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    return images.masked_fill(inside, constants["value"])


def _gaussian_noise(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """Noise is drawn on the host in float32, so that a seed means the same noise on every device."""
    noise = np.stack([
        np.random.Generator(np.random.PCG64(int(seed))).standard_normal(images.shape[1:], np.float32) * std
        for seed, std in zip(values["seed"], values["std"], strict=True)
    ])  # fmt: skip
    return images + torch.from_numpy(noise).to(images.device, images.dtype)


def _kornia(images: torch.Tensor, values: Values, constants: dict[str, Any]) -> torch.Tensor:
    """One image at a time under a forked generator: nothing outside sees it, and nothing outside changes it."""
    operation = kornia_operation(constants["operation"], constants["arguments"])
    made = []
    for image, seed in zip(images, values["seed"], strict=True):
        with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            torch.manual_seed(int(seed))
            made.append(operation(image[None]))
    return torch.cat(made)


def kornia_operation(name: str, arguments: dict[str, Any]) -> Any:
    """An intensity operation of kornia.augmentation that always applies. `PolicyError` for another, or for wrong arguments."""
    from kornia import augmentation

    found = getattr(augmentation, name, None)
    if not (isinstance(found, type) and issubclass(found, augmentation.IntensityAugmentationBase2D)):
        raise PolicyError(f"kornia.operation takes an intensity operation of kornia.augmentation, and {name!r} is none")
    try:
        return found(**{"p": 1.0, **arguments})
    except (TypeError, ValueError) as error:
        raise PolicyError(f"kornia.augmentation.{name} cannot use {arguments}: {error}") from error


_FILTERS: dict[str, Callable[[torch.Tensor, Values, dict[str, Any]], torch.Tensor]] = {
    "gaussian_blur": _gaussian_blur,
    "sharpness": _sharpness,
    "erase": _erase,
    "gaussian_noise": _gaussian_noise,
    "kornia": _kornia,
}
