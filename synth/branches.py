"""What a model's two branches, with the prompt and without, are told for one batch; and what is left standing round a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from synth import schedules
from synth.backends.encoder_free import KeptFeatures
from synth.backends.protocol import Conditioning, SteppedBackend
from synth.backends.savings import Savings
from synth.requests import Request
from synth.settings import Settings


@dataclass(frozen=True, eq=False)
class Painting:
    """What stays and what is painted: `mask` (n, 1, h', w') in the latent's cells, 1 where painted; `clean` latents; `masked` latents
    of the image with the hole, for inpainting models, which see it."""

    mask: torch.Tensor
    clean: torch.Tensor
    masked: torch.Tensor | None

    @staticmethod
    def over(backend: SteppedBackend, images: torch.Tensor, mask: torch.Tensor, clean: torch.Tensor) -> Painting:
        hole = (mask >= 0.5).float()
        cells = torch.nn.functional.interpolate(hole, size=clean.shape[2:])
        nine = getattr(getattr(backend, "denoiser", None), "config", {}).get("in_channels") == 9
        # A hole is grey, 0 of [-1, 1], as in the inpainting models' training.
        masked = backend.encode_images(images * (1 - hole) + 0.5 * hole, None) if nine else None
        return Painting(cells, clean, masked)

    def keep_outside(
        self, scheduler: Any, latents: torch.Tensor, start: torch.Tensor, following: torch.Tensor
    ) -> torch.Tensor:
        """Outside the mask, the image itself at the noise level of the `following` timestep (none: the last)."""
        if self.masked is not None:
            return latents
        known = schedules.add_noise(scheduler, self.clean, start, following[0]) if len(following) else self.clean
        return (1 - self.mask) * known + self.mask * latents


@dataclass(frozen=True, eq=False)
class Branches:
    """A model and what its branches are told; `null` is None where no second branch is ever run."""

    backend: SteppedBackend
    conditional: Conditioning
    null: Conditioning | None
    features: KeptFeatures | None
    saved: Savings

    @cached_property
    def both(self) -> Conditioning:
        """The null branch above the conditional one: one object for all steps, so that what follows from it is kept."""
        assert self.null is not None
        return Conditioning.join([self.null, self.conditional])

    @staticmethod
    def of(
        backend: SteppedBackend,
        requests: Sequence[Request],
        painting: Painting | None,
        size: tuple[int, int],
        guidance: float,
        settings: Settings,
    ) -> Branches:
        """For this batch: prompts, the image's size, boxes, the scale where the model is told it, and the image with the hole."""
        can, count = backend.capabilities, len(requests)
        prompts: Any = [request.prompt for request in requests]
        conditional = backend.size_conditioning(backend.encode(prompts), size, null=False)
        embedded = can.guidance == "embedded"
        null = None
        if not embedded and guidance > 1:
            null = backend.size_conditioning(backend.encode_null(count, settings.negative), size, null=True)
        if can.layout or any(request.boxes is not None for request in requests):
            boxes, phrases = [request.boxes for request in requests], [request.phrases for request in requests]
            conditional = backend.layout_conditioning(conditional, boxes, phrases)
            if null is not None:
                null = backend.layout_conditioning(null, [None] * count, [()] * count)
        if embedded:
            conditional = conditional.having(guidance=torch.full((count,), guidance, device=backend.device))
        if painting is not None and painting.masked is not None:
            seen = {"mask": painting.mask, "masked": painting.masked}
            conditional = conditional.having(**seen)
            null = None if null is None else null.having(**seen)
        features = KeptFeatures() if settings.encoder_every > 1 and can.encoder_free else None
        saved = Savings(getattr(backend, "denoiser", None), fixed_context=settings.cads is None)
        return Branches(backend, conditional, null, features, saved)

    def ungrounded(self) -> Branches:
        """The same without boxes, for the rest of the steps."""
        names = ("boxes", "phrases", "box_mask")
        null = None if self.null is None else self.null.without(*names)
        return Branches(self.backend, self.conditional.without(*names), null, self.features, self.saved)
