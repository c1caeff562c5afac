"""Images that are optimised: how they are stored, drawn, augmented, stepped and handed out, whatever they are matched by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from augment.augmenter import Augmenter
from augment.seeds import operation_seed
from distill.errors import DistillError, DivergedError
from distill.matching.config import MatchConfig
from distill.matching.tiles import decode_tiles, encode_tiles
from distill.networks import build
from distill.siamese import siamese_policy


class ImageMatching(ABC):
    """Optimises the images of some classes, an iteration at a time; see `MatchConfig`.

    `real` are the real images of each class (n_c, 3, S, S) uint8, by label in `labels`, which are the classes' numbers in the whole set
    and part of what every draw derives from; `start` (classes, ipc * tiles^2, 3, S, S) uint8 are real images to begin with. With `grey`,
    which the channels of every image of the whole set have to bear out, one channel is optimised for all three. A subclass says what an
    iteration matches. `DivergedError` at the first loss that is no finite number.
    """

    #: whether images are brought back to [0, 1] after every step
    clamps: ClassVar[bool] = False

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
    ) -> None:
        for label, images in zip(labels, real, strict=True):
            if not len(images):
                raise DistillError(f"class {label} has no real image to match")
        self.config, self.seed = config, seed
        self._real, self._labels, self._classes = list(real), list(labels), classes
        self._mean, self._std = tuple(mean), tuple(std)
        self._device = start.device
        self._size = start.shape[-1]
        self.grey = grey
        channels = 1 if grey else start.shape[2]
        # The images are optimised in the space that networks see, where a rate means the same for every data set.
        self._centre, self._spread = (
            torch.tensor(values, device=self._device).view(-1, 1, 1) for values in (self._mean, self._std)
        )
        if grey:
            self._centre, self._spread = self._centre.mean(0, keepdim=True), self._spread.mean(0, keepdim=True)
        tiles = encode_tiles(start[:, :, :channels].flatten(0, 1).float() / 255, config.tiles)
        self.ipc = len(tiles) // len(self._labels)
        self.images = ((tiles - self._centre) / self._spread).requires_grad_()
        self._optimizer = torch.optim.SGD([self.images], lr=self._rate(), momentum=config.momentum)
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
        self._optimizer.zero_grad(set_to_none=True)
        value = self._backward(step)
        if not np.isfinite(value):
            raise DivergedError(f"the loss of iteration {step + 1} is not a finite number; lower the learning_rate")
        self._optimizer.step()
        if self.clamps:
            with torch.no_grad():
                black, white = (-self._centre / self._spread, (1 - self._centre) / self._spread)
                self.images.copy_(torch.minimum(torch.maximum(self.images, black), white))
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

    @abstractmethod
    def _rate(self) -> float:
        """The learning rate of the images."""

    @abstractmethod
    def _backward(self, step: int) -> float:
        """Add the gradient of an iteration's loss to that of the images; returns the loss."""

    def _fresh_network(self, step: int) -> nn.Module:
        """Build the network of an iteration, which follows from the seed and the iteration."""
        seed = operation_seed(self.seed, "", f"matching/network/{step}")
        network = build(self.config.network, self._classes, self._size, seed)
        return network.to(self._device).to(memory_format=torch.channels_last).eval()

    def _decoded(self, stored: slice = slice(None)) -> torch.Tensor:
        """The images that stored ones hold, all (classes * ipc * tiles^2, C, S, S) in [0, 1] by default; differentiable."""
        return decode_tiles(self.images[stored], self.config.tiles) * self._spread + self._centre

    def _real_batch(self, place: int, step: int) -> torch.Tensor:
        """Draw real images (real_batch, C, S, S) float in [0, 1] of the class at `place`, with replacement."""
        seed = operation_seed(self.seed, f"class {self._labels[place]}", f"matching/real/{step}")
        images, generator = self._real[place], torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(images), (self.config.real_batch,), generator=generator)
        return images[chosen.to(images.device), : self.images.shape[1]].float() / 255

    def _seen(self, pixels: torch.Tensor, step: int, keys: Sequence[int | str]) -> torch.Tensor:
        """Augment images (keys * n, C, S, S) in [0, 1], alike for all n of a key, and normalise them for a network of 3 channels."""
        each = len(pixels) // len(keys)
        repeated = [str(key) for key in keys for _ in range(each)]
        draws = self._augment.draw(repeated, (self._size, self._size), epoch=step)
        augmented = self._augment.replay(pixels.expand(-1, 3, -1, -1), draws).images
        normalised = (augmented - self._triple(self._mean)) / self._triple(self._std)
        return normalised.contiguous(memory_format=torch.channels_last)

    def _triple(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=self._device).view(-1, 1, 1)
