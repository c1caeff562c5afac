"""The one loop that trains every model of the reference family: AdamW, a warm cosine, a running mean of the weights.

Step s draws from a generator of its own, so a run that is stopped and taken up again ends in the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from augment.seeds import seed_for


@dataclass(frozen=True)
class Budget:
    """How long and how fast. `batch` samples a step; `rate` at its highest, after `warmup` steps; `decay` is AdamW's."""

    steps: int
    batch: int
    rate: float
    warmup: int = 200
    decay: float = 0.01
    averaged: float = 0.999
    low_precision: bool = True


class Part(Protocol):
    """A model with its data: the loss of one step's batch, and what to tell about it."""

    name: str

    def model(self) -> nn.Module: ...

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]: ...


class Fit:
    """One part on its way. `state` and `restore` carry everything that the next step depends on."""

    def __init__(self, part: Part, budget: Budget, seed: int) -> None:
        self.part, self.budget, self.seed, self.step = part, budget, seed, 0
        self._model = part.model()
        self._learnt = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._learnt, budget.rate, betas=(0.9, 0.99), weight_decay=budget.decay)
        self._mean = {name: value.clone() for name, value in self._model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        return {
            "model": self._model.state_dict(),
            "mean": self._mean,
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._mean, self.step = dict(state["mean"]), int(state["step"])

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: linear warm-up, then half a cosine to a fiftieth."""
        warm = min(1.0, (step + 1) / max(1, self.budget.warmup))
        return self.budget.rate * warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / self.budget.steps)))

    def run(self, until: int | None = None, tell: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train to step `until` (else to the end); `tell` gets the number of steps done and the figures of the last."""
        budget, self_end = self.budget, self.budget.steps
        device = next(self._model.parameters()).device.type
        self._model.train()
        for step in range(self.step, min(self_end, until if until is not None else self_end)):
            generator = torch.Generator().manual_seed(seed_for(self.seed, step, f"family/{self.part.name}"))
            for group in self._optimizer.param_groups:
                group["lr"] = self.rate(step)
            # Dropout inside a model draws from the global generator: seeded for the step, and put back after it.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_for(self.seed, step, f"family/{self.part.name}/dropout"))
                with torch.autocast(device, torch.bfloat16, enabled=budget.low_precision):
                    loss, figures = self.part.loss(budget.batch, generator)
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._learnt, 1.0)
            self._optimizer.step()
            self.step = step + 1
            self._average()
            if tell is not None:
                tell(self.step, {"loss": float(loss.detach()), **figures})

    def finish(self) -> nn.Module:
        """The model with its averaged weights, ready to be used."""
        self._model.load_state_dict(self._mean)
        return self._model.eval()

    @torch.no_grad()
    def _average(self) -> None:
        # A short run would otherwise remember where it began.
        kept = min(self.budget.averaged, (1 + self.step) / (10 + self.step))
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                self._mean[name].lerp_(value, 1.0 - kept)
            else:
                self._mean[name].copy_(value)
