"""`GuidedBatch`: a model with the conditional and the null conditioning of one batch, and its guided output at a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from synth.backends.encoder_free import EncoderFeatures
from synth.backends.protocol import Conditioning, SteppedBackend
from synth.backends.step_reuse import StepReuse
from synth.guidance import annealed, combine, guided
from synth.inpainting import Inpainting
from synth.requests import Request
from synth.settings import Settings


@dataclass(frozen=True, eq=False)
class GuidedBatch:
    """A model and the conditioning of n samples, n rows in `conditional` and in `null`.

    `null` is None where the unconditional branch never runs: at a `guidance` of 1 or less, and for models with the scale among their
    inputs (FLUX.1-dev, LCM). `features` holds the encoder's output between steps that leave it out, None where none does. `reuse` is
    entered around the steps.
    """

    backend: SteppedBackend
    conditional: Conditioning
    null: Conditioning | None
    guidance: float
    settings: Settings
    features: EncoderFeatures | None
    reuse: StepReuse

    @classmethod
    def of(
        cls,
        backend: SteppedBackend,
        requests: Sequence[Request],
        inpainting: Inpainting | None,
        size: tuple[int, int],
        guidance: float,
        settings: Settings,
    ) -> GuidedBatch:
        """Encode what `backend` is conditioned on, a row for each request: its prompt, the image's `size` (height, width) in pixels,
        its boxes where any request has some, the scale where the model takes it, and the holes of `inpainting`.
        """
        can, count = backend.capabilities, len(requests)
        prompts: Any = [request.prompt for request in requests]
        conditional = backend.size_conditioning(backend.encode(prompts), size, null=False)
        scale_is_input = can.guidance == "embedded"
        null = None
        if not scale_is_input and guidance > 1:
            null = backend.size_conditioning(backend.encode_null(count, settings.negative), size, null=True)
        if can.layout or any(request.boxes is not None for request in requests):
            boxes, phrases = [request.boxes for request in requests], [request.phrases for request in requests]
            conditional = backend.layout_conditioning(conditional, boxes, phrases)
            if null is not None:
                null = backend.layout_conditioning(null, [None] * count, [()] * count)
        if scale_is_input:
            conditional = conditional.having(guidance=torch.full((count,), guidance, device=backend.device))
        if inpainting is not None and inpainting.masked is not None:
            holes = {"mask": inpainting.mask, "masked": inpainting.masked}
            conditional = conditional.having(**holes)
            null = None if null is None else null.having(**holes)
        features = EncoderFeatures() if settings.encoder_every > 1 and can.encoder_free else None
        reuse = StepReuse(getattr(backend, "denoiser", None), fixed_context=settings.cads is None)
        return cls(backend, conditional, null, guidance, settings, features, reuse)

    @cached_property
    def stacked(self) -> Conditioning:
        """The null rows above the conditional ones, 2n in all: one object for all steps, so that `reuse` knows it again."""
        assert self.null is not None
        return Conditioning.join([self.null, self.conditional])

    def take(self, rows: Sequence[int]) -> GuidedBatch:
        """Return the batch of these samples, in this order, on the same model; one may be taken more than once."""
        null = None if self.null is None else self.null.take(rows)
        return replace(self, conditional=self.conditional.take(rows), null=null)

    def without_boxes(self) -> GuidedBatch:
        """Return the same batch with its boxes taken out of the conditioning, for the steps after the grounded ones."""
        names = ("boxes", "phrases", "box_mask")
        null = None if self.null is None else self.null.without(*names)
        return replace(self, conditional=self.conditional.without(*names), null=null)

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, time: float, cads_sources: list[torch.Generator]
    ) -> torch.Tensor:
        """Call the model once and return its output (n, c, h', w') float32 after guidance.

        Both branches ride in that one call, as 2n rows, null ones first. Where guidance does not apply at this `time`, the share of
        the schedule that is left in [0, 1], only the conditional rows run. Under CADS the condition's noise is drawn from
        `cads_sources`, one generator for each sample, which moves them on; `reuse` is told whether the rows are paired.
        """
        cads = self.settings.cads
        conditional = self.conditional if cads is None else annealed(self.conditional, cads, time, cads_sources)
        self.reuse.paired = self.null is not None and guided(self.guidance, self.settings.interval, time)
        if self.null is None or not self.reuse.paired:
            return self.backend.predict(latents, timestep, conditional, self.features)
        stacked = self.stacked if cads is None else Conditioning.join([self.null, conditional])
        output = self.backend.predict(torch.cat([latents, latents]), timestep, stacked, self.features)
        unconditional, conditioned = output.chunk(2)
        return combine(unconditional, conditioned, self.guidance)
