"""Consecutive pointwise operations on a batch, folded where that is exact: few passes over the pixels, differentiable.

Brightness, contrast, saturation, grey, inversion and shuffles are affine maps of a pixel's colour. They are kept as one
(3, 4) matrix a sample and reach the pixels only when a clamp between them can bite, which the factors tell: one that does
not push colours apart (a factor up to 1) keeps [0, 1] inside [0, 1]. The mean that contrast needs is affine too, so it is
carried through the matrix. A sample's arithmetic depends on its own draws alone; the identity leaves it bit by bit.
"""

from __future__ import annotations

import numpy as np
import torch

from augment.program import Colour, ColourStep

_LUMA = (0.299, 0.587, 0.114)
#: Operations that Kornia does not clamp, from DSA.
_UNCLAMPED = {"brightness_shift", "saturation_mean", "contrast_mean"}
_JITTER = ("brightness", "contrast", "saturation", "hue")


def apply_colour(images: torch.Tensor, colour: Colour) -> torch.Tensor:
    """Carry out pointwise steps on (n, 3, H, W) float images in [0, 1]; the input is not written to."""
    state = _Pixels(images)
    for step in colour.steps:
        if step.name == "jitter":
            for slot in range(4):
                for place, name in enumerate(_JITTER):
                    chosen = step.on & (step.values["order"][:, slot] == place)
                    value = step.values[name]
                    if name == "hue":
                        _step(state, ColourStep("hue", chosen & (value != 0), {"turns": value}))
                    else:
                        _step(state, ColourStep(name, chosen & (value != 1), {"factor": value}))
        else:
            _step(state, step)
    return state.finished()


def _step(state: _Pixels, step: ColourStep) -> None:
    if not step.on.any():
        return
    if step.name in _AFFINE:
        linear, shift = _AFFINE[step.name](state, step)
        state.compose(step.on, linear, shift)
        if step.name in _UNCLAMPED:
            state.loose |= step.on
        else:
            apart = step.values["factor"] > 1 if "factor" in step.values else np.zeros_like(step.on)
            state.flush(step.on & (apart | state.loose), clamp=True)
    else:
        state.flush(step.on & (state.pending | state.loose), clamp=True)
        places = np.flatnonzero(step.on)
        values = {
            name: torch.from_numpy(column[places]).to(state.images.device) for name, column in step.values.items()
        }
        state.put(places, _POINTWISE[step.name](state.take(places), values))


class _Pixels:
    """Images, and for each sample an affine map of colours that has not reached them yet.

    `pending` (n,): samples with such a map; `loose` (n,): samples whose colours may lie outside [0, 1] on purpose.
    """

    def __init__(self, images: torch.Tensor) -> None:
        self.images, self._owned = images, False
        count = len(images)
        self._linear = torch.eye(3, device=images.device, dtype=images.dtype).repeat(count, 1, 1)
        self._shift = torch.zeros(count, 3, device=images.device, dtype=images.dtype)
        self.pending, self.loose = np.zeros(count, bool), np.zeros(count, bool)
        self._means: torch.Tensor | None = None

    def column(self, values: np.ndarray) -> torch.Tensor:
        """A drawn column on the images' device and in their dtype."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.images.device, self.images.dtype)

    def means(self) -> torch.Tensor:
        """(n, 3) mean colours as they will be once what is pending has reached the pixels."""
        if self._means is None:
            # In one memory format: the order of a sum must not depend on how the batch was put together.
            self._means = self.images.flatten(2).contiguous().mean(2)
        return (self._linear * self._means[:, None]).sum(2) + self._shift

    def compose(self, on: np.ndarray, linear: torch.Tensor, shift: torch.Tensor) -> None:
        """Put x -> linear x + shift after what is pending, where `on`; sums are spelled out, so that no batch size matters."""
        where = torch.from_numpy(on).to(self.images.device)
        new_linear = (linear[:, :, :, None] * self._linear[:, None]).sum(2)
        new_shift = (linear * self._shift[:, None]).sum(2) + shift
        self._linear = torch.where(where[:, None, None], new_linear, self._linear)
        self._shift = torch.where(where[:, None], new_shift, self._shift)
        self.pending = self.pending | on

    def flush(self, where: np.ndarray, clamp: bool) -> None:
        """Let what is pending reach the pixels of these samples."""
        if not where.any():
            return
        places = np.flatnonzero(where)
        linear, shift = self._linear[places], self._shift[places]
        self.put(places, _affine(self.take(places), linear, shift, clamp))
        if len(places) == len(where):
            self._linear, self._shift = torch.zeros_like(linear) + torch.eye(3).to(linear), torch.zeros_like(shift)
        else:
            kept = torch.from_numpy(where).to(self.images.device)
            self._linear = torch.where(kept[:, None, None], torch.eye(3).to(linear), self._linear)
            self._shift = torch.where(kept[:, None], torch.zeros(()).to(shift), self._shift)
        self.pending = self.pending & ~where
        if clamp:
            self.loose = self.loose & ~where

    def take(self, places: np.ndarray) -> torch.Tensor:
        """The images of some samples; not a copy when it is all of them."""
        if len(places) == len(self.images):
            return self.images
        return self.images[torch.from_numpy(places).to(self.images.device)]

    def put(self, places: np.ndarray, made: torch.Tensor) -> None:
        """New images for some samples."""
        self._means = None
        if len(places) == len(self.images):
            self.images, self._owned = made, True
            return
        index = torch.from_numpy(places).to(self.images.device)
        if made.requires_grad or self.images.requires_grad:
            self.images = self.images.index_copy(0, index, made)
            return
        if not self._owned:
            self.images, self._owned = self.images.clone(), True
        self.images[index] = made

    def finished(self) -> torch.Tensor:
        """The images with nothing pending."""
        loose = self.loose.copy()
        self.flush(self.pending & ~loose, clamp=True)
        self.flush(self.pending & loose, clamp=False)
        return self.images


def _affine(images: torch.Tensor, linear: torch.Tensor, shift: torch.Tensor, clamp: bool) -> torch.Tensor:
    """clamp(linear x + shift) by channel: the channel's own share first, so that a zero elsewhere changes no bit."""
    free = not (images.requires_grad or linear.requires_grad)
    diagonal = (
        not linear.requires_grad
        and images.device.type == "cpu"
        and not bool((linear * (1 - torch.eye(3).to(linear))).any())
    )
    if diagonal:
        own = torch.diagonal(linear, dim1=1, dim2=2)
        made = torch.addcmul(shift[:, :, None, None], images, own[:, :, None, None])
        return (made.clamp_(0, 1) if free else made.clamp(0, 1)) if clamp else made
    rows = []
    for row in range(3):
        made = shift[:, row, None, None]
        for step in range(3):
            column = (row + step) % 3
            made = torch.addcmul(made, images[:, column], linear[:, row, column, None, None])
        rows.append((made.clamp_(0, 1) if free else made.clamp(0, 1)) if clamp else made)
    return torch.stack(rows, 1)


def _scaled(state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    factor = state.column(step.values["factor"])
    eye = torch.eye(3).to(factor)
    return factor[:, None, None] * eye, torch.zeros(len(factor), 3).to(factor)


def _contrast(state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    linear, _ = _scaled(state, step)
    grey = (state.means() * torch.tensor(_LUMA).to(linear)).sum(1)
    return linear, ((1 - linear[:, 0, 0]) * grey)[:, None].expand(-1, 3)


def _contrast_mean(state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    linear, _ = _scaled(state, step)
    return linear, ((1 - linear[:, 0, 0]) * state.means().mean(1))[:, None].expand(-1, 3)


def _towards(weights: tuple[float, ...], state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    linear, shift = _scaled(state, step)
    return linear + (1 - linear[:, :1, :1]) * torch.tensor(weights).to(linear), shift


def _grayscale(state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    grey = torch.tensor([_LUMA] * 3).to(state.images)
    return grey.expand(len(step.on), 3, 3), torch.zeros(len(step.on), 3).to(grey)


def _invert(state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    linear = -torch.eye(3).to(state.images).expand(len(step.on), 3, 3)
    return linear, torch.ones(len(step.on), 3).to(linear)


def _channel_shuffle(state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    linear = state.column(np.eye(3, dtype=np.float32)[step.values["order"]])
    return linear, torch.zeros(len(step.on), 3).to(linear)


def _brightness_shift(state: _Pixels, step: ColourStep) -> tuple[torch.Tensor, torch.Tensor]:
    shift = state.column(step.values["shift"])
    return torch.eye(3).to(shift).expand(len(shift), 3, 3), shift[:, None].expand(-1, 3)


_AFFINE = {
    "brightness": _scaled,
    "contrast": _contrast,
    "saturation": lambda state, step: _towards(_LUMA, state, step),
    "grayscale": _grayscale,
    "invert": _invert,
    "channel_shuffle": _channel_shuffle,
    "brightness_shift": _brightness_shift,
    "saturation_mean": lambda state, step: _towards((1 / 3,) * 3, state, step),
    "contrast_mean": _contrast_mean,
}


def _each(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return values.to(images.dtype)[:, None, None, None]


def _hue(images: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """Turn the hue without leaving RGB: each channel is the largest minus the chroma times a clipped distance on the circle."""
    red, green, blue = images.unbind(1)
    largest, smallest = images.amax(1), images.amin(1)
    chroma = largest - smallest
    safe = chroma.clamp(min=torch.finfo(images.dtype).tiny)
    sextant = torch.where(
        largest == red,
        (green - blue) / safe,
        torch.where(largest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sextant = sextant + 6 * values["turns"].to(images.dtype)[:, None, None]
    turned = []
    for offset in (5, 3, 1):
        place = torch.remainder(sextant + offset, 6)
        turned.append(largest - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(turned, 1)


def _gamma(images: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
    return images.pow(_each(values["gamma"], images)).clamp(0, 1)


def _solarize(images: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.where(images < _each(values["threshold"], images), images, 1 - images)


def _posterize(images: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
    bits = values["bits"][:, None, None, None]
    step = torch.pow(2.0, 8 - bits.to(images.dtype))
    kept = torch.floor(torch.floor(images * 255) / step) * step / 255
    return torch.where(bits == 8, images, kept)


def _autocontrast(images: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return ((images - low) / (high - low + 1e-6)).clamp(0, 1)


def _equalize(images: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """PIL's and Kornia's: a table of 256 levels by channel from its histogram; unchanged where the step is 0."""
    count, channels = images.shape[:2]
    levels = images.reshape(count * channels, -1) * 255
    index = levels.long().clamp(0, 255)
    histogram = torch.zeros(len(index), 256, device=images.device, dtype=torch.int64)
    histogram.scatter_add_(1, index, torch.ones_like(index))
    last = histogram.gather(1, (256 - (histogram.flip(1) > 0).int().argmax(1, keepdim=True) - 1))
    step = (histogram.sum(1, keepdim=True) - last) // 255
    table = (histogram.cumsum(1) - histogram + step // 2) // step.clamp(min=1)
    table[:, 0] = 0
    made = table.clamp(0, 255).gather(1, index).to(images.dtype)
    return (torch.where(step == 0, levels, made) / 255).reshape(images.shape)


_POINTWISE = {
    "hue": _hue,
    "gamma": _gamma,
    "solarize": _solarize,
    "posterize": _posterize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
