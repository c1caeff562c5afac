"""The optimiser of a training, and its learning rate over the epochs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from distill.config import TrainConfig

#: Share of the learning rate that a warm-up starts from (SRe2L's Tiny-ImageNet teachers).
WARMUP_START = 0.01


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """Return the rate of `epoch`, from 0: linear warm-up from `WARMUP_START`, then the schedule over the epochs that are left.

    Within an epoch it is a fraction, where `config.rate_per` is `step`.
    """
    if epoch < config.warmup_epochs:
        return config.learning_rate * (WARMUP_START + (1 - WARMUP_START) * epoch / config.warmup_epochs)
    if config.schedule == "constant":
        return config.learning_rate
    span = max(config.epochs - config.warmup_epochs, 1)
    fraction = (epoch - config.warmup_epochs) / span
    return config.learning_rate * schedule_factor(config.schedule, fraction)


def schedule_factor(schedule: str, fraction: float) -> float:
    """Return 0.5(1 + cos(pi f)) for `cosine`, the same of f / 2 for `half_cosine` (RDED, EDC, DD-Ranking)."""
    return 0.5 * (1 + math.cos(math.pi * (fraction if schedule == "cosine" else fraction / 2)))


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimiser of the weights of `model` that are trained, with weight decay on those that `config.decay` names."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": config.weight_decay}]
    if config.decay == "matrices":
        groups = [
            {"params": [w for w in parameters if w.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [w for w in parameters if w.ndim <= 1], "weight_decay": 0.0},
        ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
