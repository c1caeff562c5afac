"""From the rows of a CSV file that a stage left to the lines of a chart."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pipelines.report.svg import Band, Point
from pipelines.report.words import listed, number

Rows = Sequence[Mapping[str, str]]


def points_of(rows: Rows, x: str, y: str, scale: float = 1.0) -> list[Point]:
    """The points (x, scale * y) of those rows in which both are finite numbers."""
    values = ((number(row.get(x)), number(row.get(y))) for row in rows)
    return [(a, b * scale) for a, b in values if a is not None and b is not None]


def mean_and_range(rows: Rows, x: str, y: str, scale: float = 1.0) -> tuple[list[Point], list[Band]]:
    """Mean of y at every x, and its lowest and highest value there."""
    at: defaultdict[float, list[float]] = defaultdict(list)
    for place, value in points_of(rows, x, y, scale):
        at[place].append(value)
    places = sorted(at)
    return [(p, statistics.fmean(at[p])) for p in places], [(p, min(at[p]), max(at[p])) for p in places]


def last_value(line: Sequence[Point]) -> str:
    """The y at the end of a line, as a legend says it."""
    return f"{line[-1][1]:.1f}" if line else ""


def not_drawn(rows: Rows, columns: Iterable[str]) -> str:
    """A sentence about values that are not finite numbers: a run that diverged must not look like a short one."""
    counts = {name: sum(name in row and number(row[name]) is None for row in rows) for name in columns}
    broken = [f"{count} of {name}" for name, count in counts.items() if count]
    return f"values that are not finite numbers are not drawn: {listed(broken)}" if broken else ""
