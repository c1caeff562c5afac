"""How Gaussian classes are at each level that was measured: the table that a sweep prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from distill.d3hr.diagnostics import Diagnostics, averaged, correlation, diagnostics
from distill.d3hr.moments import Moments
from pipelines.stages.d3hr.measured import CLEAN, Latents, Measured
from pipelines.stages.d3hr.payloads import Diagnose

#: Images of a class below which two dimensions correlate whatever they are.
_CORRELATE = 3


def diagnosed(payload: Diagnose, measured: dict[str, Measured], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each guidance and level: the mean over classes of each figure, and those of each class under `classes`.

    `measured` is by the tag of a guidance. Correlations are of `PROBED` dimensions, and there where every class has three images.
    """
    clean = next(iter(measured.values())).moments(CLEAN)
    rows = []
    for tag, scale in payload.scales.items():
        correlations = _correlations(measured[tag].probes(), payload.levels)
        for level in payload.levels:
            moments = measured[tag].moments(level)
            each = _of_classes(moments, clean, measured[tag].mixing(level), correlations[level])
            by_class = {name: _rounded(asdict(one)) for name, one in zip(classes, each, strict=True)}
            rows.append({"guidance": scale, "level": level} | _rounded(asdict(averaged(each))) | {"classes": by_class})
    return rows


def _of_classes(
    moments: Moments,
    clean: Moments,
    mixing: tuple[float, float],
    correlations: Sequence[tuple[float, float]] | None,
) -> list[Diagnostics]:
    signal, noise = mixing
    variance = clean.variance()
    rows = diagnostics(moments, clean, signal**2, correlations)
    # A flow mixes other shares of signal and noise than a diffusion, whose squares sum to 1.
    return [
        replace(row, predicted_variance=signal**2 * float(variance[label].mean()) + noise**2)
        for label, row in enumerate(rows)
    ]


def _correlations(probes: Iterable[Latents], levels: Sequence[int]) -> dict[int, list[tuple[float, float]] | None]:
    """By level those of every class; None where a class has too few images."""
    by_level: dict[int, list[tuple[float, float]]] = {level: [] for level in levels}
    enough = True
    for of_class in probes:
        enough &= len(of_class) >= _CORRELATE
        for level in levels if enough else ():
            by_level[level].append(correlation(of_class.at[level]))
    return {level: rows if enough else None for level, rows in by_level.items()}


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value if value is None else float(f"{value:.6g}") for name, value in figures.items()}
