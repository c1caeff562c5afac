"""Guidance levels: whole percents, the noise that each stands for, and where each enters a schedule. Plain arithmetic, no torch.

A level is 100 less the strength of image-to-image: 0 is the prompt alone, 100 the real image. Published, a level is a share of the steps
(`strength`): its noise then depends on the number of steps, their spacing, the solver and, of a flow, on its shift, and few steps have
no room for most levels. By `sigma` a level is an amount of noise, that which the published sampler begins with at its strength: on any
schedule it begins at the step whose noise is nearest. On the published schedule both are the same. The numbers are in
`docs/specs/discl.md`, spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from synth.discl.schedules import REAL
from synth.errors import SynthError

StartRule = Literal["sigma", "strength"]

#: The levels that the published students are trained on, without the real image.
REFERENCE: Mapping[str, tuple[int, ...]] = {"imagenet_lt": (0, 10, 30, 50), "iwildcam": (50, 70, 90)}


@dataclass(frozen=True)
class LevelStart:
    """Where a guidance `level` enters a schedule: the `place` of its first timestep, the model `calls` from there on, and `sigma`.

    `sigma` is the noise's deviation over what is left of the image, sqrt((1 - abar) / abar), infinite for pure noise.
    """

    level: int
    place: int
    calls: int
    timestep: float
    sigma: float


def level_of(strength: float) -> int:
    """Return the guidance level of a `strength` in (0, 1]; SynthError for one that is no whole percent.

    Rounded, for 0.29 x 100 is 28.999999999999996.
    """
    percent = round(100 * strength) if math.isfinite(strength) else 0
    if not 1 <= percent <= REAL or abs(100 * strength - percent) > 1e-6:
        raise SynthError(f"a strength takes whole hundredths from 0.01 to 1, got {strength}")
    return REAL - percent


def require_levels(levels: Iterable[int]) -> None:
    """Raise SynthError for no level, a level twice, one that is no whole percent, and 100, which is the real image."""
    wanted = list(levels)
    if not wanted or len(set(wanted)) < len(wanted):
        raise SynthError(f"guidance levels are different from one another, and one at least, got {wanted}")
    for level in wanted:
        if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= REAL:
            raise SynthError(f"a guidance level takes whole percents from 0 to 99, got {level!r}")
        if level == REAL:
            raise SynthError("guidance level 100 is the real image itself: it is read, not generated")


@lru_cache(maxsize=1)
def _published_sigmas() -> tuple[float, ...]:
    """List sqrt((1 - abar) / abar) of Stable Diffusion's 1000 training levels."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    signal = np.cumprod(1 - betas)
    return tuple(np.sqrt((1 - signal) / signal).tolist())


def published_sigma(level: int) -> float:
    """Return the noise that `level` begins with as published: at timestep 10 p - 19 of strength p %, Euler's of 50 steps."""
    return _published_sigmas()[max(0, 10 * (REAL - level) - 19)]


def even_levels(count: int, lowest: int = 0, highest: int = 50) -> tuple[int, ...]:
    """Choose `count` levels from `lowest` to `highest`, both among them, whose sigmas have equal ratios, to the nearest percent.

    At equal distances of strength they have not: sigma falls to 1 / 1.7 from level 0 to 10, to 1 / 1.4 from 40 to 50. Four from 0 to 50
    are 0, 13, 30, 50. SynthError where that many percents are not between them.
    """
    require_levels((lowest, highest))
    if count < 2 or not lowest < highest:
        raise SynthError(
            f"even levels are two or more from a lower to a higher one, got {count} of {lowest} to {highest}"
        )
    first, last = (math.log(published_sigma(level)) for level in (lowest, highest))
    chosen = []
    for place in range(count):
        wanted = first + (last - first) * place / (count - 1)
        chosen.append(min(range(lowest, highest + 1), key=lambda level: abs(math.log(published_sigma(level)) - wanted)))
    if len(set(chosen)) < count:
        raise SynthError(f"{count} levels from {lowest} to {highest} do not fit between whole percents: take fewer")
    return tuple(chosen)


def places_by_sigma(levels: Sequence[int], sigmas: Sequence[float], order: int = 1) -> dict[int, int]:
    """Return the place in a schedule at which each of `levels` begins: where its noise is nearest by ratio, level 0 at the first.

    `sigmas` are the noise at each timestep, falling, infinite for none of the image; a solver of `order` 2 has two timesteps a step,
    and begins at a step. Of equally near places the later is taken: a repeated timestep (PNDM's) is not run twice.
    """
    starts = range(0, len(sigmas), order)
    logs = {place: math.log(sigmas[place]) for place in starts}
    places = {}
    for level in levels:
        wanted = math.log(published_sigma(level))
        nearest = min(starts, key=lambda place: (abs(logs[place] - wanted), -place))
        places[level] = nearest if level else 0
    return places


def require_apart(places: Mapping[int, int], steps: int) -> None:
    """Raise SynthError where two levels begin at the same place: their images would be the same."""
    taken: dict[int, int] = {}
    for level, place in places.items():
        if place in taken:
            raise SynthError(
                f"guidance levels {taken[place]} and {level} begin at the same one of {steps} steps: take more steps, or levels further "
                "apart"
            )
        taken[place] = level


def output_size(height: int, width: int, multiple: int = 8) -> tuple[int, int]:
    """Round an image's size in pixels down to the model's `multiple`, as published; SynthError where nothing is left."""
    size = height // multiple * multiple, width // multiple * multiple
    if min(size) < multiple:
        raise SynthError(f"an image of {height}x{width} is smaller than the model's {multiple} pixels")
    return size
