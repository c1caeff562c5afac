"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019): a table of partners, weights and patches is drawn, and mixes pixels and labels.

By default a sample's weight, its patch and whether it is mixed at all follow from its own key. Its partner follows from all keys of
the batch: each is hashed, and the partner is the sample with the next larger hash (after the largest comes the smallest). So
the order of a batch changes nothing, and a sample that joins or leaves a batch changes the partner of one other.
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
    """How a batch is mixed; `PolicyError` for a setting out of range.

    `alpha` is that of Beta(alpha, alpha), from which lambda comes, the weight of the sample itself. `p` is the share of samples
    (`per_batch`: of batches) that are mixed. A cutmix patch that sticks out of the image is clipped: labels weigh by what was really
    pasted, as published (`weigh: patch`), or by the drawn lambda (`weigh: lambda`).
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
    """What is mixed with what, a row a sample.

    `partner` (n,) int64: places in the batch, the sample's own where nothing is mixed in. `share` (n,) float64: the weight of its
    own label. `blend` (n,) float64: the weight of its own pixels outside the patch (mixup; else 1). `patch` (n, 4) int64: x1, y1,
    x2, y2 in pixel edges of what the partner covers (cutmix; else zeros).
    """

    keys: tuple[str | int | float, ...]
    partner: np.ndarray
    share: np.ndarray
    blend: np.ndarray
    patch: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, index: int) -> dict[str, Any]:
        """Write down what was done to one sample, in values that JSON holds exactly."""
        return {
            "partner": self.keys[self.partner[index]],
            "share": float(self.share[index]),
            "blend": float(self.blend[index]),
            "patch": self.patch[index].tolist(),
        }

    @classmethod
    def from_rows(cls, keys: Keys, rows: Sequence[Mapping[str, Any]]) -> MixTable:
        """Read the table that `row` wrote down, for the same samples in any order. `PolicyError` where one of them is missing."""
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
    """Draw how a batch with these keys, of images of `size` (height, width), is mixed. `PolicyError` for an empty batch."""
    names = key_names(keys)
    count = len(names)
    if count == 0:
        raise PolicyError("the batch is empty: there is nothing to mix")
    if mixing.per_batch:
        rng = np.random.Generator(
            np.random.PCG64(operation_seed(seed, f"{epoch}/{'/'.join(map(str, names))}", "mixing"))
        )
        on = np.full(count, rng.random() < mixing.p)
        lambdas = np.full(count, rng.beta(mixing.alpha, mixing.alpha))
        partner = rng.permutation(count)
        centre = np.tile(rng.random(2), (count, 1))
    else:
        seeds = operation_seeds(sample_seeds(seed, keys, epoch), ["mixing"])
        numbers = uniforms(seeds, np.arange(1, 6, dtype=np.uint64))
        on, lambdas = numbers[:, 0] < mixing.p, _betas(mixing.alpha, numbers[:, 1])
        partner, centre = next_in_order(numbers[:, 2], 1)[:, 0], numbers[:, 3:5]
    partner = np.where(on, partner, np.arange(count)).astype(np.int64)
    lambdas = np.where(partner == np.arange(count), 1.0, lambdas)
    patch = np.zeros((count, 4), np.int64)
    if mixing.kind == "mixup":
        return MixTable(names, partner, lambdas, lambdas, patch)
    centres = (centre * (size[1], size[0])).astype(np.int64)
    for index in np.flatnonzero(partner != np.arange(count)):
        patch[index] = cutmix_box(size, float(lambdas[index]), int(centres[index, 0]), int(centres[index, 1]))
    share = lambdas
    if mixing.weigh == "patch":
        share = 1 - (patch[:, 2] - patch[:, 0]) * (patch[:, 3] - patch[:, 1]) / (size[0] * size[1])
    return MixTable(names, partner, share, np.ones(count), patch)


def apply_mix(images: torch.Tensor, table: MixTable) -> torch.Tensor:
    """Mix images (n, C, H, W), float or uint8 (rounded), by a table; returns new images, differentiable in float ones."""
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
    """Pair the labels (n,) int64 of a batch with their partners', as `table` mixed the images."""
    partner = torch.from_numpy(table.partner).to(labels.device)
    return MixedLabels(labels, labels[partner], torch.from_numpy(table.share).to(labels.device, torch.float32))


def cutmix_box(size: tuple[int, int], share: float, centre_x: int, centre_y: int) -> tuple[int, int, int, int]:
    """Place the partner's patch in an image of `size` (height, width): x1, y1, x2, y2 in pixel edges, clipped at its border.

    Sides are sqrt(1 - lambda) of the image's (Yun et al. 2019, eq. 2); `share` is lambda, the part of the image that stays, and
    the centre is in pixels. Halves are rounded down, so that a side is always even before it is clipped.
    """
    half_height, half_width = (int(side * math.sqrt(1.0 - share)) // 2 for side in size)
    left, top = max(centre_x - half_width, 0), max(centre_y - half_height, 0)
    return left, top, min(centre_x + half_width, size[1]), min(centre_y + half_height, size[0])


def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """Draw one number from Beta(alpha, alpha), which moves `generator`: a uniform one for alpha 1, else from two gammas."""
    if alpha == 1.0:
        return float(torch.rand((), generator=generator))
    shape = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).tolist()
    return float(first / (first + second))


def next_in_order(numbers: np.ndarray, count: int) -> np.ndarray:
    """(n, count) int64: places of the `count` samples that follow each one by `numbers` (n,), the smallest after the largest."""
    order = numbers.argsort(kind="stable")
    rank = order.argsort()
    return order[(rank[:, None] + np.arange(1, count + 1)) % len(order)]


def _betas(alpha: float, numbers: np.ndarray) -> np.ndarray:
    """Turn uniform numbers (n,) into numbers from Beta(alpha, alpha), each from a generator that its own number seeds."""
    if alpha == 1.0:
        return numbers
    generators = (np.random.Generator(np.random.PCG64(int(number * 2.0**53))) for number in numbers)
    return np.array([generator.beta(alpha, alpha) for generator in generators])
