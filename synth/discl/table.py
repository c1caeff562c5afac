"""A whole curriculum as a table: for every epoch its levels and how many images of each kind, and the draw that plays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synth.discl.mix import EpochDraw, Mix, draw_epoch
from synth.discl.schedules import REAL, EpochLevels, Mode, Strategy
from synth.errors import SynthError


@dataclass(frozen=True)
class EpochRow:
    """One epoch: its `levels` (candidates, if `adaptive`), and how many images it has that are `real` and not hard, hard (`tail`) or
    synthetic. Hard ones are there once in epochs with synthetic images, else as often as their number says."""

    epoch: int
    levels: tuple[int, ...]
    adaptive: bool
    real: int
    tail: int
    synthetic: int


@dataclass(frozen=True)
class Curriculum:
    """The epochs of one strategy and the images that they are of, by key. All epochs have as many images.

    `mix` is that of epochs with synthetic images. `hard` are the hard real images; `held_out` those of them that are a guidance
    validation set, neither trained on nor what was made of them; `others` the images that are not hard, None for all there are.
    """

    strategy: Strategy
    mode: Mode
    seed: int
    mix: Mix
    epochs: tuple[EpochRow, ...]
    hard: tuple[str, ...]
    others: tuple[str, ...] | None = None
    held_out: tuple[str, ...] = ()

    def draw(self, epoch: int, tail: np.ndarray, synthetic_levels: np.ndarray, level: int | None = None) -> EpochDraw:
        """Draw the images of `epoch`, as `synth.discl.mix.draw_epoch` does; `level` is what was chosen for an adaptive one.

        SynthError for an epoch that there is not, an adaptive one without a level and a level that is no candidate.
        """
        if not 0 <= epoch < len(self.epochs):
            raise SynthError(f"the curriculum has {len(self.epochs)} epochs, from 0 on; there is no epoch {epoch}")
        row = self.epochs[epoch]
        levels = row.levels
        if row.adaptive:
            if level is None:
                raise SynthError(
                    f"epoch {epoch} is adaptive: choose one of its levels {list(levels)} or {REAL}, as synth.discl.progress does"
                )
            if level not in (*levels, REAL):
                raise SynthError(f"epoch {epoch} has the levels {list(levels)} or {REAL} to choose from, got {level}")
            levels = (level,)
        return draw_epoch(self.seed, epoch, self.mix, levels, tail, synthetic_levels, self.mode)


def curriculum(
    strategy: Strategy,
    plan: Sequence[EpochLevels],
    mix: Mix,
    hard: Sequence[str],
    *,
    available: Mapping[int, int],
    seed: int,
    others: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    mode: Mode = "improved",
) -> Curriculum:
    """Join the levels of every epoch with its mix; `available` counts the synthetic images of each level that may be trained on.

    Where the active levels have none, hard images are repeated instead, and the row says so. SynthError where `mix` is of another
    number of hard images.
    """
    if mix.tail != len(hard) - len(held_out):
        raise SynthError(
            f"the mix is of {mix.tail} hard images, there are {len(hard)}, of which {len(held_out)} are held out"
        )
    rows = []
    for row in plan:
        some = any(available.get(level, 0) for level in row.levels if level != REAL)
        tail, synthetic = (mix.tail, mix.synthetic) if some else (mix.tail + mix.synthetic, 0)
        rows.append(EpochRow(row.epoch, row.levels, row.adaptive, mix.real, tail, synthetic))
    named = None if others is None else tuple(others)
    return Curriculum(strategy, mode, seed, mix, tuple(rows), tuple(hard), named, tuple(held_out))
