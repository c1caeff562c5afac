"""The parameters of generation, as plain frozen dataclasses. No torch: parameter files need them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from augment.values import require_values
from synth.errors import SynthError

SeedMode = Literal["sample", "reference"]
SchedulerName = Literal["own", "ddim", "pndm", "euler", "euler_ancestral", "dpmpp_2m"]


@dataclass(frozen=True)
class Cads:
    """The settings of condition-annealed sampling (Sadat et al. 2024, arXiv 2310.17347): more various images of the same prompt.

    The condition's noise falls from all of `scale` above `tau2` to none below `tau1`, times in [0, 1] of the schedule (1 is
    pure noise). `mix` is the share of the rescaling to the condition's own mean and deviation.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    tau1: float = 0.6
    tau2: float = 0.9
    scale: float = 0.1
    mix: float = 1.0

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        if not (0 <= self.tau1 < self.tau2 <= 1 and self.scale >= 0 and 0 <= self.mix <= 1):
            raise SynthError("cads takes 0 <= tau1 < tau2 <= 1, a scale from 0 and a mix in [0, 1]")

    def condition_share(self, time: float) -> float:
        """Return gamma(t), the share of the condition that is left: 1 up to `tau1`, 0 from `tau2`, linear between."""
        return min(1.0, max(0.0, (self.tau2 - time) / (self.tau2 - self.tau1)))


@dataclass(frozen=True)
class ModeGuidance:
    """The settings of mode guidance, for requests that have a mode (`synth.mode_guidance`).

    `scale` is lambda, how strongly the denoised estimate is pulled; nothing is pulled after the share `stop` of the steps.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    scale: float = 0.1
    stop: float = 0.5

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        if self.scale < 0 or not 0 <= self.stop <= 1:
            raise SynthError(
                f"mode guidance takes a scale from 0 on and a stop from 0 to 1, got {self.scale} and {self.stop}"
            )


@dataclass(frozen=True)
class Settings:
    """The settings of sampling; the same for a whole run.

    `steps` of the `scheduler`, `own` being the one that the model came with, make an image of `size` (height and width in
    pixels; None takes the model's), away from what the prompt `negative` says. `guidance` None takes the model's usual scale.
    `interval`: the share of the schedule, from clean 0 to noise 1, in which the unconditional branch runs. `encoder_every`
    above 1 leaves the UNet's encoder out between every that-many-th step. `grounded`: the share of steps that see the boxes
    (GLIGEN's scheduled sampling). `posterior`: how an image becomes a latent, by its `mean`, or a `sample` as published.
    `seeds: reference` gives image i of every class the same start noise, as DataDream's set_seed(0) does; `sample` gives every
    image its own. `refine_below`: the share of the schedule that a refiner takes over, where there is one.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

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
        require_values(self, SynthError)
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise SynthError(f"interval takes two numbers with 0 <= low < high <= 1, got {list(self.interval)}")
        if self.steps < 1 or self.encoder_every < 1:
            raise SynthError("steps and encoder_every take whole numbers from 1")
        for name in ("grounded", "refine_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise SynthError(f"{name} takes a share from 0 to 1, got {getattr(self, name)}")
        if self.guidance is not None and self.guidance < 0:
            raise SynthError(f"guidance takes a number from 0 on, got {self.guidance}")
        if self.size is not None and min(self.size) < 1:
            raise SynthError(f"size takes two whole numbers from 1, got {list(self.size)}")


LevelEnd = Literal["first", "one"]
#: Levels are timesteps of a training schedule of this many.
TRAINING_TIMESTEPS = 1000


@dataclass(frozen=True)
class InversionSettings:
    """The settings of DDIM inversion, and of sampling on from its latents (`docs/specs/d3hr.md`, inversion).

    Levels are timesteps on the grid of `steps`, multiples of 1000 / steps; `level` is the one that is wanted where none is named.
    `guidance` is the scale on the way up; None takes the mode's, 1 (one branch) or the published 4. A clean latent stands at the
    noise level of timestep 0 (`end: first`), or at none at all (`one`, an evaluation more each way). `passes` more evaluations at
    every step solve it as a fixed point. `negative` and `size` are as in `Settings`.

    `mode: reference` is the published arithmetic: all of its evaluations whatever level is asked for, guidance 4, sampling from one
    grid step above the level, an end at timestep 1, latents drawn from the posterior. `mode: improved` runs only as far as it must,
    starts where the latents are, and takes the posterior's mean.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Literal["improved", "reference"] = "improved"
    steps: int = 50
    level: int = 600
    guidance: float | None = None
    end: LevelEnd = "first"
    passes: int = 0
    negative: str | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        if not 2 <= self.steps <= TRAINING_TIMESTEPS:
            raise SynthError(f"steps takes a whole number from 2 to {TRAINING_TIMESTEPS}, got {self.steps}")
        if self.guidance is not None and self.guidance < 0:
            raise SynthError(f"guidance takes a number from 0 on, got {self.guidance}")
        if self.passes < 0:
            raise SynthError(f"passes takes a whole number from 0, got {self.passes}")
        if self.mode == "reference" and (self.passes or self.end != "first"):
            raise SynthError("mode reference has one evaluation a step and an end of its own: leave passes and end out")
        self.place(self.level)

    @property
    def scale(self) -> float:
        """The scale of guidance that inversion runs with."""
        if self.guidance is not None:
            return self.guidance
        return 4.0 if self.mode == "reference" else 1.0

    @property
    def posterior(self) -> Literal["mean", "sample"]:
        """How an image becomes the latent that is inverted: by its posterior's mean, or a draw from it as published."""
        return "sample" if self.mode == "reference" else "mean"

    @property
    def spacing(self) -> int:
        """Timesteps between two neighbours of the grid."""
        return TRAINING_TIMESTEPS // self.steps

    @property
    def highest(self) -> int:
        """The highest level that is reached: the grid's last in improved mode, 38 steps of 50 up (760) as published."""
        return self.spacing * (self.steps - 1 if self.mode == "improved" else self.steps * 38 // 50)

    def place(self, level: int) -> int:
        """Return how many grid steps `level` is above the clean end; SynthError for one off the grid or above the highest."""
        if isinstance(level, bool) or level % self.spacing or not 0 < level <= self.highest:
            raise SynthError(
                f"level takes a multiple of {self.spacing} from {self.spacing} to {self.highest} at {self.steps} steps in mode "
                f"{self.mode}, got {level}"
            )
        return level // self.spacing
