"""`Inverter`: images' latents in, the latents at wanted noise levels out, from which the sampler makes the images again.

DDIM without noise run upwards (Song et al. 2021, section 4.3), on any generator that is called step by step: its own noise schedule,
its guidance as in the sampler. Flow models (SD3, FLUX) are inverted by Euler's steps reversed. A model that takes the scale of
guidance as an input (FLUX.1-dev, LCM) gets it there and runs one branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from synth.backends.protocol import Backend, SteppedBackend
from synth.errors import SynthError
from synth.guided_batch import GuidedBatch
from synth.levels import Move, climb, grid
from synth.requests import Request, stacked_latents
from synth.settings import TRAINING_TIMESTEPS, InversionSettings, Settings


class Inverter:
    """Inverts latents with `backend` under `settings`; the latents of one image do not depend on its batch.

    SynthError for a model that is only called whole, and where `synth.levels.grid` finds none.

        inverter = Inverter(load_backend("models/dit"), InversionSettings(level=600))
        latents = backend.encode_images(images, None)
        noise = inverter.invert(latents, [3] * len(latents), [480, 600])[600]
        Sampler(backend, Settings(guidance=1.0)).batch([Request(3, "k", i, latents=z, level=600) for i, z in enumerate(noise)])
    """

    def __init__(self, backend: Backend, settings: InversionSettings | None = None) -> None:
        self.settings = settings or InversionSettings()
        if not isinstance(backend, SteppedBackend):
            raise SynthError(f"{backend.capabilities.family} is only called whole: it cannot be inverted step by step")
        self.backend = backend
        self.size = self.settings.size or backend.capabilities.native_size
        self._grid = grid(backend, self.settings, self.size)

    def evaluations(self, levels: Sequence[int] | None = None) -> int:
        """Count how often the model is called for `levels`, each time with a row for every image and branch."""
        return len(self._moves(self._wanted(levels))) * (1 + self.settings.passes)

    @torch.no_grad()
    def invert(
        self, latents: torch.Tensor, prompts: Sequence[Any], levels: Sequence[int] | None = None
    ) -> dict[int, torch.Tensor]:
        """Bring clean `latents` (n, c, h', w') to `levels` in one pass, and return those of each (n, c, h', w') float32.

        `prompts` has a text or class number for each; `levels` None is the settings' own. Results are on the model's device.
        SynthError for latents of another shape or that are not finite, and for a level off the grid.
        """
        settings, wanted = self.settings, self._wanted(levels)
        if len(latents) != len(prompts) or not len(latents):
            raise SynthError(f"{len(latents)} latents came with {len(prompts)} prompts: give one for each, from one on")
        requests = [Request(prompt, "inversion", row) for row, prompt in enumerate(prompts)]
        clean = stacked_latents(latents, requests, self.backend.latent_shape(self.size))
        sampling = Settings(negative=settings.negative)
        batch = GuidedBatch.of(self.backend, requests, None, self.size, settings.scale, sampling)

        def predict(seen: torch.Tensor, move: Move) -> torch.Tensor:
            timestep = torch.tensor(move.timestep, device=seen.device)
            return batch.predict(seen, timestep, move.timestep / TRAINING_TIMESTEPS, [])

        moves = self._moves(wanted)
        with batch.reuse:
            states = climb(clean.to(self.backend.device, torch.float32), moves, predict, settings.passes)
            return {move.level: state for move, state in zip(moves, states, strict=True) if move.level in wanted}

    def _wanted(self, levels: Sequence[int] | None) -> set[int]:
        wanted = {self.settings.level} if levels is None else set(levels)
        if not wanted:
            raise SynthError("no level was asked for: name at least one")
        for level in wanted:
            self.settings.place(level)
        return wanted

    def _moves(self, wanted: set[int]) -> list[Move]:
        """Return the moves up to the highest of the levels `wanted`; as published, up to the highest there is."""
        highest = self.settings.highest if self.settings.mode == "reference" else max(wanted)
        return list(self._grid.upwards(self.settings, self.settings.place(highest)))
