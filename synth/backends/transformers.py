"""SD3, FLUX and DiT: latent diffusion with a transformer, conditioned on text or on a class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from synth import schedules
from synth.backends.base import LatentBackend
from synth.backends.dit_forward import share_embedders
from synth.backends.protocol import Capabilities, Conditioning
from synth.errors import SynthError


class StableDiffusion3(LatentBackend):
    """SD3 and SD3.5 (Esser et al. 2024): flow matching, two CLIP towers and, where the folder has it, T5."""

    denoiser_name = "transformer"

    def __init__(self, pipeline: Any) -> None:
        config = pipeline.transformer.config
        factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        side = config.sample_size * factor
        super().__init__(
            pipeline,
            Capabilities(
                family="sd3",
                native_size=(side, side),
                multiple=factor * config.patch_size,
                text_to_image=True,
                image_to_image=True,
                inpaint=True,
                default_guidance=7.0,
                adapters=True,
                prediction="flow",
            ),
        )

    def schedule_arguments(self, scheduler: Any, steps: int, size: tuple[int, int]) -> dict[str, Any]:
        """Return the schedule's shift for this size, where the model has one (SD3.5)."""
        if not scheduler.config.get("use_dynamic_shifting"):
            return {}
        _, height, width = self.latent_shape(size)
        patch = self.denoiser.config.patch_size
        return {"mu": schedules.resolution_shift((height // patch) * (width // patch), scheduler.config, 1.16)}

    def _encode_one(self, prompt: Any) -> Conditioning:
        context, _, pooled, _ = self.pipeline.encode_prompt(
            str(prompt), None, None, device=self.device, do_classifier_free_guidance=False
        )
        return Conditioning({"context": context, "pooled": pooled})

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning, features: Any = None
    ) -> torch.Tensor:
        """Predict the velocity (n, c, h', w') float32 at one `timestep`."""
        inputs = conditioning.tensors
        return self.denoiser(
            hidden_states=latents.to(self.dtype),
            timestep=timestep.expand(len(latents)),
            encoder_hidden_states=inputs["context"].to(self.dtype),
            pooled_projections=inputs["pooled"].to(self.dtype),
            return_dict=False,
        )[0].float()


class Flux(LatentBackend):
    """FLUX.1: flow matching on 2x2 packed latents. The dev model takes its guidance as an input; schnell takes none."""

    denoiser_name = "transformer"

    def __init__(self, pipeline: Any) -> None:
        factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        embedded = bool(pipeline.transformer.config.guidance_embeds)
        side = pipeline.default_sample_size * factor
        super().__init__(
            pipeline,
            Capabilities(
                family="flux",
                native_size=(side, side),
                multiple=2 * factor,
                text_to_image=True,
                image_to_image=True,
                inpaint=True,
                guidance="embedded" if embedded else "classifier_free",
                default_guidance=3.5 if embedded else 1.0,
                adapters=True,
                prediction="flow",
            ),
        )

    def schedule_arguments(self, scheduler: Any, steps: int, size: tuple[int, int]) -> dict[str, Any]:
        """Return FLUX's own sigmas, 1 to 1/steps, and the shift for this size."""
        _, height, width = self.latent_shape(size)
        shift = schedules.resolution_shift((height // 2) * (width // 2), scheduler.config)
        arguments: dict[str, Any] = {"mu": shift} if scheduler.config.get("use_dynamic_shifting") else {}
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            arguments["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        return arguments

    def _encode_one(self, prompt: Any) -> Conditioning:
        context, pooled, _ = self.pipeline.encode_prompt(str(prompt), None, device=self.device)
        return Conditioning({"context": context, "pooled": pooled})

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning, features: Any = None
    ) -> torch.Tensor:
        """Predict the velocity (n, c, h', w') float32 at one `timestep`; the dev model takes a scale, `guidance` (n,), too."""
        inputs = conditioning.tensors
        rows, channels, height, width = latents.shape
        guidance = inputs["guidance"].to(self.device, torch.float32) if "guidance" in inputs else None
        length = inputs["context"].shape[1]
        output = self.denoiser(
            hidden_states=_pack(latents).to(self.dtype),
            timestep=timestep.expand(rows).to(self.dtype) / 1000,
            guidance=guidance,
            pooled_projections=inputs["pooled"].to(self.dtype),
            encoder_hidden_states=inputs["context"].to(self.dtype),
            txt_ids=torch.zeros(length, 3, device=self.device, dtype=self.dtype),
            img_ids=_positions(height // 2, width // 2).to(self.device, self.dtype),
            return_dict=False,
        )[0].float()
        return _unpack(output, channels, height, width)


class DiT(LatentBackend):
    """DiT (Peebles and Xie 2023): a class-conditional transformer; a prompt is a class number. Equal embedders are shared."""

    denoiser_name = "transformer"

    def __init__(self, pipeline: Any) -> None:
        config = pipeline.transformer.config
        factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        side = config.sample_size * factor
        super().__init__(
            pipeline,
            Capabilities(
                family="dit",
                native_size=(side, side),
                multiple=factor * config.patch_size,
                image_to_image=True,
                inpaint=True,
                class_conditional=True,
                classes=config.num_embeds_ada_norm,
                default_guidance=4.0,
                prediction=pipeline.scheduler.config.get("prediction_type", "epsilon"),
            ),
        )
        share_embedders(pipeline.transformer)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (channels, height, width) of a latent; position embeddings are fixed, so SynthError for any but the native size."""
        if tuple(size) != self.capabilities.native_size:
            height, width = self.capabilities.native_size
            raise SynthError(f"this DiT makes {height}x{width} images only, not {size[0]}x{size[1]}")
        return super().latent_shape(size)

    def _encode_one(self, prompt: Any) -> Conditioning:
        count = self.capabilities.classes
        if isinstance(prompt, bool) or not isinstance(prompt, int) or not 0 <= prompt < count:
            raise SynthError(f"a class-conditional model takes class numbers from 0 to {count - 1}, got {prompt!r}")
        return Conditioning({"label": torch.tensor([prompt], device=self.device)})

    def _encode_null(self, negative: str | None) -> Conditioning:
        # The row after the last class; DiTPipeline writes 1000 there, which is right for ImageNet's classes only.
        return Conditioning({"label": torch.tensor([self.capabilities.classes], device=self.device)})

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning, features: Any = None
    ) -> torch.Tensor:
        """Predict the noise (n, c, h', w') float32 at one `timestep`; a learned variance is left out."""
        labels = conditioning.tensors["label"]
        times = timestep.to(self.device).expand(len(latents))
        output = self.denoiser(latents.to(self.dtype), timestep=times, class_labels=labels, return_dict=False)[0]
        return output[:, : latents.shape[1]].float()


def _pack(latents: torch.Tensor) -> torch.Tensor:
    """Pack latents (n, c, h, w) to tokens (n, h/2 * w/2, 4c), one for each 2x2 square."""
    rows, channels, height, width = latents.shape
    squares = latents.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(rows, (height // 2) * (width // 2), channels * 4)


def _unpack(tokens: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """Undo `_pack`: tokens (n, h/2 * w/2, 4c) to latents (n, c, h, w)."""
    squares = tokens.view(len(tokens), height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(len(tokens), channels, height, width)


def _positions(rows: int, columns: int) -> torch.Tensor:
    """Return the places (rows * columns, 3) float32 of tokens: 0, row and column of each."""
    grid = torch.zeros(rows, columns, 3)
    grid[..., 1] += torch.arange(rows)[:, None]
    grid[..., 2] += torch.arange(columns)[None]
    return grid.reshape(-1, 3)
