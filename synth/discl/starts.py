"""Where guidance levels enter a prepared schedule: what a sampler walks by, and what can be asked before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synth import schedules
from synth.discl.levels import LevelStart, StartRule, places_by_sigma, require_apart, require_levels
from synth.discl.schedules import REAL


def level_starts(
    levels: Sequence[int], scheduler: Any, own: Any, steps: int, rule: StartRule = "sigma"
) -> dict[int, LevelStart]:
    """Find where each of `levels` enters a `scheduler` prepared for `steps`; `own` is the model's, whose noise it has.

    SynthError for what is no level, two that begin at the same step, and a strength that is no step at all.
    """
    require_levels(levels)
    timesteps = scheduler.timesteps
    sigmas = schedules.noise_ratios(scheduler, own)
    if rule == "sigma":
        places = places_by_sigma(levels, sigmas, int(getattr(scheduler, "order", 1)))
    else:
        places = {level: schedules.start_place(scheduler, steps, REAL - level) for level in levels}
    require_apart(places, steps)
    return {
        level: LevelStart(level, place, len(timesteps) - place, float(timesteps[place]), sigmas[place])
        for level, place in places.items()
    }
