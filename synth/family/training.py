"""The one loop that trains every model of the reference family: AdamW, a warm cosine, a running mean of the weights.

Step s draws from a generator of its own, so a run that is stopped and taken up again ends in the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from augment.seeds import operation_seed
from augment.values import not_finite
from synth.errors import SynthError
from synth.family.config import Budget

#: A training that ends at so many times the loss it began with has diverged, though its numbers are finite.
HOPELESS = 100.0


class Part(Protocol):
    """A model with its data: `loss` draws a batch and gives its loss and numbers to report."""

    name: str

    def model(self) -> nn.Module: ...

    def frozen(self, step: int) -> tuple[str, ...]:
        """Prefixes of the names of parameters that are not trained at `step`; once frozen, they stay so."""
        ...

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]: ...


class Fit:
    """Trains one part. `state` and `restore` carry everything that the next step depends on."""

    def __init__(self, part: Part, budget: Budget, seed: int) -> None:
        self.part, self.budget, self.seed, self.step = part, budget, seed, 0
        self._model = part.model()
        self._learnt = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._learnt, budget.rate, betas=(0.9, 0.99), weight_decay=budget.decay)
        self._first = 0.0
        self._mean = {name: value.clone() for name, value in self._model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        return {
            "model": self._model.state_dict(),
            "mean": self._mean,
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "first": self._first,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._mean, self.step, self._first = dict(state["mean"]), int(state["step"]), float(state["first"])

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, from 0: linear warm-up, then half a cosine to a fiftieth."""
        warm = min(1.0, (step + 1) / max(1, self.budget.warmup))
        return self.budget.rate * warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / self.budget.steps)))

    def run(self, until: int | None = None, tell: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train to step `until`, else to the end; `tell` gets the number of steps done and the last one's loss and numbers.

        SynthError for a training that diverged.
        """
        end = self.budget.steps
        self._model.train()
        for step in range(self.step, min(end, until if until is not None else end)):
            self._freeze(self.part.frozen(step))
            for group in self._optimizer.param_groups:
                group["lr"] = self.rate(step)
            loss, numbers = self._loss(step)
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._learnt, 1.0)
            self._optimizer.step()
            self.step = step + 1
            self._require_sound(float(loss.detach()))
            self._average()
            if tell is not None:
                tell(self.step, {"loss": float(loss.detach()), **numbers})

    def _loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Draw a step's batch and compute its loss; all that is random in it follows from the step."""
        generator = torch.Generator().manual_seed(operation_seed(self.seed, step, f"family/{self.part.name}"))
        device = next(self._model.parameters()).device.type
        # Dropout inside a model draws from the global generator: seeded for the step, and put back after it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(operation_seed(self.seed, step, f"family/{self.part.name}/dropout"))
            with torch.autocast(device, torch.bfloat16, enabled=self.budget.low_precision):
                return self.part.loss(self.budget.batch, generator)

    def _require_sound(self, loss: float) -> None:
        self._first = loss if self.step == 1 else self._first
        last = self.step == self.budget.steps
        if last and math.isfinite(loss):  # what the last step did shows in no loss of the training
            with torch.no_grad():
                loss = float(self._loss(self.step - 1)[0])
        if not math.isfinite(loss):
            what = "its loss is no finite number"
        elif last and (name := not_finite(self._model.state_dict())) is not None:
            what = f"its {name} holds what is no finite number"
        elif last and loss > HOPELESS * max(self._first, 0.01):
            what = f"its loss, which began at {self._first:.3g}, is {loss:.3g}"
        else:
            return
        raise SynthError(
            f"{self.part.name} diverged: {what} at step {self.step} of {self.budget.steps}; lower its rate (now {self.budget.rate:g}) "
            "or raise its warmup"
        )

    def finish(self) -> nn.Module:
        """Load the averaged weights into the model and return it in eval mode."""
        self._model.load_state_dict(self._mean)
        return self._model.eval()

    @torch.no_grad()
    def _freeze(self, prefixes: tuple[str, ...]) -> None:
        """Freeze parameters at their running mean, which is what is handed out: another part may be trained on it meanwhile."""
        for name, weight in self._model.named_parameters():
            if prefixes and name.startswith(prefixes) and weight.requires_grad:
                weight.requires_grad_(False).copy_(self._mean[name])
                weight.grad = None

    @torch.no_grad()
    def _average(self) -> None:
        # A short run would otherwise remember where it began.
        decay = min(self.budget.averaged, (1 + self.step) / (10 + self.step))
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                self._mean[name].lerp_(value, 1.0 - decay)
            else:
                self._mean[name].copy_(value)
