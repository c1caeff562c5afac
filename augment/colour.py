"""Colour steps on torch tensors: one affine map per pixel for what folds, a few closed forms for what does not.

Images are (n, 3, H, W) floats in [0, 1]. Every sample is computed from itself alone. What does not differentiate in Kornia
(posterize, equalize) does not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from augment.colour_plan import Pass, plan
from augment.program import Colour

_CACHED = 1 << 18  # floats in one piece of a batch on the CPU, so that all passes over it find it in the cache
Rows = dict[str, np.ndarray]


def apply_colour(
    images: torch.Tensor, colour: Colour, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> torch.Tensor:
    """Carry out `colour`, then (x - mean) / std where given, on images (n, 3, H, W); the same dtype and layout come back.

    Differentiable in `images`. Images that no step touches are returned as they are, without a copy if that is all of them.
    """
    passes = plan(colour, mean, std)
    if not passes:
        return images
    if images.device.type == "cpu" and not _needs_grad(images):
        count = max(1, _CACHED // images[0].numel())
        if count < len(images):
            made = torch.empty_like(images)
            for start in range(0, len(images), count):
                rows = slice(start, start + count)
                made[rows] = _run(images[rows], passes, rows)
            return made
    made = _run(images, passes, slice(None))
    layout = torch.channels_last if _is_channels_last(images) else torch.contiguous_format
    return made.contiguous(memory_format=layout)


def _run(images: torch.Tensor, passes: Sequence[Pass], rows: slice) -> torch.Tensor:
    images = images.contiguous()
    ours = False
    for step in passes:
        on = step.on[rows]
        if not on.any():
            continue
        function = _FUNCTIONS[step.name]
        values = {name: column[rows] for name, column in step.values.items()}
        if on.all():
            images = function(images, values)
        else:
            where = np.flatnonzero(on)
            index = torch.from_numpy(where).to(images.device, non_blocking=True)
            made = function(images[index], {name: column[where] for name, column in values.items()})
            images = (
                images.index_copy_(0, index, made)
                if ours and not _needs_grad(made)
                else images.index_copy(0, index, made)
            )
        ours = True
    return images


def _needs_grad(images: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and images.requires_grad


def _is_channels_last(images: torch.Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def _tensor(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(images.device, images.dtype, non_blocking=True)


def _column(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return _tensor(values, images)[:, None, None, None]


def _affine(images: torch.Tensor, values: Rows) -> torch.Tensor:
    shape, pixels = images.shape, images.flatten(2)
    matrix, means, offset, clamp = (values[name] for name in ("matrix", "means", "offset", "clamp"))
    numbers = _tensor(np.concatenate([matrix, means, offset[:, :, None]], 2), images)
    weights, shift = numbers[:, :, :3], numbers[:, :, 6:]
    if means.any():
        # A product and a sum, not bmm: that would follow the float32 precision set for matrix products on a GPU.
        shift = shift + (numbers[:, :, 3:6] * pixels.mean(2)[:, None, :]).sum(2, keepdim=True)
    found = _mix(pixels, weights, shift, matrix)
    if clamp.all():
        found = found.clamp(0, 1) if _needs_grad(found) else found.clamp_(0, 1)
    elif clamp.any():
        low, high = (
            _tensor(np.where(clamp, bound, limit), images)[:, None, None]
            for bound, limit in ((0, -np.inf), (1, np.inf))
        )
        found = torch.clamp(found, low, high)
    return found.view(shape)


def _mix(pixels: torch.Tensor, weights: torch.Tensor, shift: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """weights (n, 3, 3) times pixels (n, 3, N), plus shift (n, 3, 1); `matrix` has the weights on the host."""
    diagonal = matrix[:, (0, 1, 2), (0, 1, 2)]
    if np.count_nonzero(matrix) == np.count_nonzero(diagonal):
        return (pixels * weights.diagonal(dim1=1, dim2=2)[:, :, None]).add_(shift)
    if pixels.device.type == "cpu" and pixels.dtype in (torch.float32, torch.float64):
        with torch.autocast("cpu", enabled=False):
            return torch.baddbmm(shift, weights, pixels)
    found = shift
    for channel in range(3):
        found = torch.addcmul(found, weights[:, :, channel, None], pixels[:, channel, None])
    return found


def _hue(images: torch.Tensor, values: Rows) -> torch.Tensor:
    """Hue turned without an HSV image.

    With V the largest channel and d the chroma, a channel is V - d clamp(k - 1, 0, 1), k in [0, 3] being the hue's distance in
    sextants from the channel's own: 0, 2 and -2. Everything is kept times d, so nothing is divided.
    """
    red, green, blue = images.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    chroma = top - torch.minimum(torch.minimum(red, green), blue)
    twice = chroma * 2
    hue = torch.where(
        red == top, green - blue, torch.where(green == top, (blue - red) + twice, (red - green) - twice)
    )
    turns = values["turns"].astype(float)
    hue = torch.addcmul(hue, chroma, _tensor(6 * (turns - np.rint(turns)), images)[:, None, None])
    circle = chroma * 6
    made = []
    for moved in (hue, hue - twice, hue + twice):
        away = moved.abs()
        away = torch.minimum(away, (away - circle).abs()) - chroma
        made.append(top - torch.minimum(away.clamp(min=0), chroma))
    return torch.stack(made, 1)


def _gamma(images: torch.Tensor, values: Rows) -> torch.Tensor:
    return images.pow(_column(values["gamma"], images)).clamp(0, 1)


def _solarize(images: torch.Tensor, values: Rows) -> torch.Tensor:
    return torch.where(images < _column(values["threshold"], images), images, 1 - images)


def _posterize(images: torch.Tensor, values: Rows) -> torch.Tensor:
    """Kornia's arithmetic to the bit: its second product with 255 may round below a whole number, and is cut off there."""
    bits = values["bits"].astype(int)
    step = _column(2.0 ** (8 - bits), images)
    made = (images * 255).floor() / step / 255
    made = (made * 255).floor() * step / 255
    if (bits == 0).any() or (bits == 8).any():
        made = torch.where(_column(bits, images) == 8, images, made * _column(bits > 0, images))
    return made


def _autocontrast(images: torch.Tensor, values: Rows) -> torch.Tensor:
    low = images.amin((2, 3), keepdim=True)
    return ((images - low) / (images.amax((2, 3), keepdim=True) - low + 1e-6)).clamp(0, 1)


def _equalize(images: torch.Tensor, values: Rows) -> torch.Tensor:
    """PIL's and Kornia's: the table of a channel is its running count of levels over (pixels but the brightest) / 255."""
    level = (images.detach().clamp(0, 1) * 255).long().flatten(2).flatten(0, 1)
    planes = len(level)
    counts = torch.zeros(planes, 256, device=images.device, dtype=torch.int64)
    counts.scatter_add_(1, level, torch.ones((), dtype=torch.int64, device=images.device).expand_as(level))
    brightest = 255 - (counts.flip(1) > 0).byte().argmax(1, keepdim=True)
    step = (counts.sum(1, keepdim=True) - counts.gather(1, brightest)) // 255
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    table[:, 0] = 0
    made = (table.to(images.dtype) / 255).gather(1, level).view(images.shape)
    return torch.where((step == 0).view(-1, 3, 1, 1), images, made)


_FUNCTIONS: dict[str, Callable[[torch.Tensor, Rows], torch.Tensor]] = {
    "affine": _affine,
    "hue": _hue,
    "gamma": _gamma,
    "solarize": _solarize,
    "posterize": _posterize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
