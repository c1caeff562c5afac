"""`LatentBackend`: what all latent diffusion models share. Autoencoder, cached prompt embeddings, adapters; no schedule, no loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from synth.backends.adapters import Adapters
from synth.backends.prompts import PromptCache
from synth.backends.protocol import Capabilities, Conditioning
from synth.errors import SynthError


class LatentBackend(Adapters):
    """Wraps a loaded diffusers pipeline; subclasses encode what conditions the model, and call it.

    The pipeline's own `__call__` is never used, only its parts, all of which are put to eval mode and frozen.
    """

    denoiser_name = "unet"

    def __init__(self, pipeline: Any, capabilities: Capabilities) -> None:
        self.pipeline = pipeline
        self.capabilities = capabilities
        self._prompts = PromptCache()
        self._dtype: tuple[torch.dtype, torch.dtype] | None = None
        for component in pipeline.components.values():
            if isinstance(component, nn.Module):
                component.eval().requires_grad_(False)

    @property
    def denoiser(self) -> Any:
        """The network that is called once or twice a step."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def scheduler(self) -> Any:
        """The model folder's scheduler; make a fresh one of it by `synth.schedules.make`."""
        return self.pipeline.scheduler

    @property
    def device(self) -> torch.device:
        """Where the denoiser runs, and latents are."""
        return _runs_on(self.denoiser)

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in; latents stay float32 between steps."""
        # diffusers walks all modules to find it, 8 ms in a UNet with adapters, and it is asked for twice at every step.
        denoiser = self.denoiser
        first = next(denoiser.parameters()).dtype
        if self._dtype is None or self._dtype[0] != first:
            self._dtype = (first, denoiser.dtype)
        return self._dtype[1]

    def compile(self, mode: str | None = None, compiler: str = "inductor") -> None:
        """Compile the denoiser with `torch.compile`. Give the sampler `fixed_batch`, or every new batch size compiles again."""
        self.denoiser.compile(mode=mode, backend=compiler)

    # prompts

    def encode(self, prompts: Sequence[Any]) -> Conditioning:
        """Encode `prompts` to conditioning, a row each, and keep it: every distinct prompt runs once, alone, under the adapters now set.

        Alone, so that an embedding does not depend on the prompts it happened to be encoded with. SynthError for no prompt.
        """
        if not prompts:
            raise SynthError("no prompt was given: a batch needs one for each image")
        distinct = list(dict.fromkeys(prompts))
        rows = Conditioning.join([self._cached(("prompt", prompt)) for prompt in distinct])
        return rows.take([distinct.index(prompt) for prompt in prompts])

    def encode_null(self, count: int, negative: str | None = None) -> Conditioning:
        """Encode the unconditional branch's prompt, `negative` or the model's empty one, and return `count` equal rows.

        It goes through the text encoder's adapters as prompts do.
        """
        return self._cached(("null", negative)).take([0] * count)

    def forget_prompts(self) -> None:
        """Drop all cached prompts: for whoever changes the text encoder's weights behind this object's back."""
        self._prompts.clear()

    def _cached(self, what: tuple[str, Any]) -> Conditioning:
        return self._prompts.get((*what, self.text_adapters()), lambda: self._encoded(*what))

    @torch.no_grad()
    def _encoded(self, kind: str, prompt: Any) -> Conditioning:
        row = self._encode_null(prompt) if kind == "null" else self._encode_one(prompt)
        return Conditioning({name: tensor.to(self.device) for name, tensor in row.tensors.items()})

    def _encode_one(self, prompt: Any) -> Conditioning:
        raise NotImplementedError

    def _encode_null(self, negative: str | None) -> Conditioning:
        return self._encode_one(negative or "")

    def size_conditioning(self, conditioning: Conditioning, size: tuple[int, int], null: bool) -> Conditioning:
        """Add what the model is conditioned on of the image's `size` (height, width) in pixels; nothing for most models."""
        return conditioning

    def layout_conditioning(
        self, conditioning: Conditioning, boxes: Sequence[torch.Tensor | None], phrases: Sequence[Sequence[str]]
    ) -> Conditioning:
        """Add boxes (k, 4) of x1, y1, x2, y2 in [0, 1] and a phrase for each, for models that take a layout; SynthError for others."""
        raise SynthError(f"a {self.capabilities.family} model takes no boxes: load a layout model (GLIGEN) for them")

    # images and latents

    @property
    def _vae(self) -> Any:
        return self.pipeline.vae

    @property
    def latent_factor(self) -> int:
        """Pixels to a side of a latent cell."""
        return 2 ** (len(self._vae.config.block_out_channels) - 1)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latent of an image of `size` (height, width); SynthError where it has none."""
        height, width = size
        multiple = self.capabilities.multiple
        if height <= 0 or width <= 0 or height % multiple or width % multiple:
            raise SynthError(
                f"a {self.capabilities.family} model makes sizes in multiples of {multiple}, not {height}x{width}"
            )
        return int(self._vae.config.latent_channels), height // self.latent_factor, width // self.latent_factor

    def schedule_arguments(self, scheduler: Any, steps: int, size: tuple[int, int]) -> dict[str, Any]:
        """Return the keywords that this model's `set_timesteps` takes besides the number of steps."""
        return {}

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor, generators: Sequence[torch.Generator] | None = None) -> torch.Tensor:
        """Encode `images` (n, 3, h, w) in [0, 1] to latents (n, c, h', w') float32, scaled as the denoiser expects them.

        With `generators`, one for each image, the posterior is sampled as the published code does; without, its mean is taken.
        """
        shift, scale = self.scaling()
        posterior = self._vae.encode((images * 2 - 1).to(_runs_on(self._vae), self._vae.dtype)).latent_dist
        if generators is None:
            latents = posterior.mode().float().to(self.device)
        else:
            noise = torch.stack([torch.randn(posterior.mean.shape[1:], generator=g) for g in generators])
            mean, deviation = posterior.mean.float().to(self.device), posterior.std.float().to(self.device)
            latents = mean + deviation * noise.to(self.device)
        return (latents - shift) * scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode `latents` (n, c, h', w') to images (n, 3, h, w) float32 in [0, 1]; NaN stays NaN, to be counted."""
        shift, scale = self.scaling()
        encoded = (latents / scale + shift).to(_runs_on(self._vae), self._vae.dtype)
        decoded = self._vae.decode(encoded, return_dict=False)[0].to(self.device)
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def scaling(self) -> tuple[Any, Any]:
        """Return (shift, scale) of latents, (x - shift) * scale: numbers, or (1, c, 1, 1) where the autoencoder has them per channel."""
        config = self._vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        scale = float(config.scaling_factor)
        if mean is not None and std is not None:

            def per_channel(values: Any) -> torch.Tensor:
                return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

            return per_channel(mean), scale / per_channel(std)
        return float(config.get("shift_factor") or 0.0), scale


def _runs_on(module: Any) -> torch.device:
    """Return the device a module computes on: where accelerate's hook brings it when it is used, else where its weights are."""
    brought_to = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if brought_to is None:
        return next(module.parameters()).device
    return torch.device("cuda", brought_to) if isinstance(brought_to, int) else torch.device(brought_to)
