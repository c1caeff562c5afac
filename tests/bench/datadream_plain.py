"""What `tests.bench.datadream` measures against: models of Stable Diffusion's shape, and DataDream's published loops on them.

The loops are written here from `docs/specs/datadream.md` (adaptation and generation), in the way of the published code: one
`StableDiffusionPipeline` call for every ten images with the prompt ten times over, PIL images resized and written as PNG, the
pipeline loaded anew for every class; and a training step that encodes its images and its eight equal prompts every time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from synth.datadream.lora import TEXT_TARGETS, UNET_TARGETS, lora_config
from tests.synth.making import SD_BETAS, SD_SCHEDULE, tokenizer

Version = Literal["sd15", "sd21"]
BATCH = 10  # images in a call of generate.py


def stable_diffusion(version: Version, divide: int = 8, size: int = 512) -> Any:
    """A pipeline with random weights and the proportions of Stable Diffusion 1.5 or 2.1-base, every width divided by `divide`.

    Numbers of layers and blocks are the real ones; `size` is the native side in pixels. PNDM, epsilon, as both ship it.
    """
    torch.manual_seed(0)
    newer = version == "sd21"
    context, words = (1024 if newer else 768) // divide, tokenizer()
    groups = 32 // divide if divide < 16 else 2
    # Fewer heads of about the real width: with as many heads, all of them narrow, softmax would be most of the time.
    heads = [max(1, count // divide) for count in ((5, 10, 20, 20) if newer else (8, 8, 8, 8))]
    text = CLIPTextConfig(
        vocab_size=len(words) if divide > 1 else 49408,
        hidden_size=context,
        intermediate_size=4 * context,
        num_hidden_layers=23 if newer else 12,
        num_attention_heads=max(1, (16 if newer else 12) // divide),
        hidden_act="gelu" if newer else "quick_gelu",
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    blocks = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    unet = UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=4,
        out_channels=4,
        down_block_types=blocks,
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=tuple(width // divide for width in (320, 640, 1280, 1280)),
        layers_per_block=2,
        norm_num_groups=groups,
        attention_head_dim=heads,
        cross_attention_dim=context,
        use_linear_projection=newer,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(width // divide for width in (128, 256, 512, 512)),
        layers_per_block=2,
        norm_num_groups=groups,
        latent_channels=4,
        sample_size=size,
        scaling_factor=0.18215,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=unet,
        scheduler=PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class PlainTraining:
    """The published adaptation of one class: `advance` is one step of batch 8, in float32 or under autocast to `half`.

    Images are cut already: reading, resizing and cropping them, which the published loader does beside this, are not counted.
    """

    def __init__(self, pipeline: Any, images: torch.Tensor, prompt: str, rank: int, half: torch.dtype | None) -> None:
        self.unet, self.text, self.vae = pipeline.unet, pipeline.text_encoder, pipeline.vae
        self.device, self.half = self.unet.device, half
        for module in (self.unet, self.text, self.vae):
            module.requires_grad_(False).to(half or torch.float32)
        self.unet.add_adapter(lora_config(rank, rank, UNET_TARGETS))
        self.text.add_adapter(lora_config(rank, rank, TEXT_TARGETS))
        self.unet.train()
        self.text.train()
        self.weights = [w for part in (self.unet, self.text) for w in part.parameters() if w.requires_grad]
        for weight in self.weights:
            weight.data = weight.data.float()
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4, weight_decay=1e-2)
        self.rate = get_cosine_schedule_with_warmup(self.optimizer, 100, 400)
        self.noise = DDPMScheduler(**SD_BETAS)
        words = pipeline.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        self.tokens = words.input_ids.to(self.device)
        self.images = images
        self.batches = self._batches()

    def _batches(self) -> Iterator[torch.Tensor]:
        while True:
            for rows in torch.randperm(len(self.images)).split(8):
                yield self.images[rows] * 2 - 1

    def advance(self) -> float:
        """One step; its loss is read, as for the published progress bar."""
        pixels = next(self.batches).to(self.device, self.vae.dtype)
        with torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None):
            with torch.no_grad():
                latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            times = torch.randint(0, 1000, (len(latents),), device=self.device)
            noised = self.noise.add_noise(latents, noise, times)
            context = self.text(self.tokens.repeat(len(latents), 1))[0]
            predicted = self.unet(noised, times, context).sample
        loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def load_pipeline(folder: str, dtype: torch.dtype, device: str) -> Any:
    """The pipeline from disk, as generate.py does for every class."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, safety_checker=None, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def publish(
    pipeline: Any, prompt: str, count: int, steps: int, size: int, seed: int, latents: torch.Tensor | None = None
) -> list[bytes]:
    """`count` images of a class as PNG files, ten to a call, w 2.0; `latents` instead of the pipeline's own noise."""
    files = []
    torch.manual_seed(seed)
    for first in range(0, count, BATCH):
        here = min(BATCH, count - first)
        given = {} if latents is None else {"latents": latents[first : first + here]}
        made = pipeline(
            prompt=[prompt] * here,
            num_inference_steps=steps,
            guidance_scale=2.0,
            cross_attention_kwargs={"scale": 1},
            **given,
        ).images
        files += [png(image.resize((size, size))) for image in made]
    return files


def png(image: Image.Image) -> bytes:
    """The image as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
