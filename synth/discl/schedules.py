"""Which guidance levels an epoch trains on. A level is a percentage: 0 is text only, 100 the real image itself. Arithmetic only.

The published table is in `docs/specs/discl.md`, schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from augment.seeds import operation_seed
from synth.errors import SynthError

Mode = Literal["improved", "reference"]
Strategy = Literal[
    "diverse_to_specific",
    "specific_to_diverse",
    "recursive",
    "repeat",
    "random",
    "all_levels",
    "fixed",
    "adaptive",
]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
#: The level of a real image.
REAL = 100
#: Strategies of the published script whose counter stands one ahead of the epoch.
_COUNTED = ("diverse_to_specific", "specific_to_diverse", "recursive")


@dataclass(frozen=True)
class EpochLevels:
    """The levels that epoch `epoch`, from 0, trains on beside the real images; 100 alone is real images only.

    `adaptive`: they are candidates, of which `synth.discl.progress` chooses one while training.
    """

    epoch: int
    levels: tuple[int, ...]
    adaptive: bool = False

    @property
    def real_only(self) -> bool:
        """Say whether no synthetic image is seen."""
        return self.levels == (REAL,)


def schedule(
    strategy: Strategy,
    levels: Sequence[int],
    epochs: int,
    curriculum_epochs: int,
    mode: Mode = "improved",
    seed: int = 0,
) -> tuple[EpochLevels, ...]:
    """Plan the levels of every epoch: `curriculum_epochs` of them by the strategy, the rest of `epochs` on real images only.

    `diverse_to_specific` gives each of `levels` a block of epochs, upwards (what is left over goes to the first ones);
    `specific_to_diverse` downwards. `recursive` goes up and down, an epoch each. `random` draws a level an epoch from (seed, epoch).
    `all_levels` mixes all; with `curriculum_epochs` = `epochs` that is the published "none", else its "all_shift". `fixed` is the
    one level given. `repeat` is real only throughout: hard images fill the places of synthetic ones. `adaptive` leaves the choice open.

    Mode `reference` has the published tables: the counter is raised before the first epoch, so that the first block loses an
    epoch, and the epoch numbered `curriculum_epochs` is still inside. SynthError for levels or numbers that make no schedule.
    """
    chosen = _checked(strategy, levels, epochs, curriculum_epochs)
    ahead = 1 if mode == "reference" and strategy in _COUNTED and curriculum_epochs else 0
    inside = min(curriculum_epochs + ahead, epochs)
    if strategy == "repeat":
        inside = 0
    plan = [
        EpochLevels(epoch, _levels_at(strategy, chosen, epoch, ahead, curriculum_epochs, seed), strategy == "adaptive")
        for epoch in range(inside)
    ]
    return (*plan, *(EpochLevels(epoch, (REAL,)) for epoch in range(inside, epochs)))


def _levels_at(
    strategy: Strategy, levels: tuple[int, ...], epoch: int, ahead: int, curriculum_epochs: int, seed: int
) -> tuple[int, ...]:
    if strategy in ("diverse_to_specific", "specific_to_diverse"):
        ordered = levels if strategy == "diverse_to_specific" else levels[::-1]
        return (ordered[_block(epoch + ahead, len(levels), curriculum_epochs)],)
    if strategy == "recursive":
        wave = (*levels, *levels[-2:0:-1])
        return (wave[epoch % len(wave)],)
    if strategy == "random":
        raw = int(np.random.PCG64(operation_seed(seed, epoch, "discl/level")).random_raw())
        return (levels[raw % len(levels)],)
    return levels


def _block(counter: int, blocks: int, total: int) -> int:
    """Return the block, from 0, of the epoch `counter` when `total` epochs are shared out, the first blocks getting one more."""
    each, more = divmod(total, blocks)
    if counter < more * (each + 1):
        return counter // (each + 1)
    return min(more + (counter - more * (each + 1)) // each, blocks - 1)


def _checked(strategy: Strategy, levels: Sequence[int], epochs: int, curriculum_epochs: int) -> tuple[int, ...]:
    """Return the levels in ascending order."""
    if strategy not in STRATEGIES:
        raise SynthError(f"strategy takes one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if not levels or len(set(levels)) != len(levels) or not all(0 <= level <= REAL for level in levels):
        raise SynthError(f"levels take different whole numbers from 0 to 100, one or more, got {list(levels)}")
    if epochs < 1 or not 0 <= curriculum_epochs <= epochs:
        raise SynthError(
            f"a curriculum takes 1 epoch or more and curriculum_epochs up to epochs, got {epochs} and {curriculum_epochs}"
        )
    if strategy == "fixed" and len(levels) != 1:
        raise SynthError(f"the strategy fixed takes one level, got {list(levels)}")
    blocks = strategy in ("diverse_to_specific", "specific_to_diverse")
    if blocks and 0 < curriculum_epochs < len(levels):
        raise SynthError(
            f"{curriculum_epochs} curriculum_epochs are fewer than the {len(levels)} levels {list(levels)}: give more"
        )
    return tuple(sorted(int(level) for level in levels))
