"""Noise levels on a grid, and the moves between them that inversion takes upwards and sampling downwards. No model is called here.

One move is linear in the latents and in the noise or velocity that the network predicts at the move's upper end:
x' = scale x + weight e. DDIM without noise (Song et al. 2021, equation 12) from abar_f to abar_t has scale sqrt(abar_t / abar_f) and
weight sqrt(1 - abar_t) - scale sqrt(1 - abar_f); Euler's step of a flow from sigma_f to sigma_t has 1 and sigma_t - sigma_f. Scalars are
float64, so that a float64 state keeps its precision. Facts and worked numbers: `docs/specs/d3hr.md`, inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from synth import schedules
from synth.backends.protocol import SteppedBackend
from synth.errors import SynthError
from synth.settings import TRAINING_TIMESTEPS, InversionSettings


@dataclass(frozen=True)
class Move:
    """One step to `level`, 0 being clean: the network is asked at `timestep`, and x' = `scale` x + `weight` e.

    e = `from_output` output + `from_latents` x is the noise in what the network saw, by what it predicts at its timestep's level:
    1 and 0 for noise and velocities of a flow, sqrt(abar) and sqrt(1 - abar) for `v_prediction`.
    """

    level: int
    timestep: float
    scale: float
    weight: float
    from_output: float = 1.0
    from_latents: float = 0.0

    def noise(self, output: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the noise (n, ...) that `output` means for the latents that the network has `seen`."""
        if self.from_latents == 0 and self.from_output == 1:
            return output
        return self.from_output * output + self.from_latents * seen

    def __call__(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the latents (n, ...) at the move's end."""
        return self.scale * latents + self.weight * noise


@dataclass(frozen=True)
class Diffusion:
    """A noise schedule: `signal` is abar (float64) of every timestep, `prediction` what the network gives."""

    signal: Sequence[float]
    prediction: str = "epsilon"

    def move(self, level: int, timestep: int, start: float, end: float) -> Move:
        """Return the move to `level`, from abar `start` to abar `end`, with the network asked at `timestep`."""
        scale = (end / start) ** 0.5
        weight = (1 - end) ** 0.5 - scale * (1 - start) ** 0.5
        abar = self.signal[timestep]
        signal, noise = abar**0.5, (1 - abar) ** 0.5
        conversions = {
            "epsilon": (1.0, 0.0),
            "v_prediction": (signal, noise),
            "sample": (-signal / noise, 1 / noise),
        }
        return Move(level, timestep, scale, weight, *conversions[self.prediction])

    def upwards(self, settings: InversionSettings, place: int) -> Iterator[Move]:
        """Yield the moves from a clean latent to the level at `place` of the grid, one for each evaluation.

        The noise of a step from t - spacing to t is asked at t. A clean latent stands at abar_0, or at 1 with a move more.
        """
        if settings.mode == "improved" and settings.end == "one":
            yield self.move(0, 0, 1.0, self.signal[0])
        for number in range(1, place + 1):
            level = number * settings.spacing
            yield self.move(level, level, self.signal[level - settings.spacing], self.signal[level])

    def downwards(self, settings: InversionSettings, place: int) -> Iterator[Move]:
        """Yield the moves from the level at `place` of the grid to a clean latent, one for each evaluation.

        As published they begin one place higher than the latents are, and end at timestep 1, reached from 0 as well.
        """
        spacing, signal = settings.spacing, self.signal
        if settings.mode == "reference":
            for number in range(place + 1, -1, -1):
                timestep = number * spacing
                following = max(1, timestep - spacing)
                yield self.move(following, timestep, signal[timestep], signal[following])
            return
        for number in range(place, 0, -1):
            level = (number - 1) * spacing
            yield self.move(level, level + spacing, signal[level + spacing], signal[level])
        if settings.end == "one":
            yield self.move(0, 0, signal[0], 1.0)


@dataclass(frozen=True)
class Flow:
    """A flow's schedule on a grid: `sigmas` and `timesteps` by place, from the clean end (sigma 0, never asked) upwards."""

    sigmas: Sequence[float]
    timesteps: Sequence[float]

    def upwards(self, settings: InversionSettings, place: int) -> Iterator[Move]:
        """Yield the moves from a clean latent to the level at `place` of the grid: Euler's steps, reversed."""
        for number in range(1, place + 1):
            change = self.sigmas[number] - self.sigmas[number - 1]
            yield Move(number * settings.spacing, self.timesteps[number], 1.0, change)

    def downwards(self, settings: InversionSettings, place: int) -> Iterator[Move]:
        """Yield the moves from the level at `place` of the grid to a clean latent: Euler's steps."""
        for number in range(place, 0, -1):
            change = self.sigmas[number - 1] - self.sigmas[number]
            yield Move((number - 1) * settings.spacing, self.timesteps[number], 1.0, change)


class LevelSteps:
    """Takes `moves` in the way that a diffusers scheduler takes its steps: `timesteps` (calls,), and `step` for each in turn."""

    def __init__(self, moves: Iterable[Move], device: torch.device) -> None:
        self._moves = list(moves)
        self._taken = 0
        self.timesteps = torch.tensor([move.timestep for move in self._moves], device=device)
        self.config = SimpleNamespace(num_train_timesteps=TRAINING_TIMESTEPS)

    def step(
        self, output: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor, return_dict: bool = False
    ) -> tuple[torch.Tensor]:
        """Return latents (n, ...) one step on, in a tuple; `timestep` must be the next of `timesteps`."""
        move = self._moves[self._taken]
        self._taken += 1
        return (move(latents, move.noise(output, latents)),)


def grid(backend: SteppedBackend, settings: InversionSettings, size: tuple[int, int]) -> Diffusion | Flow:
    """Read the levels of `backend`'s own noise schedule for images of `size` (height, width).

    Timesteps are multiples of the spacing whatever offset the model's folder asks for. A flow's level t is t * steps / 1000 steps from
    the clean end, at whatever sigma its own shift puts there. SynthError for another number of timesteps than 1000, and for the
    published mode on a flow.
    """
    own = backend.scheduler
    count = own.config.get("num_train_timesteps", TRAINING_TIMESTEPS)
    if count != TRAINING_TIMESTEPS:
        raise SynthError(f"levels are timesteps of {TRAINING_TIMESTEPS}, and this model was trained on {count}")
    if schedules.is_flow(own):
        if settings.mode == "reference":
            raise SynthError(
                "mode reference is DDIM's arithmetic, and this model was trained by flow matching: take mode improved"
            )
        scheduler = schedules.make("euler", own)
        arguments = backend.schedule_arguments(scheduler, settings.steps, size)
        timesteps = schedules.prepare(scheduler, settings.steps, "cpu", arguments)
        return Flow([*map(float, scheduler.sigmas.flip(0))], [0.0, *map(float, timesteps.flip(0))])
    prediction = own.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise SynthError(
            f"a model that predicts {prediction!r} cannot be inverted: it takes epsilon, v_prediction or sample"
        )
    return Diffusion(schedules.make("ddim", own).alphas_cumprod.double().tolist(), prediction)


def climb(
    latents: torch.Tensor,
    moves: Iterable[Move],
    predict: Callable[[torch.Tensor, Move], torch.Tensor],
    passes: int = 0,
) -> Iterator[torch.Tensor]:
    """Take `moves` from `latents` (n, ...) on and yield where each ends, in the latents' type; `predict` is asked 1 + `passes` times each.

    The first answer is for the latents where the move begins. Every pass asks again where it has led, which solves the implicit step,
    sampling's exact inverse, as a fixed point.
    """
    for move in moves:
        seen = latents
        for _ in range(1 + passes):
            seen = move(latents, move.noise(predict(seen, move), seen))
        latents = seen
        yield latents
