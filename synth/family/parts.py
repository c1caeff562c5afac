"""What each model of the reference family is trained on, and one step of it.

Images are uint8 (n, 3, size, size) in memory; latents are made once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import CLIPModel

from synth.datadream.classifier import MEAN, STD
from synth.family.objectives import contrast, denoising, reconstruction
from synth.family.shapes import EOS


def as_floats(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


class AutoencoderPart:
    """Any images (n, 3, size, size)."""

    name = "vae"

    def __init__(self, model: Any, images: Tensor, kl: float = 5e-4) -> None:
        self._model, self._images, self._kl = model, images, kl

    def model(self) -> nn.Module:
        return self._model

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._images), (batch,), generator=generator)
        loss, squared = reconstruction(self._model, as_floats(self._images[rows]), generator, self._kl)
        return loss, {"psnr": float(10.0 * torch.log10(4.0 / squared))}


class ClipPart:
    """Images with captions (token ids (n, tokens)) and with the classes that show on them (n, classes), 0 or 1.

    Beside the contrast of captions, an image is told from the classes' prompts `class_tokens` (classes, tokens), its target shared
    out among what shows on it. It takes the place of the hundreds of millions of pairs that tell CLIP what a thing is: colours
    and grounds alone would satisfy the captions of a batch for a long time.
    """

    name = "clip"

    def __init__(self, model: CLIPModel, images: Tensor, tokens: Tensor, classes: Tensor, class_tokens: Tensor) -> None:
        self._clip, self._images, self._tokens = model, images, tokens
        self._classes, self._class_tokens = classes, class_tokens

    def model(self) -> nn.Module:
        return self._clip

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._images), (batch,), generator=generator)
        ids, shown = self._tokens[rows], self._classes[rows]
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        seen = features(self._clip.get_image_features(pixel_values=(self._images[rows].float() / 255.0 - mean) / std))
        texts = torch.cat([ids, self._class_tokens])
        # The tower is causal and reads the place of the end token: what stands behind the longest text changes nothing.
        longest = int((texts != EOS).sum(1).max()) + 1
        read = features(self._clip.get_text_features(input_ids=texts[:, :longest]))
        captions, prompts = read.float().split([batch, len(self._class_tokens)])
        pairs = contrast(seen.float(), captions, self._clip.logit_scale, (ids[:, None] == ids[None]).all(-1))
        logits = (
            self._clip.logit_scale.exp()
            * functional.normalize(seen.float(), dim=-1)
            @ functional.normalize(prompts, dim=-1).T
        )
        named = functional.cross_entropy(logits, shown / shown.sum(1, keepdim=True))
        right = shown.gather(1, logits.argmax(1, keepdim=True)).mean()
        return pairs + 2.0 * named, {"pairs": float(pairs.detach()), "named": float(right)}


def features(output: Any) -> Tensor:
    """transformers 5 gives an object where 4 gave the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


class TextUNetPart:
    """Latents (n, c, h, w), scaled, of images with captions. One text in ten is left empty, for classifier-free guidance."""

    name = "unet"

    def __init__(
        self,
        model: Any,
        clip: CLIPModel,
        schedule: Any,
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

    def __init__(self, model: Any, schedule: Any, latents: Tensor, labels: Tensor) -> None:
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


def noised_loss(
    latents: Tensor, schedule: Any, generator: torch.Generator, predict: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """Noise `latents` at uniform timesteps, have `predict` undo it, and weigh the error (min-SNR, gamma 5)."""
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),), generator=generator)
    predicted = predict(schedule.add_noise(latents, noise, timesteps), timesteps)
    return denoising(predicted, latents, noise, timesteps, schedule, 5.0), {}


@torch.no_grad()
def latents_of(model: Any, images: Tensor, batch: int = 64) -> Tensor:
    """Posterior means (n, c, h, w) float32 of uint8 images, not yet scaled."""
    parts = [model.encode(as_floats(images[at : at + batch])).latent_dist.mean for at in range(0, len(images), batch)]
    return torch.cat(parts)


def padded(ids: Sequence[Sequence[int]], length: int, end: int) -> Tensor:
    """Token ids cut and padded to `length` with `end`, (n, length) int64."""
    return torch.tensor([[*row[:length], *[end] * (length - len(row))] for row in ids])
