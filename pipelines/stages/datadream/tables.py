"""DataDream's tables besides the controls: what the filters dropped, and how good the images are.

What is not there or not a number becomes a dash, and a table without figures is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.datadream.section import VARIANTS
from pipelines.report.blocks import Table
from pipelines.report.reading import inner
from pipelines.report.words import UNKNOWN, grouped, number, share

#: Quality figures in the order of the table: name in metrics.json -> column.
FIGURES = {
    "fid": "FID",
    "kid": "KID",
    "cmmd": "CMMD",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "vendi": "Vendi",
    "vendi_real": "Vendi of real",
    "nearest_mean": "nearest real, mean",
    "nearest_max": "nearest real, largest",
}


def filter_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """What the filters dropped and why, by variant and few-shot set."""
    sets = [(f"{VARIANTS[v]}, {_tag(tag)}", form) for v, tags in metrics.items() for tag, form in _forms(tags)]
    if not sets:
        return None
    reasons = sorted({reason for _, form in sets for reason in inner(form, "dropped")})
    rows = []
    for name, form in sets:
        images, kept = number(form.get("images")), number(form.get("kept"))
        counts = [grouped(number(inner(form, "dropped").get(reason, 0))) for reason in reasons]
        adapters = number(inner(form, "adapters").get("adapters"))
        rows.append([name, grouped(adapters), grouped(images), grouped(kept), share(kept, images), *counts])
    head = ("images", "adapters", "made", "kept", "share", *(reason.replace("_", " ") for reason in reasons))
    note = "" if reasons else "No image was dropped."
    return Table("What the filters did", head, rows, note=note)


def quality_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Figures of what was generated and of what was kept; None where no set has any."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    against: set[str] = set()
    for variant, tags in metrics.items():
        for tag, form in _forms(tags):
            quality = inner(form, "quality")
            for part in ("generated", "kept"):
                overall = inner(inner(quality, part), "overall")
                if overall:
                    rows.append((f"{VARIANTS[variant]}, {_tag(tag)}, {part}", overall))
                    against.add(f"{quality.get('against', UNKNOWN)} by {quality.get('features', UNKNOWN)} features")
    shown = [name for name in FIGURES if any(number(figures.get(name)) is not None for _, figures in rows)]
    if not shown:
        return None
    cells = [
        [name, grouped(number(figures.get("generated"))), *(_figure(figures.get(one)) for one in shown)]
        for name, figures in rows
    ]
    note = f"Against split/{', '.join(sorted(against))}. Distances: lower is nearer; compare at equal numbers of images only."
    return Table("Quality of the images", ("images", "count", *(FIGURES[name] for name in shown)), cells, note=note)


def _forms(tags: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(tag, tags[tag]) for tag in sorted(tags) if isinstance(tags[tag], dict)]


def _tag(tag: str) -> str:
    """`shots04-seed0` -> `4 shots, seed 0`; zero-shot images know no real ones."""
    shots, _, seed = tag.partition("-")
    count = shots.removeprefix("shots").lstrip("0")
    return f"{count} shots, seed {seed.removeprefix('seed')}" if count else "no real images"


def _figure(value: Any) -> str:
    figure = number(value)
    return UNKNOWN if figure is None else f"{figure:.3g}".replace("-", "−")
