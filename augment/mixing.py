"""Mixup and cutmix on a batch: a table of partners, weights and patches first, then pixels and labels by that table.

By default every sample has a weight, a patch and a gate of its own, which follow from its key. Its partner is the next sample
in an order of the batch's keys that their hashes decide: the same whatever order the batch came in, another in other company.
`per_batch` is what the papers' code does: one weight, one patch and one permutation for the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from augment.errors import PolicyError
from augment.seeds import Keys, key_names, operation_seed, operation_seeds, sample_seeds, uniforms


@dataclass(frozen=True)
class Mixing:
    """How a batch is mixed.

    `alpha` of Beta(alpha, alpha), from which the weight of the sample itself comes; `p`, the share of samples (`per_batch`: of
    batches) that are mixed. A cutmix patch that sticks out of the image is clipped: labels weigh by what was really pasted, as
    published (`weigh: patch`), or by the drawn lambda (`weigh: lambda`).
    """

    kind: Literal["mixup", "cutmix"]
    alpha: float = 1.0
    p: float = 1.0
    per_batch: bool = False
    weigh: Literal["patch", "lambda"] = "patch"

    def __post_init__(self) -> None:
        if self.kind not in ("mixup", "cutmix"):
            raise PolicyError(f"mixing.kind takes mixup or cutmix, got {self.kind!r}")
        if self.weigh not in ("patch", "lambda"):
            raise PolicyError(f"mixing.weigh takes patch or lambda, got {self.weigh!r}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise PolicyError(f"mixing.alpha takes a number above 0, got {self.alpha!r}")
        if not 0 <= self.p <= 1:
            raise PolicyError(f"mixing.p takes a probability in 0 to 1, got {self.p!r}")


@dataclass(frozen=True, slots=True, eq=False)
class MixTable:
    """What is mixed with what.

    `partner` (n,) int64: places in the batch, one's own where nothing is mixed in. `share` (n,) float64: how much of the
    sample itself its label keeps. `blend` (n,) float64: how much of its pixels outside the patch (mixup; else 1). `patch`
    (n, 4) int64: x1, y1, x2, y2 of what the partner covers (cutmix; else zeros).
    """

    keys: tuple[str | int | float, ...]
    partner: np.ndarray
    share: np.ndarray
    blend: np.ndarray
    patch: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, index: int) -> dict[str, Any]:
        """What was done to one sample, as JSON that holds it exactly."""
        return {
            "partner": self.keys[self.partner[index]],
            "share": float(self.share[index]),
            "blend": float(self.blend[index]),
            "patch": self.patch[index].tolist(),
        }

    @classmethod
    def from_rows(cls, keys: Keys, rows: Sequence[Mapping[str, Any]]) -> MixTable:
        """The table that `row` wrote down, for the same samples in any order."""
        names = key_names(keys)
        place = {key: index for index, key in enumerate(names)}
        missing = [row["partner"] for row in rows if row["partner"] not in place]
        if missing or len(rows) != len(names):
            raise PolicyError(
                f"the recorded mixing needs {missing[0]!r}, which is not in the batch"
                if missing
                else f"{len(rows)} rows of mixing for {len(names)} samples"
            )
        return cls(
            names,
            np.array([place[row["partner"]] for row in rows], np.int64),
            np.array([row["share"] for row in rows], np.float64),
            np.array([row["blend"] for row in rows], np.float64),
            np.array([row["patch"] for row in rows], np.int64).reshape(-1, 4),
        )


def draw_mix(mixing: Mixing, keys: Keys, size: tuple[int, int], *, seed: int = 0, epoch: int = 0) -> MixTable:
    """Draw for a batch with these keys, of images of `size` (height, width)."""
    names = key_names(keys)
    count = len(names)
    if count == 0:
        raise PolicyError("the batch is empty: there is nothing to mix")
    if mixing.per_batch:
        rng = np.random.Generator(
            np.random.PCG64(operation_seed(seed, f"{epoch}/{'/'.join(map(str, names))}", "mixing"))
        )
        on = np.full(count, rng.random() < mixing.p)
        drawn = np.full(count, rng.beta(mixing.alpha, mixing.alpha))
        partner = rng.permutation(count)
        centre = np.tile(rng.random(2), (count, 1))
    else:
        seeds = operation_seeds(sample_seeds(seed, keys, epoch), ["mixing"])
        numbers = uniforms(seeds, np.arange(1, 6, dtype=np.uint64))
        on, drawn = numbers[:, 0] < mixing.p, _betas(mixing.alpha, numbers[:, 1])
        partner, centre = next_in_order(numbers[:, 2], 1)[:, 0], numbers[:, 3:5]
    partner = np.where(on, partner, np.arange(count)).astype(np.int64)
    drawn = np.where(partner == np.arange(count), 1.0, drawn)
    patch = np.zeros((count, 4), np.int64)
    if mixing.kind == "mixup":
        return MixTable(names, partner, drawn, drawn, patch)
    places = (centre * (size[1], size[0])).astype(np.int64)
    for index in np.flatnonzero(partner != np.arange(count)):
        patch[index] = cutmix_box(size, float(drawn[index]), int(places[index, 0]), int(places[index, 1]))
    share = drawn
    if mixing.weigh == "patch":
        share = 1 - (patch[:, 2] - patch[:, 0]) * (patch[:, 3] - patch[:, 1]) / (size[0] * size[1])
    return MixTable(names, partner, share, np.ones(count), patch)


def apply_mix(images: torch.Tensor, table: MixTable) -> torch.Tensor:
    """Mix images (n, C, H, W), float or uint8 (rounded), by a table; differentiable in float images."""
    if len(images) != len(table):
        raise PolicyError(f"this mixing is for {len(table)} images, got {len(images)}")
    others = images[torch.from_numpy(table.partner).to(images.device)]
    result = images
    if (table.blend != 1).any():
        own = images if images.is_floating_point() else images.float()
        share = torch.from_numpy(table.blend).to(own)[:, None, None, None]
        result = share * own + (1 - share) * others
        if not images.is_floating_point():
            result = result.round().clamp(0, 255).to(images.dtype)
    if table.patch.any():
        x1, y1, x2, y2 = torch.from_numpy(table.patch).to(images.device)[:, :, None].unbind(1)
        row, column = (torch.arange(side, device=images.device) for side in images.shape[2:])
        covered = ((row >= y1) & (row < y2))[:, :, None] & ((column >= x1) & (column < x2))[:, None, :]
        result = torch.where(covered[:, None], others, result)
    return result


class MixedLabels(NamedTuple):
    """Labels of the sample and of its partner, (n,) int64, and the weight (n,) float32 of the first; 1 minus it is the second's."""

    label: torch.Tensor
    partner: torch.Tensor
    weight: torch.Tensor

    def soft(self, classes: int) -> torch.Tensor:
        """(n, classes) float32 targets that sum to one."""
        targets = torch.zeros(len(self.label), classes, device=self.label.device)
        targets.scatter_add_(1, self.label[:, None], self.weight[:, None])
        return targets.scatter_add_(1, self.partner[:, None], 1 - self.weight[:, None])


def mix_labels(labels: torch.Tensor, table: MixTable) -> MixedLabels:
    """Labels (n,) of a batch that was mixed by `table`."""
    partner = torch.from_numpy(table.partner).to(labels.device)
    return MixedLabels(labels, labels[partner], torch.from_numpy(table.share).to(labels.device, torch.float32))


def cutmix_box(size: tuple[int, int], share: float, centre_x: int, centre_y: int) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the partner's patch in an image of `size` (height, width), clipped at its border.

    Yun et al. 2019; `share` is lambda, the part of the image that stays.
    """
    half_height, half_width = (int(side * math.sqrt(1.0 - share)) // 2 for side in size)
    left, top = max(centre_x - half_width, 0), max(centre_y - half_height, 0)
    return left, top, min(centre_x + half_width, size[1]), min(centre_y + half_height, size[0])


def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """One number from Beta(alpha, alpha) out of a torch generator: a uniform one for 1, else from two gammas."""
    if alpha == 1.0:
        return float(torch.rand((), generator=generator))
    shape = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).tolist()
    return float(first / (first + second))


def next_in_order(numbers: np.ndarray, count: int) -> np.ndarray:
    """(n, count) int64: for each sample the `count` that follow it in the circle of samples ordered by `numbers` (n,)."""
    order = numbers.argsort(kind="stable")
    rank = order.argsort()
    return order[(rank[:, None] + np.arange(1, count + 1)) % len(order)]


def _betas(alpha: float, numbers: np.ndarray) -> np.ndarray:
    if alpha == 1.0:
        return numbers
    generators = (np.random.Generator(np.random.PCG64(int(number * 2.0**53))) for number in numbers)
    return np.array([generator.beta(alpha, alpha) for generator in generators])
