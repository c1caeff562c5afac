"""Gradient matching: images whose loss moves a network's weights the way the loss of real images does, class by class.

Zhao et al. 2021 (DC): per layer, the sum over output rows of 1 - cos of the two gradients; parameters of one dimension count nothing.
The network is trained a step on between two iterations, on real images (Kim et al. 2022, IDC) or on the condensed ones (DC).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from augment.seeds import operation_seed
from distill.errors import DistillError
from distill.matching.config import MatchConfig
from distill.matching.images import ImageMatching

#: Added to the product of two norms, as published.
NORM_EPS = 1e-6


def gradient_distance(real: Sequence[torch.Tensor], condensed: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum over layers and output rows 1 - cos of gradients, one tensor a parameter, which is skipped if it has one dimension only.

    A row is the gradient of all that leads to one output: (out, in, 3, 3) has `out` of them. `real` has no gradient.
    """
    distance = condensed[0].new_zeros(())
    for ours, theirs in zip(condensed, real, strict=True):
        if ours.ndim > 1:
            rows, fixed = ours.flatten(1), theirs.detach().flatten(1)
            cosine = (rows * fixed).sum(1) / (rows.norm(dim=1) * fixed.norm(dim=1) + NORM_EPS)
            distance = distance + (1 - cosine).sum()
    return distance


class GradientMatching(ImageMatching):
    """Gradient matching of some classes, an iteration at a time: every class once, then a step of the network.

    A network goes through `gradients.network_steps` iterations. `training` (images (N, 3, S, S) uint8, labels (N,) int64) are the real
    images of all classes that it is trained on. Trained on the condensed images instead, every class depends on all others: `labels`
    have to be all classes then.
    """

    clamps = True

    def __init__(
        self,
        real: Sequence[torch.Tensor],
        labels: Sequence[int],
        start: torch.Tensor,
        config: MatchConfig,
        *,
        training: tuple[torch.Tensor, torch.Tensor],
        **of_the_set: Any,
    ) -> None:
        super().__init__(real, labels, start, config, **of_the_set)
        if config.gradients.train_on == "condensed" and len(self._labels) != self._classes:
            raise DistillError(
                f"gradients.train_on: condensed needs all {self._classes} classes together, got {len(self._labels)} of them"
            )
        self._training = training
        self._network: nn.Module = self._fresh_network(0)
        self._trainer = self._network_optimizer()

    def _rate(self) -> float:
        return self.config.gradients.learning_rate

    def _network_optimizer(self) -> torch.optim.SGD:
        config = self.config.gradients
        return torch.optim.SGD(
            self._network.parameters(),
            lr=config.network_rate,
            momentum=config.network_momentum,
            weight_decay=config.network_decay,
        )

    def _backward(self, step: int) -> float:
        if step % self.config.gradients.network_steps == 0:
            self._network = self._fresh_network(step)
            self._trainer = self._network_optimizer()
        total = 0.0
        for place, label in enumerate(self._labels):
            real = self._seen(self._real_batch(place, step), step, [label])
            condensed = self._seen(self._decoded(slice(place * self.ipc, (place + 1) * self.ipc)), step, [label])
            distance = gradient_distance(
                self._weight_gradients(real, label, keep=False), self._weight_gradients(condensed, label, keep=True)
            )
            (gradient,) = torch.autograd.grad(distance, self.images)
            self.images.grad = gradient if self.images.grad is None else self.images.grad + gradient
            total += float(distance.detach())
        self._train_network(step)
        return total

    def _weight_gradients(self, images: torch.Tensor, label: int, keep: bool) -> tuple[torch.Tensor, ...]:
        """The gradient of the cross-entropy of images of one class, a tensor a parameter; `keep`s the graph to be differentiated."""
        targets = torch.full((len(images),), label, device=images.device)
        loss = F.cross_entropy(self._network(images), targets)
        gradients: tuple[torch.Tensor, ...] = torch.autograd.grad(
            loss, list(self._network.parameters()), create_graph=keep
        )
        return gradients

    def _train_network(self, step: int) -> None:
        """Take a step of the network, on images that are augmented each for itself."""
        config = self.config.gradients
        if config.train_on == "real":
            images, labels = self._training
            generator = torch.Generator().manual_seed(operation_seed(self.seed, "", f"matching/train/{step}"))
            chosen = torch.randint(len(images), (config.batch_size,), generator=generator).to(images.device)
            pixels, targets = images[chosen, : self.images.shape[1]].float() / 255, labels[chosen]
        else:
            pixels = self._decoded().detach()
            targets = torch.tensor(self._labels, device=self._device).repeat_interleave(
                len(pixels) // len(self._labels)
            )
        seen = self._seen(pixels, step, [f"train {place}" for place in range(len(pixels))])
        self._trainer.zero_grad(set_to_none=True)
        F.cross_entropy(self._network(seen), targets).backward()
        self._trainer.step()

    def state(self) -> dict[str, Any]:
        """Return what `ImageMatching.state` does, and the network with what its training depends on."""
        network = {"network": self._network.state_dict(), "trainer": self._trainer.state_dict()}
        return super().state() | network

    def load_state(self, state: dict[str, Any]) -> None:
        """Load what `state` gave, to go on from there."""
        super().load_state(state)
        self._network.load_state_dict(state["network"])
        self._trainer.load_state_dict(state["trainer"])
