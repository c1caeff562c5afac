"""The drawn program carried out by Kornia's own functions, one eager operation after the other.

The reference mode: the meaning of every operation and the yardstick of the fused paths; slow, and each warp resamples. Only what
Kornia 0.9 lacks is ours: circular shifts, boxes cut out and resized as F.interpolate does, and the unclamped colours of DSA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from augment.errors import PolicyError
from augment.program import Blend, Colour, ColourStep, Filter, Segment, Warp, WarpStep


def run_kornia(images: Tensor, segments: Sequence[Segment]) -> Tensor:
    """Images (n, C, H, W) float in [0, 1] through all segments: (n, C, h, w)."""
    for segment in segments:
        if isinstance(segment, Warp):
            for step in segment.steps:
                images = _warp_step(images, step, segment)
        elif isinstance(segment, Colour):
            for colour in segment.steps:
                images = _on_rows(images, colour.on, lambda part, rows, step=colour: _colour_step(part, step, rows))
        elif isinstance(segment, Filter):
            images = _on_rows(images, segment.on, lambda part, rows, step=segment: _filter(part, step, rows))
        else:
            images = _blend(images, segment)
    return images


def _on_rows(images: Tensor, on: np.ndarray, apply: Callable[[Tensor, np.ndarray], Tensor]) -> Tensor:
    """`apply(images, rows)` on the samples that are on, the others as they are."""
    rows = np.flatnonzero(on)
    if not len(rows):
        return images
    chosen = torch.from_numpy(rows).to(images.device)
    return images.index_copy(0, chosen, apply(images[chosen], rows).to(images.dtype))


def _like(images: Tensor, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(images.device, images.dtype)


def _colour_step(images: Tensor, step: ColourStep, rows: np.ndarray) -> Tensor:
    values = {key: value[rows] for key, value in step.values.items()}
    if step.name == "jitter":
        return _jitter(images, values)
    return _pointwise(images, step.name, values)


def _jitter(images: Tensor, values: dict[str, np.ndarray]) -> Tensor:
    """Every sample in its own order."""
    for slot in range(4):
        for index, name in enumerate(("brightness", "contrast", "saturation", "hue")):
            key = "turns" if name == "hue" else "factor"
            neutral = 0 if name == "hue" else 1
            images = _on_rows(
                images,
                (values["order"][:, slot] == index) & (values[name] != neutral),
                lambda part, rows, name=name, key=key: _pointwise(part, name, {key: values[name][rows]}),
            )
    return images


def _pointwise(images: Tensor, name: str, values: dict[str, np.ndarray]) -> Tensor:
    from kornia import color, enhance

    def column(key: str) -> Tensor:
        return _like(images, values[key])[:, None, None, None]

    if name == "brightness":
        return enhance.adjust_brightness_accumulative(images, _like(images, values["factor"]))
    if name == "contrast":
        return enhance.adjust_contrast_with_mean_subtraction(images, _like(images, values["factor"]))
    if name == "saturation":
        return enhance.adjust_saturation_with_gray_subtraction(images, _like(images, values["factor"]))
    if name == "hue":
        return enhance.adjust_hue(images, _like(images, values["turns"]) * 2 * math.pi)
    if name == "gamma":
        return enhance.adjust_gamma(images, _like(images, values["gamma"]))
    if name == "solarize":
        return enhance.solarize(images, _like(images, values["threshold"]))
    if name == "posterize":
        return enhance.posterize(images, torch.from_numpy(values["bits"].astype(np.int64)).to(images.device))
    if name == "invert":
        return enhance.invert(images)
    if name == "grayscale":
        return color.rgb_to_grayscale(images).repeat(1, 3, 1, 1)
    if name == "channel_shuffle":
        order = torch.from_numpy(values["order"].astype(np.int64)).to(images.device)
        return images[torch.arange(len(images), device=images.device)[:, None], order]
    if name == "autocontrast":
        return enhance.normalize_min_max(images).clamp(0.0, 1.0)
    if name == "equalize":
        return enhance.equalize(images)
    if name == "brightness_shift":
        return images + column("shift")
    if name == "saturation_mean":
        mean = images.mean(1, keepdim=True)
        return (images - mean) * column("factor") + mean
    if name == "contrast_mean":
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * column("factor") + mean
    raise PolicyError(f"No colour operation is called {name!r}.")


def _filter(images: Tensor, step: Filter, rows: np.ndarray) -> Tensor:
    from kornia import enhance, filters

    from augment.filters import gaussian_noise, run_operation  # drawn sample by sample: the same code on every path

    values = {key: value[rows] for key, value in step.values.items()}
    if step.name == "gaussian_blur":
        sigma = _like(images, values["sigma"])[:, None].expand(-1, 2)
        size = int(step.constants["kernel"])
        return filters.gaussian_blur2d(images, (size, size), sigma, step.constants.get("border", "reflect"))
    if step.name == "sharpness":
        return enhance.sharpness(images, _like(images, values["factor"]))
    if step.name == "erase":
        images = images.clone()
        names = ("top", "left", "height", "width")
        for image, *box in zip(images, *(values[name].tolist() for name in names), strict=True):
            top, left, height, width = box
            image[:, top : top + height, left : left + width] = step.constants["value"]
        return images
    if step.name == "gaussian_noise":
        return gaussian_noise(images, values["std"], values["seed"])
    if step.name == "kornia":
        return run_operation(images, step.constants["operation"], step.constants["arguments"], values["seed"])
    raise PolicyError(f"No filter is called {step.name!r}.")


def _blend(images: Tensor, blend: Blend) -> Tensor:
    mixed = torch.zeros_like(images)
    for index, chain in enumerate(blend.chains):
        mixed = mixed + _like(images, blend.weights[:, index])[:, None, None, None] * run_kornia(images, chain)
    share = _like(images, np.where(blend.on, blend.share, 0.0))[:, None, None, None]
    return torch.where(share == 0, images, (1 - share) * images + share * mixed)


# ---- geometry


def _warp_step(images: Tensor, step: WarpStep, warp: Warp) -> Tensor:
    """One geometric operation on every sample, each as Kornia or torch has it."""
    same_size = tuple(images.shape[-2:]) == step.size
    outputs = []
    for index in range(len(images)):
        image = images[index : index + 1]
        matrix = step.matrix[index]
        if step.roll is not None and step.roll[index].any():
            image = torch.roll(image, tuple(step.roll[index].tolist()), dims=(2, 3))
        elif not (same_size and np.array_equal(matrix, np.eye(3))):
            image = _warp_image(image, matrix, step, index, warp)
        outputs.append(image)
    return torch.cat(outputs)


def _warp_image(image: Tensor, matrix: np.ndarray, step: WarpStep, index: int, warp: Warp) -> Tensor:
    from kornia.geometry import transform

    if step.clamp is not None and np.isfinite(step.clamp[index]).all():
        return _resized_crop(image, matrix, step.clamp[index], step.size, warp)
    if np.array_equal(np.abs(matrix[:2, :2]), np.eye(2)) and tuple(image.shape[-2:]) == step.size:
        height, width = step.size
        if np.array_equal(matrix, [[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]):
            return transform.hflip(image)
        if np.array_equal(matrix, [[1, 0, 0], [0, -1, height - 1], [0, 0, 1]]):
            return transform.vflip(image)
    if warp.antialias and warp.interpolation != "nearest" and (placed := _shrunk(image, matrix, step.size, warp)) is not None:
        return placed
    return transform.warp_perspective(
        image,
        torch.from_numpy(matrix)[None].to(image.device, image.dtype),
        step.size,
        mode=warp.interpolation,
        padding_mode="fill" if warp.fill else "zeros",
        align_corners=True,
        fill_value=torch.full((image.shape[1],), warp.fill, dtype=image.dtype, device=image.device),
    )


def _interpolate(image: Tensor, size: tuple[int, int], warp: Warp) -> Tensor:
    if warp.interpolation == "nearest":
        return functional.interpolate(image, size, mode="nearest-exact")
    return functional.interpolate(image, size, mode=warp.interpolation, antialias=warp.antialias)


def _resized_crop(image: Tensor, matrix: np.ndarray, box: np.ndarray, size: tuple[int, int], warp: Warp) -> Tensor:
    """The box cut out and resized to the whole frame, mirrored where the matrix mirrors."""
    left, top, right, bottom = (round(float(edge)) for edge in box)
    resized = _interpolate(image[:, :, top : bottom + 1, left : right + 1], size, warp)
    mirrored = [axis for axis, scale in ((3, matrix[0, 0]), (2, matrix[1, 1])) if scale < 0]
    return torch.flip(resized, mirrored) if mirrored else resized


def _shrunk(image: Tensor, matrix: np.ndarray, size: tuple[int, int], warp: Warp) -> Tensor | None:
    """A letterbox: the whole image resized to a whole number of pixels and placed at one; None where it is not that."""
    scale_x, scale_y = matrix[0, 0], matrix[1, 1]
    rest = matrix - np.diag(np.diag(matrix))
    rest[:2, 2] = 0
    if rest.any() or not (0 < scale_x <= 1 and 0 < scale_y <= 1) or scale_x == scale_y == 1:
        return None
    height, width = image.shape[-2:]
    place = np.array(
        [scale_y * height, scale_x * width, matrix[1, 2] + 0.5 * (1 - scale_y), matrix[0, 2] + 0.5 * (1 - scale_x)]
    )
    whole = np.rint(place).astype(int)
    new_height, new_width, top, left = whole.tolist()
    if np.abs(place - whole).max() > 1e-6 or min(top, left) < 0 or top + new_height > size[0] or left + new_width > size[1]:
        return None
    frame = image.new_full((*image.shape[:2], *size), warp.fill)
    frame[:, :, top : top + new_height, left : left + new_width] = _interpolate(image, (new_height, new_width), warp)
    return frame
