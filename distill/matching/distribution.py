"""Distribution matching: a set of images whose mean features are those of the real images, class by class, in many networks.

Zhao and Bilen 2023, equation 6: L = sum over classes of || mean phi(A(real)) - mean phi(A(condensed)) ||^2, phi a network that is not
trained on, A one siamese augmentation for both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from augment.augmenter import Augmenter
from augment.seeds import operation_seed
from distill.config import TrainConfig, ViewConfig
from distill.errors import DistillError, DivergedError
from distill.matching.config import MatchConfig
from distill.matching.features import mean_features
from distill.matching.tiles import decode_tiles, encode_tiles
from distill.networks import build
from distill.training import Trainer


def distribution_loss(real: torch.Tensor, condensed: torch.Tensor) -> torch.Tensor:
    """Sum over classes and features the squared differences of mean features (classes, d); `real` has no gradient."""
    return (real.detach() - condensed).square().sum()


def siamese_policy(mean: Sequence[float], std: Sequence[float], grey: bool) -> dict[str, Any]:
    """Write the augmentation of Zhao and Bilen 2021 for images in [0, 1] that networks see normalised by `mean` and `std`.

    One of six kinds a draw. Brightness moves by up to half a standard deviation, cutout fills with the mean, black lies beyond the
    frame; grey images have no saturation.
    """
    half = 0.5 * float(np.mean(std))
    colour: list[Any] = [{"brightness_shift": {"shift": [-half, half]}}]
    colour += [] if grey else [{"saturation_mean": {"factor": [0.0, 2.0]}}]
    colour += [{"contrast_mean": {"factor": [0.5, 1.5]}}]
    strategies: list[Any] = [
        colour,
        {"shift": {"share": 0.125}},
        {"erase": {"p": 1.0, "scale": 0.25, "ratio": 1.0, "value": float(np.clip(np.mean(mean), 0, 1))}},
        {"horizontal_flip": {"p": 0.5}},
        {"affine": {"scale": [1 / 1.2, 1.2], "scale_y": [1 / 1.2, 1.2]}},
        {"rotate": {"degrees": [-15.0, 15.0]}},
    ]
    return {"operations": [{"one_of": strategies}]}


class Matching:
    """Optimises the images of some classes, an iteration at a time; see `MatchConfig`.

    `real` are the real images of each class (n_c, 3, S, S) uint8, by label in `labels`, which are the classes' numbers in the whole set
    and part of what every draw derives from; `start` (classes, ipc * tiles^2, 3, S, S) uint8 are real images to begin with. `pool` holds
    state dicts of briefly trained networks. With `grey`, which the channels of every image of the whole set have to bear out, one channel
    is optimised for all three.
    `DivergedError` at the first loss that is no finite number.
    """

    def __init__(
        self,
        real: Sequence[torch.Tensor],
        labels: Sequence[int],
        start: torch.Tensor,
        config: MatchConfig,
        *,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        grey: bool = False,
        pool: Sequence[dict[str, torch.Tensor]] = (),
    ) -> None:
        if config.pool_every and not pool:
            raise DistillError("pool_every takes networks from the pool, and the pool is empty; set pool_every to 0")
        for label, images in zip(labels, real, strict=True):
            if not len(images):
                raise DistillError(f"class {label} has no real image to match")
        self.config, self.seed = config, seed
        self._real, self._labels, self._classes, self._pool = list(real), list(labels), classes, list(pool)
        self._mean, self._std = tuple(mean), tuple(std)
        self._device = start.device
        self._size = start.shape[-1]
        self.grey = grey
        channels = 1 if grey else start.shape[2]
        # The images are optimised in the space that networks see, where a rate of 1 means the same for every data set.
        self._centre, self._spread = (
            torch.tensor(values, device=self._device).view(-1, 1, 1) for values in (self._mean, self._std)
        )
        if grey:
            self._centre, self._spread = self._centre.mean(0, keepdim=True), self._spread.mean(0, keepdim=True)
        tiles = encode_tiles(start[:, :, :channels].flatten(0, 1).float() / 255, config.tiles)
        self.ipc = len(tiles) // len(self._labels)
        self.images = ((tiles - self._centre) / self._spread).requires_grad_()
        self._optimizer = torch.optim.SGD([self.images], lr=config.learning_rate, momentum=config.momentum)
        self._augment = Augmenter(siamese_policy(mean, std, grey), seed=seed, backend="torch")
        self._total, self._summed = torch.zeros_like(self.images, requires_grad=False), 0
        self.iteration = 0
        self.losses: list[tuple[int, float]] = []

    @property
    def done(self) -> bool:
        """Whether there is no iteration left."""
        return self.iteration >= self.config.iterations

    def advance(self) -> float:
        """Take one iteration; returns its loss, the sum over classes."""
        step, config = self.iteration, self.config
        network = self._network(step)
        pixels = decode_tiles(self.images, config.tiles) * self._spread + self._centre
        condensed = mean_features(network, self._seen(pixels, step, self._labels), len(self._labels))
        loss = distribution_loss(self._real_means(network, step), condensed)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise DivergedError(f"the loss of iteration {step + 1} is not a finite number; lower the learning_rate")
        if config.iterations - step <= config.average * config.iterations:
            self._total += self.images.detach()
            self._summed += 1
        if step % config.log_every == 0 or step + 1 == config.iterations:
            self.losses.append((step, value))
        self.iteration += 1
        return value

    def result(self) -> torch.Tensor:
        """Return the images (classes, ipc, 3, S, S) uint8, rounded; the mean of the last ones where `average` asks for it."""
        images = self._total / self._summed if self._summed else self.images.detach()
        levels = ((images * self._spread + self._centre).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.expand(-1, 3, -1, -1).reshape(len(self._labels), self.ipc, 3, self._size, self._size)

    def state(self) -> dict[str, Any]:
        """Return all that the next iteration depends on, tensors and plain values. They are the live ones: save or copy at once."""
        return {
            "iteration": self.iteration,
            "losses": self.losses,
            "images": self.images.detach(),
            "optimizer": self._optimizer.state_dict(),
            "total": self._total,
            "summed": self._summed,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load what `state` gave, to go on from there."""
        self.iteration, self._summed = int(state["iteration"]), int(state["summed"])
        self.losses = [(int(step), float(loss)) for step, loss in state["losses"]]
        with torch.no_grad():
            self.images.copy_(state["images"])
            self._total.copy_(state["total"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _network(self, step: int) -> nn.Module:
        """Return the network of an iteration: fresh, or the next of the pool."""
        config = self.config
        seed = operation_seed(self.seed, "", f"matching/network/{step}")
        network = build(config.network, self._classes, self._size, seed)
        if config.pool_every and step % config.pool_every == config.pool_every - 1:
            network.load_state_dict(self._pool[step // config.pool_every % len(self._pool)])
        placed = network.to(self._device).to(memory_format=torch.channels_last)
        return placed.eval().requires_grad_(False)

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

    def _real_batch(self, place: int, step: int) -> torch.Tensor:
        """Draw real images (real_batch, C, S, S) float in [0, 1] of the class at `place`, with replacement."""
        seed = operation_seed(self.seed, f"class {self._labels[place]}", f"matching/real/{step}")
        images, generator = self._real[place], torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(images), (self.config.real_batch,), generator=generator)
        return images[chosen.to(images.device), : self.images.shape[1]].float() / 255

    def _seen(self, pixels: torch.Tensor, step: int, labels: Sequence[int]) -> torch.Tensor:
        """Augment images (labels * n, C, S, S) in [0, 1], alike for all of a class, and normalise them for a network of 3 channels."""
        each = len(pixels) // len(labels)
        keys = [str(label) for label in labels for _ in range(each)]
        draws = self._augment.draw(keys, (self._size, self._size), epoch=step)
        augmented = self._augment.replay(pixels.expand(-1, 3, -1, -1), draws).images
        normalised = (augmented - self._triple(self._mean)) / self._triple(self._std)
        return normalised.contiguous(memory_format=torch.channels_last)

    def _triple(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=self._device).view(-1, 1, 1)


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
