"""Stable Diffusion 1.x and 2.x, SDXL and its refiner, and GLIGEN: latent diffusion with a text-conditional UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from synth.backends.base import LatentBackend
from synth.backends.encoder_free import EncoderFeatures, run_unet
from synth.backends.protocol import Capabilities, Conditioning
from synth.errors import SynthError

GLIGEN_BOXES = 30


def _capabilities(pipeline: Any, **more: Any) -> Capabilities:
    unet, scheduler = pipeline.unet.config, pipeline.scheduler.config
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    side = unet.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    return Capabilities(
        native_size=(height * factor, width * factor),
        multiple=factor,
        image_to_image=True,
        inpaint=True,
        guidance="embedded" if unet.time_cond_proj_dim is not None else "classifier_free",
        adapters=True,
        encoder_free=True,
        prediction=scheduler.get("prediction_type", "epsilon"),
        **more,
    )


class StableDiffusion(LatentBackend):
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022), with four input channels or the nine of an inpainting model."""

    family, default_guidance = "sd", 7.5

    def __init__(self, pipeline: Any, **more: Any) -> None:
        text = pipeline.unet.config.in_channels != 9
        own = {"family": self.family, "default_guidance": self.default_guidance, "text_to_image": text}
        super().__init__(pipeline, _capabilities(pipeline, **{**own, **more}))

    def _encode_one(self, prompt: Any) -> Conditioning:
        context, _ = self.pipeline.encode_prompt(str(prompt), self.device, 1, False)
        return Conditioning({"context": context})

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        features: EncoderFeatures | None = None,
    ) -> torch.Tensor:
        """Predict the network's raw output (n, 4, h', w') float32 for `latents` at one `timestep`.

        With `features` the UNet's encoder half is run or left out as `synth.backends.encoder_free` says. SynthError where an
        inpainting model gets no mask.
        """
        inputs = conditioning.tensors
        sample = latents
        if self.denoiser.config.in_channels == 9:
            if "mask" not in inputs:
                raise SynthError("this is an inpainting model: every request needs an image and a mask")
            sample = torch.cat([latents, inputs["mask"], inputs["masked"]], dim=1)
        keywords: dict[str, Any] = {"encoder_hidden_states": inputs["context"].to(self.dtype)}
        if "guidance" in inputs:
            keywords["timestep_cond"] = self._guidance_embedding(inputs["guidance"])
        if "pooled" in inputs:
            pooled, times = inputs["pooled"].to(self.dtype), inputs["time_ids"].to(self.dtype)
            keywords["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": times}
        if "boxes" in inputs:
            phrases = inputs["phrases"].to(self.dtype)
            layout = {"boxes": inputs["boxes"].to(self.dtype), "positive_embeddings": phrases}
            keywords["cross_attention_kwargs"] = {"gligen": {**layout, "masks": inputs["box_mask"].to(self.dtype)}}
        return run_unet(self.denoiser, sample.to(self.dtype), timestep, keywords, features).float()

    def _guidance_embedding(self, scale: torch.Tensor) -> torch.Tensor:
        width = self.denoiser.config.time_cond_proj_dim
        return self.pipeline.get_guidance_scale_embedding(scale - 1, embedding_dim=width).to(self.device, self.dtype)


class StableDiffusionXL(StableDiffusion):
    """SDXL (Podell et al. 2023): two text towers, conditioned on the image's size; or its refiner, on an aesthetic score instead."""

    family, default_guidance = "sdxl", 5.0

    def _encode_one(self, prompt: Any) -> Conditioning:
        context, _, pooled, _ = self.pipeline.encode_prompt(
            str(prompt), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Conditioning({"context": context, "pooled": pooled})

    def _encode_null(self, negative: str | None) -> Conditioning:
        empty = self._encode_one(negative or "")
        if negative is None and self.pipeline.config.get("force_zeros_for_empty_prompt", False):
            return Conditioning({name: torch.zeros_like(tensor) for name, tensor in empty.tensors.items()})
        return empty

    def size_conditioning(self, conditioning: Conditioning, size: tuple[int, int], null: bool) -> Conditioning:
        """Add SDXL's six numbers, original size, crop corner and target size, all of the image that is made; the refiner's five."""
        if self.pipeline.config.get("requires_aesthetics_score", False):
            times = [*size, 0, 0, 2.5 if null else 6.0]
        else:
            times = [*size, 0, 0, *size]
        row = torch.tensor([times], dtype=torch.float32, device=self.device)
        return conditioning.having(time_ids=row.repeat(len(conditioning), 1))


class Gligen(StableDiffusion):
    """GLIGEN (Li et al. 2023): Stable Diffusion 1.4 with gated attention to up to 30 boxes and their phrases."""

    family = "gligen"

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline, layout=True, max_boxes=GLIGEN_BOXES)

    def layout_conditioning(
        self, conditioning: Conditioning, boxes: Sequence[torch.Tensor | None], phrases: Sequence[Sequence[str]]
    ) -> Conditioning:
        """Add `boxes` (n, 30, 4), `phrases` (n, 30, d) and `box_mask` (n, 30); a sample without boxes has an empty mask.

        SynthError for more than 30 boxes.
        """
        rows, width = len(conditioning), self.denoiser.config.cross_attention_dim
        places = torch.zeros(rows, GLIGEN_BOXES, 4, device=self.device)
        words = torch.zeros(rows, GLIGEN_BOXES, width, device=self.device)
        mask = torch.zeros(rows, GLIGEN_BOXES, device=self.device)
        for row, (box, names) in enumerate(zip(boxes, phrases, strict=True)):
            count = 0 if box is None else len(box)
            if count > GLIGEN_BOXES:
                raise SynthError(f"GLIGEN takes at most {GLIGEN_BOXES} boxes an image, got {count}")
            if box is not None and count:
                places[row, :count] = box.to(self.device, torch.float32)
                words[row, :count] = torch.cat([self._phrase(name) for name in names]).float()
                mask[row, :count] = 1
        return conditioning.having(boxes=places, phrases=words, box_mask=mask)

    @torch.no_grad()
    def _phrase(self, phrase: str) -> torch.Tensor:
        tokens = self.pipeline.tokenizer([phrase], padding=True, truncation=True, return_tensors="pt").to(self.device)
        return self.pipeline.text_encoder(**tokens).pooler_output
