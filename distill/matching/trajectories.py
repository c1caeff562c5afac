"""Trajectory matching: images on which a few steps of a student lead from one point of an expert's training to a later one.

Cazenavette et al. 2022 (MTT): || theta_N - theta*_(t+M) ||^2 / || theta*_t - theta*_(t+M) ||^2, theta_N what N steps of SGD on the
condensed images make of theta*_t, at a rate that is learnt too. For graphics cards: each iteration unrolls all N steps.

The gradient goes back through the steps one by one, each computed anew from its weights: exactly what autograd through all of them gives,
with the memory of one. (Cui et al. 2023, TESLA, keep the memory of one step by another way.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from augment.seeds import operation_seed
from distill.config import TrainConfig, ViewConfig
from distill.errors import DistillError
from distill.matching.config import MatchConfig
from distill.matching.images import ImageMatching
from distill.networks import build
from distill.training import Trainer

#: The images and labels of a step of the student, by its number; differentiable in what is condensed.
StepBatch = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
Weights = Mapping[str, torch.Tensor]


class TrajectoryGradient(NamedTuple):
    """The loss of an iteration, and its gradients with respect to the condensed images and to the student's rate."""

    loss: torch.Tensor
    images: torch.Tensor
    rate: torch.Tensor


def trajectory_gradient(
    network: nn.Module,
    start: Weights,
    target: Weights,
    batch: StepBatch,
    steps: int,
    rate: torch.Tensor,
    images: torch.Tensor,
) -> TrajectoryGradient:
    """Train `network` from `start` for so many `steps` of plain SGD at `rate` and differentiate the normalised distance to `target`.

    `images` is what `batch` makes its images of. Weights are by name, all of the network's parameters.
    """
    # not in the order of `start`: a file gives names in any, and sums hang on it in their last bits
    names = [name for name, _ in network.named_parameters()]
    passed = [[start[name].detach() for name in names]]
    for step in range(steps):
        gradients = _loss_gradients(network, names, passed[-1], batch(step), keep=False)[1]
        passed.append([w - rate.detach() * g for w, g in zip(passed[-1], gradients, strict=True)])
    last, first, goal = passed[-1], passed[0], [target[name] for name in names]
    span = sum(((a - b).square().sum() for a, b in zip(first, goal, strict=True)), start=rate.new_zeros(()))
    away = sum(((a - b).square().sum() for a, b in zip(last, goal, strict=True)), start=rate.new_zeros(()))
    # What the loss changes by with the weights after each step, from the last one back.
    pull = [2 * (a - b) / span for a, b in zip(last, goal, strict=True)]
    by_images, by_rate = torch.zeros_like(images), torch.zeros_like(rate)
    for step in reversed(range(steps)):
        weights, gradients = _loss_gradients(network, names, passed[step], batch(step), keep=True)
        by_rate = by_rate - sum((p * g.detach()).sum() for p, g in zip(pull, gradients, strict=True))
        turned = torch.autograd.grad(gradients, [images, *weights], grad_outputs=pull, materialize_grads=True)
        by_images = by_images - rate.detach() * turned[0]
        pull = [p - rate.detach() * t for p, t in zip(pull, turned[1:], strict=True)]
    return TrajectoryGradient(away / span, by_images, by_rate)


def _loss_gradients(
    network: nn.Module,
    names: Sequence[str],
    values: Sequence[torch.Tensor],
    batch: tuple[torch.Tensor, torch.Tensor],
    keep: bool,
) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
    """The weights as leaves, and the gradients of a batch's cross-entropy with respect to them, with their graph if `keep`."""
    weights = [value.detach().requires_grad_() for value in values]
    images, labels = batch
    logits = functional_call(network, dict(zip(names, weights, strict=True)), (images if keep else images.detach(),))
    return weights, torch.autograd.grad(F.cross_entropy(logits, labels), weights, create_graph=keep)


class TrajectoryMatching(ImageMatching):
    """Trajectory matching of all classes, an iteration at a time.

    `experts` are trainings on the real images: the weights after 0, 1, 2, ... epochs. An iteration takes one of them and an epoch of
    `trajectories.start_epochs`, whose upper end grows over the first `trajectories.growth` of the iterations (DATM, Guo et al. 2024;
    0: all of them from the beginning, MTT).
    """

    def __init__(
        self,
        real: Sequence[torch.Tensor],
        labels: Sequence[int],
        start: torch.Tensor,
        config: MatchConfig,
        *,
        experts: Sequence[Sequence[dict[str, torch.Tensor]]],
        **of_the_set: Any,
    ) -> None:
        super().__init__(real, labels, start, config, **of_the_set)
        if len(self._labels) != self._classes:
            raise DistillError(
                f"trajectories need all {self._classes} classes together, got {len(self._labels)} of them"
            )
        self._experts = experts
        settings = config.trajectories
        self.rate = torch.tensor(settings.student_rate, device=self._device)
        self._rate_optimizer = torch.optim.SGD([self.rate], lr=settings.student_rate_rate, momentum=config.momentum)

    def _rate(self) -> float:
        return self.config.trajectories.learning_rate

    def start_epoch(self, step: int) -> tuple[int, int]:
        """Return the number of the expert and the epoch that an iteration starts from."""
        settings = self.config.trajectories
        low, high = settings.start_epochs
        grown = self.config.iterations * settings.growth
        if step < grown:
            high = low + int((high - low) * step / grown)
        generator = torch.Generator().manual_seed(operation_seed(self.seed, "", f"matching/expert/{step}"))
        expert = int(torch.randint(len(self._experts), (1,), generator=generator))
        return expert, low + int(torch.randint(high - low + 1, (1,), generator=generator))

    def _backward(self, step: int) -> float:
        settings = self.config.trajectories
        expert, epoch = self.start_epoch(step)
        weights = [
            {name: value.to(self._device) for name, value in self._experts[expert][at].items()}
            for at in (epoch, epoch + settings.expert_epochs)
        ]
        result = trajectory_gradient(
            self._fresh_network(0),
            weights[0],
            weights[1],
            lambda number: self._student_batch(step, number),
            settings.student_steps,
            self.rate,
            self.images,
        )
        self.images.grad, self.rate.grad = result.images, result.rate
        self._rate_optimizer.step()
        self.rate.clamp_(min=0)
        return float(result.loss)

    def _student_batch(self, step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The images, all augmented alike, and labels of a step of the student: the set in an order of each pass over it."""
        pixels = self._decoded()
        size = min(self.config.trajectories.batch_size, len(pixels))
        each = len(pixels) // size
        name = f"matching/student/{step}/{number // each}"
        generator = torch.Generator().manual_seed(operation_seed(self.seed, "", name))
        order = torch.randperm(len(pixels), generator=generator)
        chosen = order[number % each * size : (number % each + 1) * size].to(self._device)
        labels = torch.tensor(self._labels, device=self._device).repeat_interleave(len(pixels) // len(self._labels))
        return self._seen(pixels[chosen], step, [f"student {number}"]), labels[chosen]

    def state(self) -> dict[str, Any]:
        """Return what `ImageMatching.state` does, and the student's rate with its momentum."""
        return super().state() | {"rate": self.rate, "rate_optimizer": self._rate_optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load what `state` gave, to go on from there."""
        super().load_state(state)
        self.rate.copy_(state["rate"])
        self._rate_optimizer.load_state_dict(state["rate_optimizer"])


def expert_trainer(
    data: tuple[torch.Tensor, torch.Tensor],
    config: MatchConfig,
    *,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> Trainer:
    """Build the trainer of an expert on `data` (images (N, 3, S, S) uint8, labels (N,) int64); nothing is trained yet.

    Plain SGD; its weights before the first epoch and after each of `trajectories.epochs` are its trajectory.
    """
    settings = config.trajectories
    training = TrainConfig(
        epochs=settings.epochs,
        batch_size=settings.expert_batch,
        learning_rate=settings.expert_rate,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        views=ViewConfig(crop="pad", padding=max(1, data[0].shape[-1] // 8)),
    )
    network = build(config.network, classes, data[0].shape[-1], seed).to(data[0].device)
    return Trainer(network, data, training, mean=mean, std=std, seed=seed)
