"""The figures that say how Gaussian classes are at a level: one table for the console and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.words import UNKNOWN, listed, number

#: Columns: heading, and how its cell is made of a row of diagnostics.json.
HEAD = (
    "level",
    "guidance",
    "cosine",
    "mean",
    "noised",
    "variance",
    "noised",
    "range",
    "kurtosis",
    "correlation",
    "chance",
)

#: From which cosine on a class's mean counts as kept, and up to which figures a class is near to a Gaussian: the share by which its
#: variance may differ, its excess kurtosis, and its correlations over those of chance.
KEEPS, NEAR, TAILS, CHANCE = 0.9, 0.1, 0.2, 1.5


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of a level, as texts: `noised` is what noising forward to the level would give, `chance` what independent dimensions do."""
    lowest, highest = (_figure(row.get(name)) for name in ("lowest_variance", "highest_variance"))
    return (
        _figure(row.get("level")),
        _figure(row.get("guidance")),
        *(
            _figure(row.get(name))
            for name in ("cosine", "mean_rms", "predicted_mean_rms", "variance", "predicted_variance")
        ),
        f"{lowest} to {highest}",
        *(_figure(row.get(name)) for name in ("kurtosis", "correlation", "correlation_floor")),
    )


def printed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as lines of text."""
    table = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]


def verdict(row: Mapping[str, Any]) -> str:
    """A sentence or two on what the figures of a level amount to for a diagonal Gaussian; empty where they are not known."""
    cosine, variance, noised, kurtosis, correlation, chance = (
        number(row.get(name))
        for name in ("cosine", "variance", "predicted_variance", "kurtosis", "correlation", "correlation_floor")
    )
    if cosine is None or variance is None or not noised:
        return ""
    wrong = []
    if cosine < KEEPS:
        wrong.append(f"class means have turned away from the clean ones (cosine {_figure(cosine)})")
    if abs(variance / noised - 1) > NEAR:
        wrong.append(f"variances are {_figure(variance / noised)} times what noising forward gives")
    if kurtosis is not None and abs(kurtosis) > TAILS:
        wrong.append(
            f"values within a class have {'heavy' if kurtosis > 0 else 'light'} tails (excess kurtosis {_figure(kurtosis)})"
        )
    if correlation is not None and chance and correlation / chance > CHANCE:
        wrong.append(f"two dimensions correlate {_figure(correlation / chance)} times as much as chance gives")
    at = f"At level {_figure(row.get('level'))} and guidance {_figure(row.get('guidance'))}"
    if not wrong:
        return f"{at} their classes are near to diagonal Gaussians by all that is measured."
    return f"{at} a diagonal Gaussian is not all there is to a class: {listed(wrong)}."


def _figure(value: Any) -> str:
    figure = number(value)
    return UNKNOWN if figure is None else f"{figure:.3g}".replace("-", "−")
