"""The protocol of generators: what one can do, what conditions it, and the few calls that make an image.

Two kinds. A *stepped* generator hands over single model calls, so that the sampler owns noise, guidance and schedule; a *whole*
one is a diffusers pipeline that is only called from end to end. No diffusers class is named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch

GuidanceKind = Literal["classifier_free", "embedded"]


@dataclass(frozen=True)
class Capabilities:
    """The abilities of a generator, which follow from its folder before any work is planned.

    `family`: sd, sdxl, sd3, flux, dit, pixart, gligen, or the name of the whole pipeline. `native_size` in pixels, (height, width);
    `multiple`: height and width must be multiples of it. `max_boxes` is 0 without layout. `guidance`: `classifier_free` runs a
    second, unconditional branch, `embedded` takes the scale as an input (FLUX.1-dev, LCM). `deterministic`: the image follows from
    the per-sample generators alone. `stepped`: the sampler may change what happens between steps. `prediction`: epsilon,
    v_prediction, sample or flow.
    """

    family: str
    native_size: tuple[int, int]
    multiple: int = 8
    text_to_image: bool = False
    image_to_image: bool = False
    inpaint: bool = False
    class_conditional: bool = False
    layout: bool = False
    max_boxes: int = 0
    classes: int = 0
    guidance: GuidanceKind = "classifier_free"
    default_guidance: float = 7.5
    adapters: bool = False
    encoder_free: bool = False
    deterministic: bool = True
    stepped: bool = True
    prediction: str = "epsilon"


@dataclass(frozen=True)
class Conditioning:
    """What conditions the model, a row for each sample: named tensors (n, ...), which only the generator that made them reads."""

    tensors: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def take(self, rows: Sequence[int] | torch.Tensor) -> Conditioning:
        """Return these rows, in this order; a row may be taken more than once."""
        return Conditioning({name: t[torch.as_tensor(rows, device=t.device)] for name, t in self.tensors.items()})

    def having(self, **tensors: torch.Tensor) -> Conditioning:
        """Return a copy with these tensors added or replaced."""
        return replace(self, tensors={**self.tensors, **tensors})

    def without(self, *names: str) -> Conditioning:
        """Return a copy without these tensors; names that it does not have are ignored."""
        return replace(self, tensors={name: t for name, t in self.tensors.items() if name not in names})

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate the rows of `parts`, whose tensors have the same names."""
        return Conditioning({name: torch.cat([p.tensors[name] for p in parts]) for name in parts[0].tensors})


@runtime_checkable
class Backend(Protocol):
    """A generator. `device` is where its model runs; images are float32 RGB (n, 3, h, w) in [0, 1] on that device."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def device(self) -> torch.device: ...
    def set_adapters(self, names: str | Sequence[str], weights: float | Sequence[float] = 1.0) -> None: ...


@runtime_checkable
class SteppedBackend(Backend, Protocol):
    """A generator whose model can be called one step at a time. Latents are float32 (n, c, h', w')."""

    @property
    def scheduler(self) -> Any: ...  # the model's own diffusers scheduler, never stepped itself
    def encode(self, prompts: Sequence[str] | Sequence[int]) -> Conditioning: ...
    def encode_null(self, count: int, negative: str | None = None) -> Conditioning: ...
    def size_conditioning(self, conditioning: Conditioning, size: tuple[int, int], null: bool) -> Conditioning: ...
    def layout_conditioning(
        self, conditioning: Conditioning, boxes: Sequence[torch.Tensor | None], phrases: Sequence[Sequence[str]]
    ) -> Conditioning: ...
    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]: ...
    def schedule_arguments(self, scheduler: Any, steps: int, size: tuple[int, int]) -> dict[str, Any]: ...
    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning, features: Any = None
    ) -> torch.Tensor: ...
    def encode_images(self, images: torch.Tensor, generators: Sequence[torch.Generator] | None) -> torch.Tensor: ...
    def decode(self, latents: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class WholeBackend(Backend, Protocol):
    """A generator that is only called from end to end."""

    def generate(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        *,
        size: tuple[int, int],
        steps: int,
        guidance: float,
        scheduler: str,
        negative: str | None,
    ) -> torch.Tensor: ...
