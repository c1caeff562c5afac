"""The noise of a group: where it comes from, and what is done to it so that the group has its class's mean and variance."""

from __future__ import annotations

import torch

from distill.errors import DistillError

#: Groups of more are matched in blocks of so many, which makes every head of ten, twenty, ... a matched group too.
BLOCK = 10


def draw(members: int, dimensions: int, seed: int) -> torch.Tensor:
    """Draw standard normal noise (members, dimensions) float32; the same seed gives the same on any device and machine."""
    return torch.randn(members, dimensions, generator=torch.Generator().manual_seed(seed))


def standardise(noise: torch.Tensor) -> torch.Tensor:
    """Move and scale noise (n, D) to mean 0 in every dimension, and to deviation 1; one member is left as it is.

    From ten members on the deviation is the unbiased one, as the published score counts; of fewer it is the biased one, since
    otherwise each member would have a mean square of (n - 1) / n and enter the sampler under-noised
    (`docs/specs/d3hr.md`, selection). More than ten members are matched block by block, with one deviation for all:
    every head of whole blocks has mean 0 too.
    """
    if len(noise) < 2:
        return noise
    blocks = [_centred(block) for block in split_blocks(noise)]
    return torch.cat(blocks) * _shrink(len(noise))


def antithetic(noise: torch.Tensor) -> torch.Tensor:
    """Replace the second half of noise (n, D) by the negative of the first, in pairs side by side, and scale it as `standardise`.

    Odd moments vanish in every dimension, of every even head too. Of an odd number the last member has no partner, and the whole
    is standardised; one member is left as it is.
    """
    members = len(noise)
    if members < 2:
        return noise
    half = noise[: members // 2]
    pairs = torch.stack((half, -half), 1).flatten(0, 1)
    if members % 2:
        return _centred(torch.cat((pairs, noise[-1:]))) * _shrink(members)
    return _scaled(pairs) * _shrink(members)


def split_blocks(noise: torch.Tensor) -> list[torch.Tensor]:
    """Split members (n, ...) into blocks of ten; a last one that would be left alone joins its neighbour."""
    blocks = list(noise.split(BLOCK))
    if len(blocks) > 1 and len(blocks[-1]) == 1:
        blocks[-2:] = [torch.cat(blocks[-2:])]
    return blocks


def head_order(members: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Order members (n, D) so that the mean of each head is as near to `mean` (D,) as a greedy choice can bring it; returns (n,) int64.

    The order is within blocks, which stay where they are (herding: Welling 2009). The first member of equals comes first.
    """
    centred = members.double() - mean.double()
    products = (centred @ centred.T).tolist()
    order: list[int] = []
    running = [0.0] * len(members)  # of each member with the sum of those taken
    for block in split_blocks(torch.arange(len(members))):
        left = block.tolist()
        while left:
            taken = min(left, key=lambda place: 2 * running[place] + products[place][place])
            left.remove(taken)
            order.append(taken)
            running = [sum(pair) for pair in zip(running, products[taken], strict=True)]
    return torch.tensor(order)


def permutation(dimensions: int, seed: int) -> torch.Tensor:
    """Draw an order (dimensions,) int64 of the dimensions: independent normal numbers stay so in any order."""
    return torch.randperm(dimensions, generator=torch.Generator().manual_seed(seed))


def require_finite(name: str, value: torch.Tensor) -> None:
    """Refuse a model that is not finite."""
    if not bool(value.isfinite().all()):
        raise DistillError(f"a class model's {name} are not finite: measure its latents again")


def _centred(noise: torch.Tensor) -> torch.Tensor:
    """Move and scale noise (n, D) to mean 0 and biased deviation 1."""
    centred = noise - noise.mean(0)
    return _scaled(centred)


def _scaled(centred: torch.Tensor) -> torch.Tensor:
    """Scale noise (n, D) about 0 to biased deviation 1; a dimension that does not vary stays 0."""
    deviation = centred.square().mean(0).sqrt()
    return centred / torch.where(deviation > 0, deviation, 1)


def _shrink(members: int) -> float:
    """The factor from biased deviation 1 to what a group of so many gets."""
    return ((members - 1) / members) ** 0.5 if members >= BLOCK else 1.0
