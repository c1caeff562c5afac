"""The training data of each model of the reference family, and the loss of one step.

Images are uint8 (n, 3, size, size) in memory; latents are encoded once, before.
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
    """Convert uint8 images to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


class AutoencoderPart:
    """Trains the autoencoder on images (n, 3, size, size) uint8; from `encoder_steps` on its encoder is frozen, so that latents stay."""

    name = "vae"

    def __init__(self, model: Any, images: Tensor, kl: float = 5e-4, encoder_steps: int = 4500) -> None:
        self._model, self._images, self._kl, self._encoder_steps = model, images, kl, encoder_steps

    def model(self) -> nn.Module:
        return self._model

    def frozen(self, step: int) -> tuple[str, ...]:
        return ("encoder.", "quant_conv.") if step >= self._encoder_steps else ()

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._images), (batch,), generator=generator)
        loss, squared = reconstruction(self._model, as_floats(self._images[rows]), generator, self._kl)
        return loss, {"psnr": float(10.0 * torch.log10(4.0 / squared))}


class ClipPart:
    """Trains CLIP on images with captions, and to name the classes on them: the sum of two cross-entropies.

    Captions are token ids `tokens` (n, tokens); `classes` (n, classes) float is 1 for each class on an image, else 0; `class_tokens`
    (classes, tokens) are the classes' prompts.

    The first loss is CLIP's: match each image of the batch with its caption. The second, of weight 2, classifies each image among
    the class prompts; with two classes on an image the target is one half each. It is needed because a few thousand captions can be
    matched by colours and grounds alone, so that the first loss falls for a long time while no class is learnt.

    From `text_steps` on the text tower is frozen, so that the UNet that reads it can be trained meanwhile. (LiT, Zhai et al. 2022,
    freezes the image tower instead.)
    """

    name = "clip"

    def __init__(
        self,
        model: CLIPModel,
        images: Tensor,
        tokens: Tensor,
        classes: Tensor,
        class_tokens: Tensor,
        text_steps: int = 700,
    ) -> None:
        self._clip, self._images, self._tokens = model, images, tokens
        self._classes, self._class_tokens, self._text_steps = classes, class_tokens, text_steps

    def model(self) -> nn.Module:
        return self._clip

    def frozen(self, step: int) -> tuple[str, ...]:
        return ("text_model.", "text_projection.") if step >= self._text_steps else ()

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._images), (batch,), generator=generator)
        ids, shown = self._tokens[rows], self._classes[rows]
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        embedded = features(
            self._clip.get_image_features(pixel_values=(self._images[rows].float() / 255.0 - mean) / std)
        )
        texts = torch.cat([ids, self._class_tokens])
        # The tower is causal and reads the place of the end token: what stands behind the longest text changes nothing.
        longest = int((texts != EOS).sum(1).max()) + 1
        embedded_texts = features(self._clip.get_text_features(input_ids=texts[:, :longest]))
        captions, prompts = embedded_texts.float().split([batch, len(self._class_tokens)])
        pairs = contrast(embedded.float(), captions, self._clip.logit_scale, (ids[:, None] == ids[None]).all(-1))
        logits = (
            self._clip.logit_scale.exp()
            * functional.normalize(embedded.float(), dim=-1)
            @ functional.normalize(prompts, dim=-1).T
        )
        naming = functional.cross_entropy(logits, shown / shown.sum(1, keepdim=True))
        right = shown.gather(1, logits.argmax(1, keepdim=True)).mean()
        return pairs + 2.0 * naming, {"pairs": float(pairs.detach()), "named": float(right)}


def features(output: Any) -> Tensor:
    """Take the tensor out of what CLIP's towers return: transformers 5 gives an object where 4 gave the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


class TextUNetPart:
    """Trains the text UNet on scaled latents (n, c, h, w) with captions, token ids (n, tokens).

    A quarter of the texts are `short` (n, tokens) instead, one in ten is `empty` (tokens,), for classifier-free guidance. Freezes
    CLIP's text tower.
    """

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

    def frozen(self, step: int) -> tuple[str, ...]:
        return ()

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(self._latents), (batch,), generator=generator)
        draw = torch.rand(batch, generator=generator)
        ids = torch.where((draw < 0.35)[:, None], self._short[rows], self._tokens[rows])
        ids = torch.where((draw < 0.1)[:, None], self._empty, ids)
        with torch.no_grad():
            texts = self._text(input_ids=ids).last_hidden_state
        return noised_loss(self._latents[rows], self._schedule, generator, lambda x, t: self._model(x, t, texts).sample)


class ClassDiTPart:
    """Trains the class DiT on scaled latents (n, c, h, w) with labels (n,) int64. The model itself drops one label in ten."""

    name = "dit"

    def __init__(self, model: Any, schedule: Any, latents: Tensor, labels: Tensor) -> None:
        self._model, self._schedule, self._latents, self._labels = model, schedule, latents, labels

    def model(self) -> nn.Module:
        return self._model

    def frozen(self, step: int) -> tuple[str, ...]:
        return ()

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
    """Noise `latents` at uniform timesteps, have `predict` undo it, and return the min-SNR loss (gamma 5), with nothing to report."""
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),), generator=generator)
    predicted = predict(schedule.add_noise(latents, noise, timesteps), timesteps)
    return denoising(predicted, latents, noise, timesteps, schedule, 5.0), {}


@torch.no_grad()
def latents_of(model: Any, images: Tensor, batch: int = 64) -> Tensor:
    """Encode uint8 images to posterior means (n, c, h, w) float32, not yet scaled."""
    parts = [model.encode(as_floats(images[at : at + batch])).latent_dist.mean for at in range(0, len(images), batch)]
    return torch.cat(parts)


def padded(ids: Sequence[Sequence[int]], length: int, end: int) -> Tensor:
    """Cut and pad token ids to `length` with `end`; returns (n, length) int64."""
    return torch.tensor([[*row[:length], *[end] * (length - len(row))] for row in ids])
