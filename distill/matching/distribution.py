"""Distribution matching: a set of images whose mean features are those of the real images, class by class, in many networks.

Zhao and Bilen 2023, equation 6: L = sum over classes of || mean phi(A(real)) - mean phi(A(condensed)) ||^2, phi a network that is not
trained on, A one siamese augmentation for both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from distill.config import TrainConfig, ViewConfig
from distill.errors import DistillError
from distill.matching.config import MatchConfig
from distill.matching.features import mean_features
from distill.matching.images import ImageMatching
from distill.networks import build
from distill.training import Trainer


def distribution_loss(real: torch.Tensor, condensed: torch.Tensor) -> torch.Tensor:
    """Sum over classes and features the squared differences of mean features (classes, d); `real` has no gradient."""
    return (real.detach() - condensed).square().sum()


class Matching(ImageMatching):
    """Distribution matching of some classes, an iteration at a time. `pool` holds state dicts of briefly trained networks."""

    def __init__(
        self,
        real: Sequence[torch.Tensor],
        labels: Sequence[int],
        start: torch.Tensor,
        config: MatchConfig,
        *,
        pool: Sequence[dict[str, torch.Tensor]] = (),
        **of_the_set: Any,
    ) -> None:
        if config.pool_every and not pool:
            raise DistillError("pool_every takes networks from the pool, and the pool is empty; set pool_every to 0")
        super().__init__(real, labels, start, config, **of_the_set)
        self._pool = list(pool)

    def _rate(self) -> float:
        return self.config.learning_rate

    def _backward(self, step: int) -> float:
        network = self._network(step)
        condensed = mean_features(network, self._seen(self._decoded(), step, self._labels), len(self._labels))
        loss = distribution_loss(self._real_means(network, step), condensed)
        loss.backward()
        return float(loss.detach())

    def _network(self, step: int) -> nn.Module:
        """Return the network of an iteration: fresh, or the next of the pool."""
        every, network = self.config.pool_every, self._fresh_network(step)
        if every and step % every == every - 1:
            network.load_state_dict(self._pool[step // every % len(self._pool)])
        return network.requires_grad_(False)

    @torch.no_grad()
    def _real_means(self, network: nn.Module, step: int) -> torch.Tensor:
        """Compute the mean feature map (classes, d) of real images of every class; on a CPU a class at a time, to stay in its caches."""
        places = range(len(self._labels))
        together = [list(places)] if self._device.type == "cuda" else [[place] for place in places]
        means = []
        for chosen in together:
            labels = [self._labels[place] for place in chosen]
            pixels = torch.cat([self._real_batch(place, step) for place in chosen])
            means.append(mean_features(network, self._seen(pixels, step, labels), len(labels)))
        return torch.cat(means)


def pool_trainer(
    data: tuple[torch.Tensor, torch.Tensor],
    config: MatchConfig,
    *,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> Trainer:
    """Build the trainer of one network of the pool on `data` (images (N, 3, S, S) uint8, labels (N,) int64); nothing is trained yet.

    Its weights after each number of epochs in `pool.snapshots` are states of the pool.
    """
    pool = config.pool
    training = TrainConfig(
        epochs=pool.snapshots[-1],
        batch_size=pool.batch_size,
        learning_rate=pool.learning_rate,
        momentum=pool.momentum,
        weight_decay=pool.weight_decay,
        schedule="constant",
        views=ViewConfig(crop="pad", padding=max(1, data[0].shape[-1] // 8)),
    )
    network = build(config.network, classes, data[0].shape[-1], seed).to(data[0].device)
    return Trainer(network, data, training, mean=mean, std=std, seed=seed)
