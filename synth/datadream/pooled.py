"""Real and synthetic images in one training: the batches of an epoch, their mixing, and the loss of both parts.

Arithmetic and draws only; the network is in `classifier.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from augment.mixing import Mixing, MixTable, apply_mix, cutmix_box, draw_mix, mix_labels
from augment.seeds import operation_seed
from synth.datadream.config import Mode
from synth.errors import SynthError


class Examples(Protocol):
    """Labelled images, read when they are needed. `images(rows)` is RGB (n, 3, h, w) float in [0, 1]; all of one size."""

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def labels(self) -> torch.Tensor: ...
    def images(self, rows: Sequence[int]) -> torch.Tensor: ...


def repeats(synthetic_per_class: int, shots: int) -> int:
    """Return how often each real image is in an epoch, so that there are about as many as synthetic ones: published floor(n / k).

    With fewer synthetic images than shots that is 0: the real ones would be left out, which is warned about.
    """
    if shots < 1 or synthetic_per_class < 0:
        raise SynthError(f"repeats takes 1 shot or more and 0 images or more, got {shots} and {synthetic_per_class}")
    times = synthetic_per_class // shots
    if times == 0:
        warnings.warn(
            f"{synthetic_per_class} synthetic images a class are fewer than the {shots} real ones, which are left out as published; "
            "make more, or take mode improved",
            stacklevel=2,
        )
    return times


@dataclass(frozen=True)
class Pool:
    """The items of an epoch: `synthetic` of them, then `real` ones, each `repeats` times; in batches of `batch_size`, the last smaller.

    `even`: every batch has its share of both kinds, and none lacks one of them while there are enough; else one shuffle of all, as
    published.
    """

    synthetic: int
    real: int
    repeats: int
    batch_size: int
    even: bool = True

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise SynthError("the pool is empty: there is neither a real nor a synthetic image to train on")

    def __len__(self) -> int:
        return self.synthetic + self.real * self.repeats

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self) // self.batch_size)

    def epoch(self, number: int, run_seed: int) -> list[np.ndarray]:
        """Draw the batches of epoch `number`: arrays of places in the pool, from (run seed, epoch) alone."""
        source = np.random.Generator(np.random.PCG64(operation_seed(run_seed, number, "datadream/pool")))
        order = source.permutation(len(self))
        if self.even:
            # The i-th of m items of a kind goes to about i / m of the epoch; both kinds are spread by the same rule.
            parts = (order[order < self.synthetic], order[order >= self.synthetic])
            ranks = [(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in parts]
            joined, rank = np.concatenate(parts), np.concatenate(ranks)
            order = joined[rank.argsort(kind="stable")]
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def split(self, places: np.ndarray) -> tuple[list[int], list[int], list[int]]:
        """Split these places into rows of synthetic images, rows of real ones, and the repetition that each real one is."""
        real = places[places >= self.synthetic] - self.synthetic
        return places[places < self.synthetic].tolist(), (real % self.real).tolist(), (real // self.real).tolist()


def mixed(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    *,
    p: float,
    run_seed: int,
    step: int,
    part: str,
    mode: Mode = "improved",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix one part of a batch with probability `p`, by CutMix or MixUp, either as often; returns images and soft labels (n, classes).

    Alpha is 1; one weight, one patch and one pairing serve the whole part. `reference`, as published: one coin decides for both
    parts of a batch (what follows is drawn for each), and an image is paired with the one before it, as torchvision's v2 rolls the
    batch. `improved`: each part tosses a coin of its own, so that as many batches are mixed and fewer are mixed through and
    through, and pairs are a random permutation, under which an image may meet itself and stay as it is.
    """
    source = np.random.Generator(np.random.PCG64(operation_seed(run_seed, step, f"datadream/mix/{part}")))
    on, cut, seed = source.random() < p, source.random() < 0.5, int(source.integers(1 << 31))
    if mode == "reference":
        on = np.random.Generator(np.random.PCG64(operation_seed(run_seed, step, "datadream/mix"))).random() < p
    if not on or len(images) < 2:
        return images, torch.nn.functional.one_hot(labels, classes).float()
    size, keys = (images.shape[2], images.shape[3]), list(range(len(images)))
    if mode == "reference":
        table = _rolled("cutmix" if cut else "mixup", keys, size, source)
    else:
        mixing = Mixing("cutmix" if cut else "mixup", alpha=1.0, p=1.0, per_batch=True)
        table = draw_mix(mixing, keys, size, seed=seed)
    return apply_mix(images, table), mix_labels(labels, table).soft(classes)


def _rolled(kind: str, keys: Sequence[int], size: tuple[int, int], source: np.random.Generator) -> MixTable:
    """Draw a mix of every image with the one before it, the first with the last; a weight from Beta(1, 1), labels by true area."""
    count, weight = len(keys), float(source.beta(1.0, 1.0))
    partner = np.roll(np.arange(count), 1)
    patch = np.zeros((count, 4), np.int64)
    if kind == "mixup":
        return MixTable(tuple(keys), partner, np.full(count, weight), np.full(count, weight), patch)
    height, width = size
    patch[:] = x1, y1, x2, y2 = cutmix_box(size, weight, int(source.integers(width)), int(source.integers(height)))
    share = 1 - (x2 - x1) * (y2 - y1) / (height * width)
    return MixTable(tuple(keys), partner, np.full(count, share), np.ones(count), patch)


def pooled_loss(logits: torch.Tensor, targets: torch.Tensor, real: torch.Tensor, real_weight: float) -> torch.Tensor:
    """Compute lambda CE(real part) + (1 - lambda) CE(synthetic part), each part's mean; a part without samples adds 0.

    `logits` (n, classes); `targets` (n, classes) soft or (n,) class numbers; `real` (n,) bool; `real_weight` is lambda_1. The
    published code divides by the number of samples of a part and stops at the first batch that lacks one.
    """
    if not 0 <= real_weight <= 1:
        raise SynthError(f"real_weight takes 0 to 1, got {real_weight}")
    each = cross_entropy(logits, targets, reduction="none")
    total = logits.new_zeros(())
    for weight, mask in ((real_weight, real), (1 - real_weight, ~real)):
        chosen = mask.to(each)
        total = total + weight * (each * chosen).sum() / chosen.sum().clamp(min=1)
    return total
