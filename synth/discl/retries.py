"""`Attempts`: which images at which guidance levels are still to be tried again, and which try of each was the best. Pure counting.

Published (`docs/specs/discl.md`, filter): while an image's text cosine is below the bound it is made anew, six times in all, and
the best is kept; the first of these repeats prompt and seed, so that it gives the same image again. Here every try has a seed of its
own, and a prompt of its own where its class has several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from synth.errors import SynthError

LIMIT = 6
#: Ordinals of a real image's images are below this; later tries of one are that far apart.
STRIDE = 10_000


@dataclass(frozen=True, order=True)
class Cell:
    """One image that is wanted: number `ordinal` of the real image `key`, at guidance `level`."""

    key: str
    ordinal: int
    level: int


@dataclass(frozen=True)
class Try:
    """The `levels` of one image that are made together, at the `attempt` (from 0) that gives them prompt and seed."""

    key: str
    ordinal: int
    attempt: int
    levels: tuple[int, ...]

    @property
    def seed_ordinal(self) -> int:
        """The ordinal of the request: another noise for every attempt, the image's own at the first."""
        return self.ordinal + STRIDE * self.attempt


class Attempts:
    """The tries of every cell, up to `limit` each, until one meets the cell's bound.

        attempts = Attempts({Cell(key, ordinal, level): 0.3 for key in keys for ordinal in range(8) for level in (0, 10, 30, 50)})
        while wave := attempts.pending():
            for cell, score in make_and_score(wave):
                attempts.record(cell, score)
        attempts.best(Cell(key, 0, 50))

    `bounds` has the bound of each cell's score. A stage that was stopped records what it stored and goes on.
    """

    def __init__(self, bounds: Mapping[Cell, float], limit: int = LIMIT) -> None:
        if limit < 1:
            raise SynthError(f"an image is tried once at least, got a limit of {limit}")
        if any(not 0 <= cell.ordinal < STRIDE for cell in bounds):
            raise SynthError(f"ordinals of a real image's images are from 0 to {STRIDE - 1}")
        self.limit = limit
        self._bounds = dict(bounds)
        self._scores: dict[Cell, list[float]] = {cell: [] for cell in bounds}

    def pending(self) -> list[Try]:
        """Return the tries that are due, in the order of the cells: one for each image and number of tries so far.

        Levels of an image that were tried equally often are made together, and share their noise and prompt.
        """
        groups: dict[tuple[str, int, int], list[int]] = {}
        for cell, scores in self._scores.items():
            if not self.settled(cell):
                groups.setdefault((cell.key, cell.ordinal, len(scores)), []).append(cell.level)
        return [Try(*name, tuple(levels)) for name, levels in groups.items()]

    def record(self, cell: Cell, score: float) -> None:
        """Add the score of the cell's next try, NaN where the image is broken; SynthError for a cell that needs no try."""
        if cell not in self._scores or self.settled(cell):
            raise SynthError(f"no try of image {cell.ordinal} of {cell.key} at level {cell.level} was due")
        self._scores[cell].append(score)

    def settled(self, cell: Cell) -> bool:
        """Say whether the cell's last try met its bound, or was the last that is allowed."""
        scores = self._scores[cell]
        return len(scores) >= self.limit or bool(scores and scores[-1] >= self._bounds[cell])

    def passed(self, cell: Cell) -> bool:
        """Say whether a try of the cell met its bound."""
        return any(score >= self._bounds[cell] for score in self._scores[cell])

    def best(self, cell: Cell) -> int | None:
        """Return the attempt with the highest score, the first of equals; None before any, NaN being below all others."""
        scores = self._scores[cell]
        ranked = [score if score == score else float("-inf") for score in scores]
        return ranked.index(max(ranked)) if ranked else None

    def scores(self, cell: Cell) -> tuple[float, ...]:
        """Return the scores of the cell's tries, in order."""
        return tuple(self._scores[cell])


def expected_tries(pass_rate: float, limit: int = LIMIT) -> float:
    """Return the mean number of tries of a cell of which each passes at `pass_rate` in (0, 1], independently, up to `limit`."""
    return sum((1 - pass_rate) ** attempt for attempt in range(limit))
