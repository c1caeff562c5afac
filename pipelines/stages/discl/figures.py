"""Yields of spectra by level and by class: made, tries, kept, and mean scores. Arithmetic on what markers say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.runtime.units import Marker


def yields(spread: Iterable[Marker], admitted: Iterable[Marker], classes: Sequence[str]) -> dict[str, Any]:
    """What became of every cell, by level and by class name."""
    levels: dict[str, list[float]] = {}
    names: dict[str, list[float]] = {}
    for marker in spread:
        for level, by_label in marker.summary["cells"].items():
            for label, (made, tries, text, source) in by_label.items():
                for sums in _sums_of(levels, level), _sums_of(names, classes[int(label)]):
                    for place, value in enumerate((made, tries, text, source)):
                        sums[place] += value
    for marker in admitted:
        for level, kept_of in marker.summary["kept"].items():
            for label, count in kept_of.items():
                _sums_of(levels, level)[4] += count
                _sums_of(names, classes[int(label)])[4] += count
    ordered = sorted(levels, key=int)
    return {
        "levels": {level: _yield(levels[level]) for level in ordered},
        "classes": {name: _yield(sums) for name, sums in names.items()},
    }


def _sums_of(form: dict[str, list[float]], name: str) -> list[float]:
    return form.setdefault(name, [0, 0, 0.0, 0.0, 0])


def _yield(sums: Sequence[float]) -> dict[str, Any]:
    made, tries, text, source, kept = sums
    return {
        "images": int(made),
        "tries": int(tries),
        "kept": int(kept),
        "text_cosine": round(text / made, 4) if made else None,
        "source_cosine": round(source / made, 4) if made else None,
    }
