"""Pointwise operations that no matrix holds: hue, gamma, solarize, posterize, autocontrast, equalize.

Each takes images (k, 3, H, W) float, RGB in [0, 1], and returns what Kornia's function of the same name returns. `value` is one
Python number for all of them or a tensor (k, 1, 1, 1). `out`, which may be the images themselves, is written to and returned; it
is None, for new memory, where a gradient is recorded.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Value = float | Tensor
ALONE = 96 * 96  # pixels from which an image is worth calls of its own on a CPU
FLAT = 0.5 / 255  # what resampling may leave of a channel of one level: less than half a level from end to end
AHEAD = (0.0, 4.0, 2.0)  # sextants from the hues of red, green and blue on to red


def records_gradient(images: Tensor) -> bool:
    """Whether an operation on `images` is recorded for a backward pass."""
    return torch.is_grad_enabled() and images.requires_grad


def channel_means(images: Tensor) -> Tensor:
    """Average (k, 3, H, W) over the pixels, to (k, 3). On a device in a fixed order: its own depends on how many images there are."""
    flat = images.flatten(2)
    if not images.is_cuda:
        return flat.mean(2)
    total = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    while total.shape[2] > 1:
        half = (total.shape[2] + 1) // 2
        total = torch.nn.functional.pad(total, (0, total.shape[2] % 2))
        total = total[..., :half] + total[..., half:]
    return (total[..., 0] / flat.shape[2]).to(flat.dtype)


def hue(images: Tensor, value: Value, out: Tensor | None = None) -> Tensor:
    """Turn hues by `value` of the circle: kornia.enhance.adjust_hue(images, 2 pi value) without HSV, selection or division.

    With V the largest, m the smallest channel and C = V - m, the way round the hue circle from a pixel to red, in sextants
    times C, is |t| = G + B - R + V - 2m, on the side of the sign of G - B. A channel whose hue lies a sextants from the
    pixel's is V - C clamp(a - 1, 0, 1), and a distance on a circle of 6C is a triangle wave of t + shift C, so that
    channel = clamp(V + C - ||t + shift C| - 3C|, m, V), where `shift` takes the channel's own place into account.
    """
    red, green, blue = images.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    bottom = torch.minimum(torch.minimum(red, green), blue)
    chroma = top - bottom
    turn = torch.copysign((green + blue).sub_(red).add_(top).sub_(bottom, alpha=2), green - blue)
    if isinstance(value, Tensor):
        shift = (
            torch.remainder(value * 6 + value.new_tensor(AHEAD)[:, None, None], 6) - 3
        )  # t + shift C is in [-6C, 6C]
        wave = torch.addcmul(turn[:, None], chroma[:, None], shift, out=out)
    else:
        wave = torch.empty_like(images) if out is None else out
        for channel, ahead in enumerate(AHEAD):
            torch.add(turn, chroma, alpha=(value * 6 + ahead) % 6 - 3, out=wave[:, channel])
    wave = torch.abs(wave, out=out)
    wave = torch.sub(wave, chroma[:, None], alpha=3, out=out)
    wave = torch.abs(wave, out=out)
    wave = torch.sub((top + chroma)[:, None], wave, out=out)
    return torch.clamp(wave, bottom[:, None], top[:, None], out=out)


def gamma(images: Tensor, value: Value, out: Tensor | None = None) -> Tensor:
    """Raise colours in [0, 1] to the power `value`: kornia.enhance.adjust_gamma. A clamp before keeps rounding errors below 0 out."""
    return torch.pow(torch.clamp(images, min=0.0, out=out), value, out=out)


def solarize(images: Tensor, value: Value, out: Tensor | None = None) -> Tensor:
    """Invert colours from the threshold `value` on: kornia.enhance.solarize.

    Without a gradient on a CPU (x - s) (1 - 2 s) with s = 0 below the threshold and 1 from it on: exact, outside [0, 1] too, and
    taken from the sign of x - threshold, because comparisons and selections are slow there.
    """
    if records_gradient(images) or images.is_cuda:
        return torch.where(images < value, images, 1.0 - images)
    side = images - value
    side = torch.copysign(torch.tensor(0.5, dtype=images.dtype), side, out=side).add_(0.5)
    moved = torch.sub(images, side, out=out)
    return moved.mul_(torch.add(torch.tensor(1.0, dtype=images.dtype), side, alpha=-2.0, out=side))


def posterize(images: Tensor, value: Value, out: Tensor | None = None) -> Tensor:
    """Reduce images in [0, 1] to `value` bits: kornia.enhance.posterize. 0 is black, 8 leaves as is; the gradient is zero."""
    levels = 255 / 2 ** (8 - value)  # of 0 bits: less than one, so that all is 0
    if isinstance(value, Tensor):
        reduced = torch.floor(images * levels).div_(levels)
        reduced = torch.where(value == 8, images, reduced)
        return reduced if out is None else out.copy_(reduced)
    if value == 8:
        return torch.mul(images, 1.0, out=out)
    return torch.div(torch.floor(torch.mul(images, levels, out=out), out=out), levels, out=out)


def autocontrast(images: Tensor, value: Value = 0.0, out: Tensor | None = None) -> Tensor:
    """Stretch each channel to [0, 1]: kornia.enhance.normalize_min_max, clamped as RandomAutoContrast does; a flat one stays (PIL)."""
    del value
    flat = images.flatten(2)
    low, high = flat.amin(2), flat.amax(2)
    still = high - low < FLAT
    low, span = torch.where(still, 0.0, low), torch.where(still, 1.0, high - low + 1e-6)
    if out is not None and flat.shape[2] >= ALONE:  # numbers are faster than a broadcast tensor
        for image, result, least, width in zip(images, out, low.tolist(), span.tolist(), strict=True):
            for channel in range(len(image)):
                torch.sub(image[channel], least[channel], out=result[channel]).div_(width[channel])
        return out  # in [0, 1) already: the span is widened by 1e-6
    lifted = torch.sub(images, low[..., None, None], out=out)
    return torch.div(lifted, span[..., None, None], out=out)


def equalize(images: Tensor, value: Value = 0.0, out: Tensor | None = None) -> Tensor:
    """Flatten each channel's histogram: kornia.enhance.equalize.

    Levels floor(255 x) go through a table of the channel's own; a channel whose step is 0 stays.
    """
    del value
    if out is not None and images.shape[2] * images.shape[3] >= ALONE and images.dtype == torch.float32:
        for source, target in zip(images.flatten(0, 1), out.flatten(0, 1), strict=True):
            _equalize_plane(source.numpy(), target.numpy())
        return out
    flat = images.flatten(2)
    index = (flat.detach() * 255).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, index, torch.ones_like(index))
    last = 255 - (counts.flip(2) > 0).long().argmax(2, keepdim=True)
    step = (flat.shape[2] - counts.gather(2, last)) // 255
    table = (counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)
    table[..., 0] = 0
    equal = table.clamp(0, 255).to(images.dtype).gather(2, index) / 255
    result = torch.where(step == 0, flat, equal).view_as(images)
    return result if out is None else out.copy_(result)


def _equalize_plane(source: np.ndarray, target: np.ndarray) -> None:
    """Equalize one float32 channel (H, W) into `target`, which may be `source`."""
    import cv2  # here: a device does without it

    level = (source * np.float32(255)).astype(np.uint8)
    counts = np.bincount(level.ravel(), minlength=256)
    step = (level.size - counts[np.flatnonzero(counts)[-1]]) // 255
    if step == 0:
        target[...] = source
        return
    table = (counts.cumsum() - counts + step // 2) // step
    table[0] = 0
    cv2.LUT(level, (table.clip(0, 255) / np.float32(255)).astype(np.float32), dst=target)
