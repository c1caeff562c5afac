"""Latents of the few real images: cut, encoded once, and sampled at every step.

A VAE's posterior is its mean and deviation; with both cached, sampling it costs one product and a sum instead of an encoding, which
is 40 % of an adaptation's arithmetic (`docs/specs/datadream.md`, adaptation). The numbers are those of the VAE's own `sample()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import interpolate

from synth.datadream.config import Crop
from synth.errors import SynthError


def short_side_to(image: torch.Tensor, size: int) -> torch.Tensor:
    """Resize `image` (3, h, w) in [0, 1] until its short side is `size`, bilinear with antialiasing; untouched where it is already."""
    height, width = image.shape[1:]
    short, long = min(height, width), max(height, width)
    if short == size:
        return image
    other = int(size * long / short)
    shape = (size, other) if height <= width else (other, size)
    return interpolate(image[None], shape, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def cut(image: torch.Tensor, size: int, crop: Crop, generator: torch.Generator) -> torch.Tensor:
    """Cut a square of `size` pixels out of an image (3, h, w) no smaller, at a drawn place or, with `center`, in the middle."""
    top, left = (side - size for side in image.shape[1:])
    if crop == "center":
        top, left = round(top / 2), round(left / 2)
    else:
        top, left = (int(torch.randint(0, free + 1, (), generator=generator)) for free in (top, left))
    return image[:, top : top + size, left : left + size]


@dataclass(frozen=True, eq=False)
class Moments:
    """Posteriors of n crops as the VAE gives them: `mean` and `deviation` (n, c, h', w') float32; latents are (x - shift) * scale."""

    mean: torch.Tensor
    deviation: torch.Tensor
    shift: Any = 0.0
    scale: Any = 1.0

    def __len__(self) -> int:
        return len(self.mean)

    @staticmethod
    @torch.no_grad()
    def of(backend: Any, images: torch.Tensor, batch_size: int = 8) -> Moments:
        """Encode `images` (n, 3, h, w) in [0, 1] with the VAE of a latent generator, `batch_size` at a time."""
        vae = backend.pipeline.vae
        where = next(vae.parameters())
        means, deviations = [], []
        for part in images.split(batch_size):
            posterior = vae.encode((part * 2 - 1).to(where.device, where.dtype)).latent_dist
            means.append(posterior.mean.float().to(backend.device))
            deviations.append(posterior.std.float().to(backend.device))
        shift, scale = backend.scaling()
        return Moments(torch.cat(means), torch.cat(deviations), shift, scale)

    def sample(self, rows: torch.Tensor | Sequence[int], noise: torch.Tensor) -> torch.Tensor:
        """Sample latents (rows, c, h', w') of these `rows` by `noise` of that shape, standard normal."""
        rows = torch.as_tensor(rows, device=self.mean.device)
        encoded = self.mean[rows] + self.deviation[rows] * noise.to(self.mean.device)
        return (encoded - self.shift) * self.scale


class LatentSource(Protocol):
    """Draws a step's latents (n, c, h', w') of the images at `rows`, with all randomness from `generator`."""

    def draw(self, rows: Sequence[int], generator: torch.Generator) -> torch.Tensor: ...


class FreshLatents:
    """Draws latents as published: a crop and an encoding of its own for every use of an image."""

    def __init__(self, backend: Any, images: Sequence[torch.Tensor], size: int, crop: Crop) -> None:
        self.backend, self.size, self.crop = backend, size, crop
        self.images = [short_side_to(_checked(image), size) for image in images]

    def draw(self, rows: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        crops = torch.stack([cut(self.images[row], self.size, self.crop, generator) for row in rows])
        moments = Moments.of(self.backend, crops, len(crops))
        return moments.sample(range(len(rows)), torch.randn(moments.mean.shape, generator=generator))


class CachedLatents:
    """Draws latents from posteriors of `crops` crops of each image, encoded at once when it is made.

    The same numbers as fresh ones where an image is square or cut in its middle, for which one crop is cached.
    """

    def __init__(
        self,
        backend: Any,
        images: Sequence[torch.Tensor],
        size: int,
        crop: Crop,
        crops: int,
        generator: torch.Generator,
    ) -> None:
        cuts: list[torch.Tensor] = []
        self.places: list[range] = []
        for image in images:
            resized = short_side_to(_checked(image), size)
            one = crop == "center" or resized.shape[1] == resized.shape[2]
            self.places.append(range(len(cuts), len(cuts) + (1 if one else crops)))
            cuts += [cut(resized, size, crop, generator) for _ in self.places[-1]]
        self.moments = Moments.of(backend, torch.stack(cuts))

    def draw(self, rows: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        chosen = []
        for row in rows:
            places = self.places[row]
            pick = int(torch.randint(0, len(places), (), generator=generator)) if len(places) > 1 else 0
            chosen.append(places[pick])
        shape = (len(rows), *self.moments.mean.shape[1:])
        return self.moments.sample(chosen, torch.randn(shape, generator=generator))


def _checked(image: torch.Tensor) -> torch.Tensor:
    if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise SynthError(f"an image is RGB, (3, h, w) float in [0, 1], got {tuple(image.shape)} {image.dtype}")
    return image
