"""What each model of the reference family is trained on, and one step of it.

Images are uint8 (n, 3, size, size) in memory; latents are made once and kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPModel

from synth.datadream.classifier import MEAN, STD
from synth.family.objectives import contrast, denoising, reconstruction


def as_floats(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


class AutoencoderPart:
    """Any images (n, 3, size, size)."""

    name = "vae"

    def __init__(self, model: AutoencoderKL, images: Tensor, kl: float = 5e-4) -> None:
        self._model, self._images, self._kl = model, images, kl

    def model(self) -> nn.Module:
        return self._model

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._images), (batch,), generator=generator)
        loss, squared = reconstruction(self._model, as_floats(self._images[rows]), generator, self._kl)
        return loss, {"psnr": float(10.0 * torch.log10(4.0 / squared))}


class ClipPart:
    """Images with their captions (token ids (n, tokens)) and the classes that show on them (n, classes), 0 or 1.

    Beside the contrast a linear head names the classes of an image; it is not kept. It takes the place of the hundreds of
    millions of pairs that tell CLIP what a thing is.
    """

    name = "clip"

    def __init__(self, model: CLIPModel, images: Tensor, tokens: Tensor, short: Tensor, classes: Tensor) -> None:
        self._clip, self._images, self._tokens, self._short = model, images, tokens, short
        self._classes = classes
        self._both = nn.ModuleDict(
            {"clip": model, "head": nn.Linear(model.config.projection_dim, classes.shape[1])}
        )

    def model(self) -> nn.Module:
        return self._both

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._images), (batch,), generator=generator)
        brief = torch.rand(batch, generator=generator) < 0.25
        ids = torch.where(brief[:, None], self._short[rows], self._tokens[rows])
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        pixels = (self._images[rows].float() / 255.0 - mean) / std
        seen = self._clip.get_image_features(pixel_values=pixels)
        read = self._clip.get_text_features(input_ids=ids)
        seen, read = getattr(seen, "pooler_output", seen).float(), getattr(read, "pooler_output", read).float()
        same = (ids[:, None] == ids[None]).all(-1)
        pairs = contrast(seen, read, self._clip.logit_scale, same)
        named = self._both["head"](seen)
        told = functional.binary_cross_entropy_with_logits(named.float(), self._classes[rows])
        right = (named.argmax(1) == self._classes[rows].argmax(1)) | (self._classes[rows].gather(1, named.argmax(1)[:, None])[:, 0] > 0)
        return pairs + told, {"pairs": float(pairs.detach()), "named": float(right.float().mean())}


class TextUNetPart:
    """Latents (n, c, h, w), scaled, of images with captions. One text in ten is left empty, for classifier-free guidance."""

    name = "unet"

    def __init__(
        self,
        model: UNet2DConditionModel,
        clip: CLIPModel,
        schedule: DDPMScheduler,
        latents: Tensor,
        tokens: Tensor,
        short: Tensor,
        empty: Tensor,
    ) -> None:
        self._model, self._text, self._schedule = model, clip.text_model.eval().requires_grad_(False), schedule
        self._latents, self._tokens, self._short, self._empty = latents, tokens, short, empty

    def model(self) -> nn.Module:
        return self._model

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._latents), (batch,), generator=generator)
        draw = torch.rand(batch, generator=generator)
        ids = torch.where((draw < 0.35)[:, None], self._short[rows], self._tokens[rows])
        ids = torch.where((draw < 0.1)[:, None], self._empty, ids)
        with torch.no_grad():
            texts = self._text(input_ids=ids).last_hidden_state
        return noised_loss(self._latents[rows], self._schedule, generator, lambda x, t: self._model(x, t, texts).sample)


class ClassDiTPart:
    """Latents (n, c, h, w), scaled, with labels (n,). The model itself drops one label in ten."""

    name = "dit"

    def __init__(self, model: DiTTransformer2DModel, schedule: DDPMScheduler, latents: Tensor, labels: Tensor) -> None:
        self._model, self._schedule, self._latents, self._labels = model, schedule, latents, labels

    def model(self) -> nn.Module:
        return self._model

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._latents), (batch,), generator=generator)
        labels = self._labels[rows]
        return noised_loss(
            self._latents[rows],
            self._schedule,
            generator,
            lambda x, t: self._model(x, timestep=t, class_labels=labels).sample,
        )


def noised_loss(latents, schedule, generator, predict) -> tuple[Tensor, dict[str, float]]:  # type: ignore[no-untyped-def]
    """Noise `latents` at uniform timesteps, have `predict` undo it, and weigh the error (min-SNR, gamma 5)."""
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),), generator=generator)
    predicted = predict(schedule.add_noise(latents, noise, timesteps), timesteps)
    return denoising(predicted, latents, noise, timesteps, schedule, 5.0), {}


@torch.no_grad()
def latents_of(model: AutoencoderKL, images: Tensor, batch: int = 64) -> Tensor:
    """Posterior means (n, c, h, w) float32 of uint8 images, not yet scaled."""
    parts = [model.encode(as_floats(images[at : at + batch])).latent_dist.mean for at in range(0, len(images), batch)]
    return torch.cat(parts)


def padded(ids: Sequence[Sequence[int]], length: int, end: int) -> Tensor:
    """Token ids cut and padded to `length` with `end`, (n, length) int64."""
    return torch.tensor([[*row[:length], *[end] * (length - len(row))] for row in ids])
