"""Inpainting: which cells of a batch's latents are painted anew, and how the others stay what they are in the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from synth import schedules
from synth.backends.protocol import SteppedBackend


@dataclass(frozen=True, eq=False)
class Inpainting:
    """The holes of a batch of images, in latent cells.

    `mask` (n, 1, h', w') float32, 1 in cells that are painted anew and 0 elsewhere; `clean` (n, c, h', w') float32, the images'
    latents; `masked` (n, c, h', w'), latents of the images with grey holes, for models that are shown them (the nine-channel
    inpainting UNets), None for all others.
    """

    mask: torch.Tensor
    clean: torch.Tensor
    masked: torch.Tensor | None

    @classmethod
    def of(cls, backend: SteppedBackend, images: torch.Tensor, mask: torch.Tensor, clean: torch.Tensor) -> Inpainting:
        """Bring the pixel `mask` (n, 1, h, w), a hole from 0.5 on, of `images` (n, 3, h, w) in [0, 1] to latent cells."""
        hole = (mask >= 0.5).float()
        cells = torch.nn.functional.interpolate(hole, size=clean.shape[2:])
        is_shown_holes = getattr(getattr(backend, "denoiser", None), "config", {}).get("in_channels") == 9
        # A hole is grey, 0 of [-1, 1], as in the inpainting models' training.
        masked = backend.encode_images(images * (1 - hole) + 0.5 * hole, None) if is_shown_holes else None
        return cls(cells, clean, masked)

    def restore_outside(
        self, scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, next_timestep: torch.Tensor
    ) -> torch.Tensor:
        """Replace `latents` (n, c, h', w') outside the mask by the image's own, with `noise` at the level of `next_timestep`.

        `next_timestep` (1,) is where the loop goes next, empty (0,) after the last step, whose image is clean. A model that is shown
        the masked image keeps the rest by itself: its latents are returned as they are.
        """
        if self.masked is not None:
            return latents
        outside = (
            schedules.add_noise(scheduler, self.clean, noise, next_timestep[0]) if len(next_timestep) else self.clean
        )
        return (1 - self.mask) * outside + self.mask * latents
