"""What all latent diffusion models share: the autoencoder, prompt embeddings kept, adapters swapped. No schedule, no loop."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from synth.backends.protocol import Capabilities, Conditioning
from synth.errors import SynthError

KEPT_PROMPTS = 512


@contextlib.contextmanager
def quiet_generators(device: torch.device) -> Iterator[None]:
    """Third-party code may draw from the global generators in here; afterwards they are as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


class LatentBackend:
    """The common half of an adapter over a loaded diffusers pipeline; subclasses say what conditions the model and call it.

    The pipeline's own `__call__` is never used: only its parts. Whatever it holds is put to eval mode and frozen.
    """

    denoiser_name = "unet"

    def __init__(self, pipeline: Any, capabilities: Capabilities) -> None:
        self.pipeline = pipeline
        self.capabilities = capabilities
        self._prompts: OrderedDict[tuple[Any, ...], Conditioning] = OrderedDict()
        self._loaded = 0
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
        """Where the model runs."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in; latents stay float32 between steps."""
        return self.denoiser.dtype

    def compile(self, mode: str | None = None) -> None:
        """`torch.compile` the denoiser. Give the sampler `fixed_batch`, or every new batch size compiles again."""
        self.denoiser.compile(mode=mode)

    # prompts

    def encode(self, prompts: Sequence[Any]) -> Conditioning:
        """What the model is told for each prompt; every distinct prompt is encoded once, alone, under the adapters now set.

        Alone, so that an embedding does not depend on the prompts it happened to be encoded with.
        """
        if not prompts:
            raise SynthError("no prompt was given: a batch needs one for each image")
        distinct = list(dict.fromkeys(prompts))
        found = {prompt: self._kept(("prompt", prompt)) for prompt in distinct}
        return Conditioning.join([found[prompt] for prompt in distinct]).take([distinct.index(p) for p in prompts])

    def encode_null(self, count: int, negative: str | None = None) -> Conditioning:
        """What the unconditional branch is told, `count` times. It goes through the text encoder's adapters as prompts do."""
        return self._kept(("null", negative)).take([0] * count)

    def forget_prompts(self) -> None:
        """Encode every prompt anew: for whoever changes the text encoder's weights behind this object's back."""
        self._prompts.clear()

    def _kept(self, what: tuple[str, Any]) -> Conditioning:
        key = (*what, self.text_adapters())
        if key not in self._prompts:
            with torch.no_grad(), quiet_generators(self.device):
                self._prompts[key] = self._encode_null(what[1]) if what[0] == "null" else self._encode_one(what[1])
            if len(self._prompts) > KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def _encode_one(self, prompt: Any) -> Conditioning:
        raise NotImplementedError

    def _encode_null(self, negative: str | None) -> Conditioning:
        return self._encode_one(negative or "")

    def size_conditioning(self, conditioning: Conditioning, size: tuple[int, int], null: bool) -> Conditioning:
        """With what the model wants to know about the image's size (height, width); most want nothing."""
        return conditioning

    def layout_conditioning(
        self, conditioning: Conditioning, boxes: Sequence[torch.Tensor | None], phrases: Sequence[Sequence[str]]
    ) -> Conditioning:
        """With boxes (k, 4) of x1, y1, x2, y2 in [0, 1] and a phrase for each, for models that take a layout."""
        raise SynthError(f"a {self.capabilities.family} model takes no boxes: load a layout model (GLIGEN) for them")

    # adapters

    def text_adapters(self) -> tuple[Any, ...]:
        """Which adapters the text encoders now run, with their weights: prompt embeddings belong to this."""
        state: list[Any] = [self._loaded]
        for name in ("text_encoder", "text_encoder_2"):
            module = getattr(self.pipeline, name, None)
            if module is not None and getattr(module, "peft_config", None):
                state.append((name, _adapter_scales(module)))
        return tuple(state)

    def load_adapter(self, folder: str, name: str, weights_file: str | None = None) -> None:
        """Load LoRA weights in diffusers' format from `folder` as adapter `name`, beside those already there; none is set."""
        if not self.capabilities.adapters:
            raise SynthError(f"a {self.capabilities.family} model takes no LoRA adapters here")
        extra = {} if weights_file is None else {"weight_name": weights_file}
        try:
            with quiet_generators(self.device):
                self.pipeline.load_lora_weights(folder, adapter_name=name, **extra)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SynthError(
                f"no LoRA adapter for this {self.capabilities.family} model in {folder} ({reason})"
            ) from error
        self._loaded += 1

    def delete_adapters(self, names: str | Sequence[str]) -> None:
        """Free these adapters' memory."""
        self.pipeline.delete_adapters([names] if isinstance(names, str) else list(names))
        self._loaded += 1

    def set_adapters(self, names: str | Sequence[str], weights: float | Sequence[float] = 1.0) -> None:
        """Run with these adapters and weights from now on; weight 0 is exactly the base model, two at 0.5 are LoFT's fusion."""
        wanted = [names] if isinstance(names, str) else list(names)
        scales = [float(weights)] * len(wanted) if isinstance(weights, int | float) else [float(w) for w in weights]
        if len(scales) != len(wanted):
            raise SynthError(f"{len(wanted)} adapters were named with {len(scales)} weights: give one weight for each")
        listed = self.pipeline.get_list_adapters() if self.capabilities.adapters else {}
        known = sorted({name for part in listed.values() for name in part})
        missing = [name for name in wanted if name not in known]
        if missing:
            raise SynthError(f"no adapter called {missing[0]!r} is loaded, only {', '.join(known) or 'none'}")
        self.pipeline.set_adapters(wanted, adapter_weights=scales)

    # images and latents

    @property
    def _vae(self) -> Any:
        return self.pipeline.vae

    @property
    def latent_factor(self) -> int:
        """Pixels to a side of a latent's cell."""
        return 2 ** (len(self._vae.config.block_out_channels) - 1)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the latent of an image of `size` (height, width)."""
        height, width = size
        multiple = self.capabilities.multiple
        if height <= 0 or width <= 0 or height % multiple or width % multiple:
            raise SynthError(
                f"a {self.capabilities.family} model makes sizes in multiples of {multiple}, not {height}x{width}"
            )
        return int(self._vae.config.latent_channels), height // self.latent_factor, width // self.latent_factor

    def schedule_arguments(self, scheduler: Any, steps: int, size: tuple[int, int]) -> dict[str, Any]:
        """What this model's `set_timesteps` wants besides the number of steps."""
        return {}

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor, generators: Sequence[torch.Generator] | None = None) -> torch.Tensor:
        """Latents (n, c, h', w') float32, scaled as the denoiser expects them, of `images` (n, 3, h, w) in [0, 1].

        With `generators`, one for each image, the posterior is sampled as the published code does; without, its mean is taken.
        """
        shift, scale = self._scaling()
        posterior = self._vae.encode((images * 2 - 1).to(self.device, self._vae.dtype)).latent_dist
        if generators is None:
            latents = posterior.mode().float()
        else:
            noise = torch.stack([torch.randn(posterior.mean.shape[1:], generator=g) for g in generators])
            latents = posterior.mean.float() + posterior.std.float() * noise.to(self.device)
        return (latents - shift) * scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, h, w) float32 in [0, 1] of `latents`; a value that is not a number stays one, to be counted."""
        shift, scale = self._scaling()
        decoded = self._vae.decode((latents / scale + shift).to(self._vae.dtype), return_dict=False)[0]
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def _scaling(self) -> tuple[Any, Any]:
        """What is subtracted from and then multiplied with an encoded latent: numbers, or (1, c, 1, 1) where given per channel."""
        config = self._vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        scale = float(config.scaling_factor)
        if mean is not None and std is not None:

            def per_channel(values: Any) -> torch.Tensor:
                return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

            return per_channel(mean), scale / per_channel(std)
        return float(config.get("shift_factor") or 0.0), scale


def _adapter_scales(module: nn.Module) -> tuple[Any, ...]:
    """The active adapters of a peft-injected module and their scales, read from its first LoRA layer."""
    for layer in module.modules():
        active, scaling = getattr(layer, "active_adapters", None), getattr(layer, "scaling", None)
        if active is not None and isinstance(scaling, dict):
            enabled = not getattr(layer, "disable_adapters", False)
            return tuple((name, scaling.get(name)) for name in active) if enabled else ()
    return ()
