"""PixArt: latent diffusion with a transformer, conditioned on T5's tokens and their mask."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from synth.backends.base import LatentBackend
from synth.backends.protocol import Capabilities, Conditioning


class PixArt(LatentBackend):
    """PixArt-alpha and PixArt-Sigma (Chen et al. 2024), of the pipeline that is handed in; a prompt is as long as its call reads."""

    denoiser_name = "transformer"

    def __init__(self, pipeline: Any) -> None:
        config = pipeline.transformer.config
        factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        side = config.sample_size * factor
        call = inspect.signature(pipeline.__call__).parameters
        self._tokens = call["max_sequence_length"].default
        # Only the alpha pipeline tells its network the image's size, and only that of 1024 pixels.
        self._is_told_size = type(pipeline).__name__ == "PixArtAlphaPipeline" and config.sample_size == 128
        super().__init__(
            pipeline,
            Capabilities(
                family="pixart",
                native_size=(side, side),
                multiple=factor * config.patch_size,
                text_to_image=True,
                image_to_image=True,
                inpaint=True,
                default_guidance=float(call["guidance_scale"].default),
                adapters=hasattr(pipeline, "load_lora_weights"),
                prediction=pipeline.scheduler.config.get("prediction_type", "epsilon"),
            ),
        )

    def _encode_one(self, prompt: Any) -> Conditioning:
        context, mask, _, _ = self.pipeline.encode_prompt(
            str(prompt), False, device=self.device, clean_caption=False, max_sequence_length=self._tokens
        )
        return Conditioning({"context": context, "mask": mask})

    def size_conditioning(self, conditioning: Conditioning, size: tuple[int, int], null: bool) -> Conditioning:
        """Add `resolution` (n, 2), height and width, and `aspect_ratio` (n, 1), for a model that is told them."""
        if not self._is_told_size:
            return conditioning
        rows, (height, width) = len(conditioning), size
        resolution = torch.tensor([[float(height), float(width)]], device=self.device).repeat(rows, 1)
        return conditioning.having(resolution=resolution, aspect_ratio=resolution[:, :1] / resolution[:, 1:])

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning, features: Any = None
    ) -> torch.Tensor:
        """Predict the noise (n, c, h', w') float32 at one `timestep`; a learned variance is left out."""
        inputs = conditioning.tensors
        told = {
            name: inputs[name].to(self.dtype) if name in inputs else None for name in ("resolution", "aspect_ratio")
        }
        output = self.denoiser(
            latents.to(self.dtype),
            encoder_hidden_states=inputs["context"].to(self.dtype),
            encoder_attention_mask=inputs["mask"],
            timestep=timestep.to(self.device).expand(len(latents)),
            added_cond_kwargs=told,
            return_dict=False,
        )[0]
        return output[:, : latents.shape[1]].float()
