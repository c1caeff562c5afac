"""The loop of distribution matching written the published way, from `docs/specs/matching.md`.

Class after class: real images are gathered and normalised, one of six augmentations is chosen and applied to real and to condensed images
by two calls, each goes through the network by a pass of its own; images lie as NCHW in float32. Three channels, and no tiles as published;
tiles are cut out and enlarged image by image where they are asked for.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distill.networks import ConvNet, build

STRATEGIES = ("colour", "crop", "cutout", "flip", "scale", "rotate")


def augmented(images: torch.Tensor, strategy: str, seed: int) -> torch.Tensor:
    """One of the six, with one draw for all images (n, C, S, S): the same seed does the same to another batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = images.shape[-1]
        if strategy == "colour":
            images = images + (torch.rand(1) - 0.5)
            grey = images.mean(1, keepdim=True)
            images = (images - grey) * (2 * torch.rand(1)) + grey
            mean = images.mean((1, 2, 3), keepdim=True)
            return (images - mean) * (torch.rand(1) + 0.5) + mean
        if strategy == "crop":
            reach = int(size * 0.125 + 0.5)
            top, left = torch.randint(0, 2 * reach + 1, (2,)).tolist()
            return F.pad(images, (reach,) * 4)[:, :, top : top + size, left : left + size]
        if strategy == "cutout":
            side = size // 2
            top, left = torch.randint(0, size + 1, (2,)).tolist()
            mask = torch.ones(size, size)
            mask[max(top - side // 2, 0) : top + side // 2, max(left - side // 2, 0) : left + side // 2] = 0
            return images * mask
        if strategy == "flip":
            return images.flip(3) if float(torch.rand(1)) < 0.5 else images
        if strategy == "scale":
            across, down = (1.2 ** (2 * torch.rand(2) - 1)).tolist()
            theta = torch.tensor([[across, 0, 0], [0, down, 0]])
        else:
            angle = (torch.rand(1) - 0.5) * 2 * torch.pi / 12
            theta = torch.stack(
                [
                    torch.cat([angle.cos(), -angle.sin(), torch.zeros(1)]),
                    torch.cat([angle.sin(), angle.cos(), torch.zeros(1)]),
                ]
            )
        grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


def decoded(stored: torch.Tensor, factor: int) -> torch.Tensor:
    """The images that stored ones (n, C, S, S) hold, each cut out and enlarged by itself."""
    if factor == 1:
        return stored
    size = stored.shape[-1]
    side = size // factor
    places = [(top, left) for top in range(0, size, side) for left in range(0, size, side)]
    tiles = [
        F.interpolate(image[None, :, top : top + side, left : left + side], size=(size, size), mode="bilinear")
        for image in stored
        for top, left in places
    ]
    return torch.cat(tiles)


class PublishedLoop:
    """`real` (n_c, 3, S, S) float in [0, 1] of each class; `images` (classes * ipc, 3, S, S), normalised, are moved."""

    def __init__(self, real: list[torch.Tensor], images: torch.Tensor, batch: int, factor: int, network: str) -> None:
        self.real, self.batch, self.factor, self.network = real, batch, factor, network
        self.images = images.clone().requires_grad_()
        self._optimizer = torch.optim.SGD([self.images], lr=1.0, momentum=0.5)
        self._generator = torch.Generator().manual_seed(0)
        self._iteration = 0

    def advance(self) -> float:
        """One iteration; returns its loss."""
        network = build(self.network, len(self.real), self.images.shape[-1], self._iteration)
        assert isinstance(network, ConvNet)
        network.train()
        for weight in network.parameters():
            weight.requires_grad_(False)
        loss = torch.zeros(())
        own = len(self.images) // len(self.real)
        for label, of_class in enumerate(self.real):
            real = of_class[torch.randperm(len(of_class), generator=self._generator)[: self.batch]]
            condensed = decoded(self.images[label * own : (label + 1) * own], self.factor)
            strategy = STRATEGIES[int(torch.randint(len(STRATEGIES), (1,), generator=self._generator))]
            loss = loss + self._distance(network.features, real, condensed, strategy, self._iteration * 1000 + label)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._iteration += 1
        return loss.item()

    def _distance(
        self, embed: nn.Module, real: torch.Tensor, condensed: torch.Tensor, strategy: str, seed: int
    ) -> torch.Tensor:
        features = embed(augmented(real, strategy, seed)).flatten(1).detach()
        own = embed(augmented(condensed, strategy, seed)).flatten(1)
        return (features.mean(0) - own.mean(0)).square().sum()
