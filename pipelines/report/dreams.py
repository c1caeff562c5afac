"""DataDream in the report: real next to generated images of every class, and the generator's samples. The control table is in
`controls`, what the filters did and how good the images are in `dream_tables`.

Columns of a class show the same ordinals of every variant, which start from the same noise; nobody chose them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.images.params import STORED_CAPS, ImageParams
from pipelines.images.probe import probe
from pipelines.images.process import process
from pipelines.outcomes import Outcome
from pipelines.report.blocks import Table
from pipelines.report.controls import (
    CONTROL_HEAD,
    CONTROL_NOTE,
    VARIANTS,
    Groups,
    control_protocol,
    control_rows,
    control_sentences,
    is_ours,
    per_class_table,
)
from pipelines.report.dream_tables import filter_table, generator_tables, quality_table
from pipelines.report.pictures import BUDGET, CLASSES, Picture, name_of, picture_of
from pipelines.report.reading import Outputs
from pipelines.report.words import number
from pipelines.shards.dataset import Dataset

#: Images of each source and class at the most, and the longest side of one on the page, pixels.
IMAGES, SIDE = 4, 128
#: A contact sheet of more pixels to a side, or of more bytes, is shown smaller.
SHEET_SIDE, SHEET_BYTES = 800, 1_000_000


@dataclass(frozen=True)
class DreamRow:
    """One class: pictures by source, in the order of the sources."""

    name: str
    sources: Sequence[tuple[str, Sequence[Picture]]]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet of the generator."""

    name: str
    picture: Picture


@dataclass(frozen=True)
class Dreams:
    """All that the section shows."""

    rows: Groups
    heads: Sequence[str]
    note: str
    sentences: Sequence[str]
    protocol: Sequence[tuple[str, str]]
    ours: Sequence[str]
    classes: Sequence[DreamRow]
    classes_note: str
    tables: Sequence[Table]
    sheets: Sequence[Sheet]


def dreams(outputs: Outputs, images: int) -> Dreams | None:
    """The section, or None when no stage of it has finished."""
    form = outputs.json("evaluate@datadream", "results.json")
    made = {item: outputs.json(f"datadream@{item}", "metrics.json") for item in VARIANTS}
    variants = [item for item in VARIANTS if outputs.done(f"datadream@{item}")]
    if not (form or variants or outputs.done("generator")):
        return None
    rows = control_rows(form)
    classes, note = class_rows(outputs, variants, min(images, IMAGES))
    tables = [per_class_table(form), filter_table(made), quality_table(made), *generator_tables(outputs)]
    return Dreams(
        rows,
        CONTROL_HEAD,
        CONTROL_NOTE,
        control_sentences(form),
        control_protocol(form),
        [name for _, arms in rows for name, _ in arms if is_ours(name)],
        classes,
        note,
        [table for table in tables if table is not None],
        contact_sheets(outputs),
    )


def class_rows(outputs: Outputs, variants: Sequence[str], count: int) -> tuple[list[DreamRow], str]:
    """Real few-shot images, then the first ordinals of every variant, of each class; and which set they are of."""
    sets = {variant: _sets(outputs, variant) for variant in variants}
    adapted = [where for variant, found in sets.items() for where in found if where[0]]
    shots, seed = max(adapted, key=lambda where: (where[0], -where[1]), default=(0, 0))
    chosen = {variant: found.get((shots, seed)) or found.get((0, 0), {}) for variant, found in sets.items()}
    labels = sorted({label for by_label in chosen.values() for label in by_label})[:CLASSES]
    if not labels:
        return [], ""
    real = _few_shot(outputs, shots, seed, count)
    names = next((d.classes for v in variants if (d := _made(outputs, v)) is not None), [])
    rows = []
    for label in labels:
        name = name_of(names, label)
        sources = [("real", _shown(real[0], real[1].get(label, []), name))] if real is not None else []
        for variant in variants:
            found = chosen[variant].get(label, [])[:count]
            sources.append((VARIANTS[variant], _shown(_made(outputs, variant), found, name)))
        rows.append(DreamRow(name, [(source, pictures) for source, pictures in sources if pictures]))
    rows = _light(rows, count)
    told = f"{shots} shots, few-shot seed {seed}. " if shots else ""
    # The start noise follows from the few-shot seed, and that of zero-shot images is 0.
    same = " Images of one column start from the same noise." if seed == 0 else ""
    return rows, f"{told}The first by number, before any filter; nobody chose them.{same}"


def _made(outputs: Outputs, variant: str) -> Dataset | None:
    """All that a variant made, before any filter, or what was kept if only that is there."""
    stage = f"datadream@{variant}"
    return outputs.dataset(stage, "generated") or outputs.dataset(stage, "kept")


def _sets(outputs: Outputs, variant: str) -> dict[tuple[int, int], dict[int, list[dict[str, Any]]]]:
    """Rows of a variant's images by (shots, few-shot seed) and label, in order of their ordinal."""
    dataset = _made(outputs, variant)
    found: dict[tuple[int, int], dict[int, list[dict[str, Any]]]] = {}
    if dataset is None:
        return found
    rows = dataset.rows(["key", "label", "width", "height", "members", "params"]).to_pylist()
    told = [(_json(row["params"]), row) for row in rows if row["label"] is not None]
    for form, row in sorted(told, key=lambda one: (number(one[0].get("ordinal")) or 0, one[1]["key"])):
        where = (int(number(form.get("shots")) or 0), int(number(form.get("few_shot_seed")) or 0))
        found.setdefault(where, {}).setdefault(row["label"], []).append(row)
    return found


def _few_shot(
    outputs: Outputs, shots: int, seed: int, count: int
) -> tuple[Dataset, dict[int, list[dict[str, Any]]]] | None:
    """The first real images that adapters of this set were trained on; without a set, the first of the manifest."""
    train = outputs.dataset("split", "train")
    seeds = outputs.json("split", "few_shot.json").get("seeds")
    manifest = (seeds.get(str(seed)) or next(iter(seeds.values()), None)) if isinstance(seeds, dict) else None
    if train is None or not isinstance(manifest, dict):
        return None
    keys = {key for chosen in manifest.values() for key in chosen[: min(shots or count, count)]}
    rows = train.rows(["key", "label", "width", "height", "members"]).to_pylist()
    by_key = {row["key"]: row for row in rows if row["key"] in keys}
    picked = {int(label): [by_key[key] for key in chosen if key in by_key] for label, chosen in manifest.items()}
    return train, picked


def _shown(dataset: Dataset | None, rows: Sequence[Mapping[str, Any]], name: str) -> list[Picture]:
    if dataset is None:
        return []
    found = (picture_of(dataset, row, name, SIDE, SIDE) for row in rows)
    return [picture for picture in found if picture is not None]


def _light(rows: Sequence[DreamRow], count: int) -> list[DreamRow]:
    """Fewer images a source where the page would grow too heavy."""
    kept = list(rows)
    while count > 1 and sum(len(p.uri) for row in kept for _, pictures in row.sources for p in pictures) > BUDGET:
        count -= 1
        kept = [replace(row, sources=[(name, pictures[:count]) for name, pictures in row.sources]) for row in kept]
    return kept


def contact_sheets(outputs: Outputs) -> list[Sheet]:
    """Samples of the generator, whole multiples of their size where they are small."""
    found = []
    for path in outputs.files("generator", "samples"):
        raw = outputs.raw("generator", path) if path.endswith(".png") else None
        if raw is None:
            continue
        size = probe(raw)
        if isinstance(size, Outcome):
            continue
        width, height, media = size.width, size.height, "image/png"
        if max(width, height) > SHEET_SIDE or len(raw) > SHEET_BYTES:
            made = process(
                raw, ImageParams(resize="longer", size=SHEET_SIDE, format="jpeg", quality=85, limits=STORED_CAPS)
            )
            if isinstance(made, Outcome):
                continue
            raw, width, height, media = made.data, made.width, made.height, "image/jpeg"
        scale = max(1, SHEET_SIDE // max(width, height)) if media == "image/png" else 1
        name = path.rsplit("/", 1)[-1].removesuffix(".png")
        uri = f"data:{media};base64,{base64.b64encode(raw).decode()}"
        found.append(Sheet(name, Picture(uri, f"samples of {name}", width * scale, height * scale, scale > 1)))
    return found


def _json(text: Any) -> dict[str, Any]:
    try:
        form = json.loads(text or "{}")
    except ValueError:
        return {}
    return form if isinstance(form, dict) else {}
