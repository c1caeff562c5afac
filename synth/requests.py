"""What is asked of a generator, one image at a time, the random numbers that belong to it, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from augment.seeds import seed_for
from synth.errors import SynthError
from synth.guidance import Cads
from synth.schedules import SchedulerName

SeedMode = Literal["sample", "reference"]


@dataclass(frozen=True, eq=False)
class Request:
    """One image: what shows on it and whose it is.

    `prompt` is text, or a class number for a class-conditional model. (`key`, `ordinal`) is the image's identity: a class or a parent
    sample, and the number of this image of it. `image` (3, h, w) float in [0, 1] starts image-to-image at `strength` percent of the
    noise; `mask` (1, h, w), 1 where it is painted anew. `boxes` (k, 4) x1, y1, x2, y2 in [0, 1], and a phrase for each, for layouts.
    """

    prompt: str | int
    key: str
    ordinal: int = 0
    image: torch.Tensor | None = None
    strength: int = 100
    mask: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mask is not None and self.image is None:
            raise SynthError("a mask says what to paint anew in an image, and no image was given")
        if (0 if self.boxes is None else len(self.boxes)) != len(self.phrases):
            count = 0 if self.boxes is None else len(self.boxes)
            raise SynthError(f"{count} boxes came with {len(self.phrases)} phrases: give a phrase for each box")

    @property
    def kind(self) -> tuple[bool, bool, int]:
        """Requests of one kind can be made in one batch."""
        return self.image is not None, self.mask is not None, self.strength if self.image is not None else 100


@dataclass(frozen=True)
class Settings:
    """How images are made; the same for a whole run.

    `guidance` None takes the model's usual scale. `interval`: the share of the schedule, from clean 0 to noise 1, in which the
    unconditional branch runs. `encoder_every` above 1 leaves the UNet's encoder out between every that-many-th step. `grounded`: the
    share of steps that see the boxes (GLIGEN's scheduled sampling). `posterior`: how an image becomes a latent, by its `mean`, or a
    `sample` as published. `seeds: reference` gives image i of every class the same start noise, as DataDream's set_seed(0) does;
    `sample` gives every image its own. `refine_below`: the share of the schedule that a refiner takes over, where there is one.
    """

    steps: int = 50
    guidance: float | None = None
    scheduler: SchedulerName = "own"
    size: tuple[int, int] | None = None
    negative: str | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    cads: Cads | None = None
    encoder_every: int = 1
    grounded: float = 0.3
    posterior: Literal["mean", "sample"] = "mean"
    seeds: SeedMode = "sample"
    refine_below: float = 0.2

    def __post_init__(self) -> None:
        if self.seeds not in get_args(SeedMode):
            raise SynthError(f"seeds takes {' | '.join(get_args(SeedMode))}, got {self.seeds!r}")
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise SynthError(f"interval takes two numbers with 0 <= low < high <= 1, got {list(self.interval)}")
        if self.steps < 1 or self.encoder_every < 1:
            raise SynthError("steps and encoder_every take whole numbers from 1")


def generators(
    run_seed: int, requests: Sequence[Request], purpose: str, mode: SeedMode = "sample"
) -> list[torch.Generator]:
    """A CPU generator for each request: the same numbers on any device, at any batch size, in any order.

    Each purpose (start noise, solver noise, CADS, posterior) has its own, so that switching one on moves no other's numbers.
    """
    made = []
    for request in requests:
        key = request.key if mode == "sample" else ""
        seed = seed_for(run_seed, key, f"synth/{purpose}/{request.ordinal}")
        made.append(torch.Generator().manual_seed(seed))
    return made


def noise(sources: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """(n, *shape) float32 standard normal on `device`, a row from each generator."""
    return torch.stack([torch.randn(tuple(shape), generator=source) for source in sources]).to(device)


@dataclass(frozen=True, eq=False)
class Generated:
    """One batch. `images` (n, 3, h, w) float32 in [0, 1], not yet encoded; `black` (n,) bool, images with no light at all;
    `broken` (n,) bool, images with a value that is not a number; `latents` (n, c, h', w') where the model has them.
    """

    requests: tuple[Request, ...]
    images: torch.Tensor
    black: torch.Tensor
    broken: torch.Tensor
    latents: torch.Tensor | None = None


def checked(requests: Sequence[Request], images: torch.Tensor, latents: torch.Tensor | None) -> Generated:
    """`images` as they were made, with what a safety checker or an overflow would have left in them counted."""
    broken = ~torch.isfinite(images).flatten(1).all(1)
    black = torch.nan_to_num(images, nan=1.0).flatten(1).amax(1) < 1 / 255
    return Generated(tuple(requests), images, black, broken, latents)
