"""Which of several condensed sets to ship within a budget of bytes, by accuracies on the validation split. Arithmetic only.

Chosen is the cheapest of those that are not told apart from the best and are at most so many points behind it. Each comparison is
judged by itself (`verdicts.compare_products`): to hold several to 95 % together would only let cheaper sets pass. Without the limit in
points few seeds, which tell little apart, would choose whatever is cheapest.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.errors import UserError
from pipelines.evaluation.distilled.arms import Arm
from pipelines.evaluation.verdicts import Comparison, compare_products
from pipelines.report.words import human_bytes, listed

UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}


def bytes_of(text: str) -> int:
    """`200KB`, `1.5 MiB`, `4096` -> bytes, whole and at least one; `UserError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    size = round(float(found[1]) * UNITS.get(found[2].upper() or "B", 0)) if found else 0
    if size < 1:
        raise UserError(
            f"--budget takes bytes such as 200KB, 1.5MB or 200KiB (KB is 1000 bytes, KiB 1024), got {text!r}"
        )
    return size


@dataclass(frozen=True)
class Candidate:
    """A set of images with labels of a kind: the first of its source's sets, as it would be shipped.

    `image_bytes` are exact. `label_bytes` are those of the labels, or of the teacher where `ships` says that it goes in their place.
    """

    arm: Arm
    ipc: int
    image_bytes: int
    label_bytes: int
    ships: str

    @property
    def name(self) -> str:
        return f"{self.arm.name} at IPC {self.ipc}"

    @property
    def bytes(self) -> int:
        return self.image_bytes + self.label_bytes

    @property
    def in_order(self) -> tuple[int, str]:
        return self.bytes, self.name


def within(candidates: Sequence[Candidate], budget: int) -> list[Candidate]:
    """Those that fit, in rising order of bytes; a `UserError` that names the smallest where none does."""
    fitting = sorted((one for one in candidates if one.bytes <= budget), key=lambda one: one.in_order)
    if not fitting:
        if not candidates:
            raise UserError("evaluate@distilled measured no condensed set; name some in evaluate.distilled.arms")
        least = min(candidates, key=lambda one: one.in_order)
        raise UserError(
            f"nothing that was measured fits into {budget:,} bytes: the smallest, {least.name}, takes {least.bytes:,}; raise --budget, or "
            "condense fewer images per class"
        )
    return fitting


@dataclass(frozen=True)
class Measured:
    """What the students of a candidate reached on the validation split: fractions, by set and seed."""

    candidate: Candidate
    accuracies: Mapping[int, Mapping[int, float]]

    @property
    def each(self) -> list[float]:
        return [value for by_seed in self.accuracies.values() for value in by_seed.values()]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.each)

    @property
    def spread(self) -> float:
        """The standard deviation of the means of sets, or of the students of the only one."""
        means = [statistics.fmean(by_seed.values()) for by_seed in self.accuracies.values()]
        values = self.each if len(means) == 1 else means
        return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Choice:
    """What was chosen, the best, and of each candidate the best's difference to it; `open` are not told apart from the best."""

    chosen: Measured
    best: Measured
    rows: Sequence[tuple[Measured, Comparison]]
    open: Sequence[Measured]
    limit: float

    def words(self) -> str:
        """Why."""
        chosen, best = self.chosen, self.best
        reached = f"{100 * chosen.mean:.1f} ± {100 * chosen.spread:.1f} % on the validation split"
        points = f"{self.limit:g} point{'' if self.limit == 1 else 's'}"
        text = f"{chosen.candidate.name} ({human_bytes(chosen.candidate.bytes)}): {reached}"
        if chosen is best:
            return (
                f"{text}, the best that fits, and nothing cheaper is within {points} of it and not told apart from it"
            )
        others = [f"{one.candidate.name} ({100 * one.mean:.1f} %)" for one in self.open if one is not chosen]
        return f"{text}, the cheapest of those not told apart from the best and within {points} of it: {listed(others)}"

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs; accuracies are fractions and differences percentage points."""
        names = {id(one) for one in self.open}
        rows = [
            asdict(one.candidate)
            | {"name": one.candidate.name, "bytes": one.candidate.bytes}
            | {"validation_mean": one.mean, "validation_std": one.spread, "validation": one.each}
            | {
                "best_minus_this": judged["gap"],
                "p": judged["p"],
                "open": id(one) in names,
                "chosen": one is self.chosen,
            }
            for one, judged in self.rows
        ]
        return {
            "chosen": self.chosen.candidate.name,
            "limit_points": self.limit,
            "why": self.words(),
            "candidates": rows,
        }


def choose(measured: Sequence[Measured], images: int, limit: float = 1.0) -> Choice:
    """The cheapest of those that are not told apart from the best on `images` validation images and at most `limit` points behind it.

    A single student tells nothing apart: then, and where two have the same mean, the cheaper of the best is chosen.
    """
    in_order = sorted(measured, key=lambda one: one.candidate.in_order)
    best = max(in_order, key=lambda one: one.mean)
    rows = [(one, compare_products(best.accuracies, one.accuracies, images)) for one in in_order]
    near = [
        one
        for one, judged in rows
        if one is best or (judged["outcome"] == "level" and round(100 * (best.mean - one.mean), 9) <= limit)
    ]
    return Choice(near[0], best, rows, near, limit)
