"""The parameters of CLIP's fine-tuning, as plain frozen dataclasses. No torch: parameter files need them too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.values import require_values
from synth.discl.schedules import Mode
from synth.errors import SynthError


@dataclass(frozen=True, kw_only=True)
class FlypConfig:
    """The settings of FLYP (Goyal et al. 2023), as DisCL's base training has them (`docs/specs/discl.md`, contrastive fine-tuning).

    AdamW with `weight_decay` on all weights sees batches of `batch_size`. The rate rises to `learning_rate` over `warmup_steps` and
    falls along half a cosine. Validation is looked at every `evaluate_every` epochs and after the last.

    `mode: reference`: the cosine is of an epoch more than there is, so that the rate never reaches zero; another text of an image's
    class is as wrong as one of another class. `improved`: it ends at zero with the last step, a warm-up is a tenth of the steps at most,
    texts of one class share the target, and the logit scale stays below 100, as CLIP was trained (Radford et al. 2021, section 2.5).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Mode = "improved"
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-5
    weight_decay: float = 0.2
    warmup_steps: int = 500
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        for name in ("epochs", "evaluate_every"):
            if getattr(self, name) < 1:
                raise SynthError(f"{name} takes a whole number from 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise SynthError(f"batch_size takes 2 or more, as an image is told from others, got {self.batch_size}")
        if not self.learning_rate > 0:
            raise SynthError(f"learning_rate takes a number above 0, got {self.learning_rate}")
        for name in ("weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise SynthError(f"{name} takes a number from 0 on, got {getattr(self, name)}")

    def steps(self, batches: int, images: int) -> int:
        """Return the steps that the rate falls over: all of a training of `batches` an epoch, as published those of an epoch more.

        There an epoch counts as one of all `images`, whatever a curriculum makes of it.
        """
        if self.mode == "reference":
            return (self.epochs + 1) * max(1, images // self.batch_size)
        return self.epochs * batches

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of `step`, from 0, of `total`: (step + 1) / warm-up of the peak, then half a cosine."""
        warmup = self.warmup_steps if self.mode == "reference" else min(self.warmup_steps, total // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
