"""Any other text-to-image pipeline that diffusers' AutoPipeline knows (Sana, Lumina, Qwen-Image, ...), called whole."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from synth import schedules
from synth.backends.adapters import Adapters
from synth.backends.prompts import PromptCache
from synth.backends.protocol import Capabilities, Conditioning
from synth.quiet import quiet_generators
from synth.settings import SchedulerName

# Pipelines whose encode_prompt gives (embedding, mask, negative embedding, negative mask) and whose call takes them back.
_MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


class WholePipeline(Adapters):
    """Wraps a diffusers pipeline that is called whole: per-sample generators and prompts in, image tensors out.

    What happens between steps belongs to the pipeline, so there is no guidance interval, no CADS and no encoder-free step.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._accepted = set(inspect.signature(pipeline.__call__).parameters)
        self._prompts = PromptCache()
        # How a prompt is read has other defaults in encode_prompt than in the call, where they are the model's (Sana's instruction).
        call, encode = (inspect.signature(f).parameters for f in (pipeline.__call__, pipeline.encode_prompt))
        shared = [
            name for name in ("max_sequence_length", "complex_human_instruction") if name in call and name in encode
        ]
        self._reading = {name: call[name].default for name in shared}
        for component in pipeline.components.values():
            if isinstance(component, nn.Module):
                component.eval().requires_grad_(False)
        side = self._native_side()
        guidance = inspect.signature(pipeline.__call__).parameters.get("guidance_scale")
        has_scale = guidance is not None and isinstance(guidance.default, int | float)
        self.capabilities = Capabilities(
            family=type(pipeline).__name__,
            native_size=(side, side),
            text_to_image=True,
            default_guidance=float(guidance.default) if guidance is not None and has_scale else 1.0,
            adapters=hasattr(pipeline, "load_lora_weights"),
            deterministic="generator" in self._accepted,
            stepped=False,
            prediction="flow" if schedules.is_flow(pipeline.scheduler) else "epsilon",
        )
        self._own = pipeline.scheduler

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.pipeline._execution_device

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        *,
        size: tuple[int, int],
        steps: int,
        guidance: float,
        scheduler: SchedulerName = "own",
        negative: str | None = None,
    ) -> torch.Tensor:
        """Make images (n, 3, h, w) float32 in [0, 1], one for each prompt and generator, of `size` (height, width) pixels.

        Gives the pipeline a fresh scheduler; torch's global generators are put back.
        """
        self.pipeline.scheduler = schedules.make(scheduler, self._own)
        arguments: dict[str, Any] = {
            "height": size[0],
            "width": size[1],
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "use_resolution_binning": False,
            "clean_caption": False,
            "generator": list(generators),
            "output_type": "pt",
        }
        with quiet_generators(self.device):
            arguments |= self._prompt_arguments(prompts, negative, guidance > 1)
            output = self.pipeline(**{name: value for name, value in arguments.items() if name in self._accepted})
        return output.images.float().clamp(0, 1)

    def _prompt_arguments(self, prompts: Sequence[str], negative: str | None, guided: bool) -> dict[str, Any]:
        """Return the prompts as embeddings where the pipeline takes them with their masks, each encoded once and alone; else as text."""
        if not self._accepted.issuperset(_MASKED):
            return {"prompt": list(prompts), "negative_prompt": None if negative is None else [negative] * len(prompts)}
        rows = Conditioning.join([self._cached(prompt, negative) for prompt in prompts]).tensors
        names = _MASKED if guided else _MASKED[:2]
        return {**{name: rows[name] for name in names}, "negative_prompt": None}

    def _cached(self, prompt: str, negative: str | None) -> Conditioning:
        return self._prompts.get((prompt, negative, self.text_adapters()), lambda: self._encoded(prompt, negative))

    def _encoded(self, prompt: str, negative: str | None) -> Conditioning:
        rows = self.pipeline.encode_prompt(prompt, negative_prompt=negative or "", device=self.device, **self._reading)
        return Conditioning(dict(zip(_MASKED, rows, strict=True)))

    def _native_side(self) -> int:
        """Return the side in pixels from the denoiser's sample size and the autoencoder's factor, 512 where neither says."""
        denoiser = getattr(self.pipeline, "transformer", None) or getattr(self.pipeline, "unet", None)
        config = getattr(denoiser, "config", None)
        cells = getattr(self.pipeline, "default_sample_size", None) or getattr(config, "sample_size", None)
        factor = getattr(self.pipeline, "vae_scale_factor", None)
        return int(cells) * int(factor) if isinstance(cells, int) and isinstance(factor, int) else 512
