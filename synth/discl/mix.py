"""How many images of each kind an epoch has, and which: hard real images, other real images, synthetic ones. Arithmetic and draws only.

Hard images are, for a long tail, those of classes with few images; for images of low quality, those that are named. The
published arithmetic is in `docs/specs/discl.md`, mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from augment.seeds import operation_seed
from synth.discl.schedules import REAL, Mode
from synth.errors import SynthError


@dataclass(frozen=True)
class Mix:
    """An epoch's numbers of images: `real` that are not hard, `tail` hard ones, and `synthetic` draws that fill the tail up.

    In an epoch on real images alone the draws come from the hard ones.
    """

    real: int
    tail: int
    synthetic: int

    def __len__(self) -> int:
        return self.real + self.tail + self.synthetic

    def batches(self, batch_size: int) -> int:
        """Count the batches of an epoch, a last, smaller one included."""
        return -(-len(self) // batch_size)


def mix(counts: Sequence[int], few_limit: int, downsample: float, mode: Mode = "improved") -> Mix:
    """Plan an epoch of a long-tailed set: `counts` images of each class, those with fewer than `few_limit` being its tail.

    The tail's share of the epoch is its share of the classes, so that a class weighs the same in both parts. Classes without an
    image count for neither. SynthError where every class is in the tail, and nothing is left to fill up to.
    """
    present = [count for count in counts if count > 0]
    few = [count for count in present if count < few_limit]
    if len(few) == len(present):
        raise SynthError(
            f"all {len(present)} classes have fewer than few_limit {few_limit} images, so no other class says how many a "
            "class should have: lower few_limit"
        )
    return mix_of(sum(present) - sum(few), sum(few), Fraction(len(few), len(present)), downsample, mode)


def mix_of(others: int, tail: int, share: Fraction, downsample: float, mode: Mode = "improved") -> Mix:
    """Plan an epoch of `others` images, of which int(`downsample` x `others`) are seen, and `tail` hard ones at a `share` of all.

    With synthetic draws the hard part has int(share / (1 - share) x seen) images, and never fewer than there are real ones. Mode
    `reference` computes in floats as published, which may be one less where the quotient is whole. SynthError for other numbers.
    """
    if not 0 < downsample <= 1:
        raise SynthError(f"downsample takes 0 < value <= 1, got {downsample}")
    if not 0 <= share < 1 or others < 1 or tail < 0:
        raise SynthError(
            f"a mix takes 1 other image or more, tail from 0 on and a share of 0 <= value < 1, got {others}, {tail}, {share}"
        )
    seen = max(1, int(downsample * others))
    if mode == "reference":
        target = int(float(share) / (1 - float(share)) * seen)
    else:
        target = int(share / (1 - share) * seen)
    return Mix(seen, tail, max(0, target - tail) if tail else 0)


@dataclass(frozen=True, eq=False)
class EpochDraw:
    """The images of one epoch: `real` and `tail` are places in the real set, `synthetic` places in the synthetic one, int64.

    `positions` has them all in the order of training: a place in the real set, or the number of real images plus a place in the
    synthetic set. `levels` are theirs, 100 for every real image.
    """

    real: np.ndarray
    tail: np.ndarray
    synthetic: np.ndarray
    positions: np.ndarray
    levels: np.ndarray


def draw_epoch(
    seed: int,
    epoch: int,
    mix: Mix,
    levels: Sequence[int],
    tail: np.ndarray,
    synthetic_levels: np.ndarray,
    mode: Mode = "improved",
) -> EpochDraw:
    """Draw the images of `epoch`, a pure function of the arguments; `seed` and `epoch` decide what is random.

    `tail` (real images,) bool says which real images are hard, `synthetic_levels` (synthetic images,) int the level of each synthetic
    one. Other real images are a new random subset every epoch, each at most once. Hard ones are there once; their part is filled up
    from the synthetic images of the active `levels` (100 among several adds the hard ones themselves), without replacement where
    there are enough. Where there are too few, mode `improved` takes all of them equally often but for one time, and `reference` draws
    with replacement. On real images alone, or where the active levels have no image, hard ones are drawn instead: in
    `improved` equally often as well, in `reference` the whole part with replacement.

    Random numbers are raw outputs of PCG64, which numpy promises for ever. SynthError where `mix` belongs to another set.
    """
    hard, others = np.flatnonzero(tail), np.flatnonzero(~tail)
    if len(hard) != mix.tail or len(others) < mix.real:
        raise SynthError(
            f"the mix is of {mix.tail} hard images and {mix.real} others, this set has {len(hard)} and {len(others)}"
        )
    count = len(tail)
    real = others[random_order(len(others), seed, epoch, "others")[: mix.real]]
    active = np.flatnonzero(np.isin(synthetic_levels, [level for level in levels if level != REAL])) + count
    candidates = np.concatenate([active, hard]) if len(active) and REAL in levels else active
    if len(candidates) or not mix.synthetic:
        fill = np.concatenate([hard, candidates[_draws(len(candidates), mix.synthetic, seed, epoch, mode)]])
    elif mode == "reference":
        fill = hard[_with_replacement(len(hard), mix.tail + mix.synthetic, seed, epoch)]
    else:
        fill = hard[_evenly(len(hard), mix.tail + mix.synthetic, seed, epoch)]
    positions = np.concatenate([real, fill])
    positions = positions[random_order(len(positions), seed, epoch, "order")].astype(np.int64)
    by_place = np.concatenate([np.full(count, REAL), synthetic_levels])
    return EpochDraw(real, fill[fill < count], fill[fill >= count] - count, positions, by_place[positions])


def _draws(count: int, wanted: int, seed: int, epoch: int, mode: Mode) -> np.ndarray:
    if wanted <= count:
        return random_order(count, seed, epoch, "synthetic")[:wanted]
    return _with_replacement(count, wanted, seed, epoch) if mode == "reference" else _evenly(count, wanted, seed, epoch)


def _evenly(count: int, wanted: int, seed: int, epoch: int) -> np.ndarray:
    """Take 0..count-1 so often that there are `wanted`, each as often as any other or once more."""
    whole = np.tile(np.arange(count), wanted // count)
    return np.concatenate([whole, random_order(count, seed, epoch, "synthetic")[: wanted % count]])


def _with_replacement(count: int, wanted: int, seed: int, epoch: int) -> np.ndarray:
    raw = _numbers(seed, epoch, "synthetic").random_raw(wanted)
    return (raw % np.uint64(count)).astype(np.int64)  # off uniform by count / 2^64


def random_order(count: int, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """Draw an order of 0..count-1, int64 (count,), that follows from (seed, epoch, purpose)."""
    return np.argsort(_numbers(seed, epoch, purpose).random_raw(count), kind="stable")


def _numbers(seed: int, epoch: int, purpose: str) -> np.random.PCG64:
    return np.random.PCG64(operation_seed(seed, epoch, f"discl/{purpose}"))
