"""What the report shows of `augment`: views next to the picture they were made of, with their boxes and what was drawn by lot.

Which pictures are shown is decided by key order alone. Boxes are those of the samples' `json`, and of the original as the stage
took them along.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augment.errors import PolicyError
from augment.policy import load
from pipelines.images.annotations import foreground, read_annotations
from pipelines.images.process import decode_rgb
from pipelines.outcomes import Outcome
from pipelines.report.blocks import Box, BoxGrid, Sentences, Shown
from pipelines.report.pictures import picture_of
from pipelines.report.reading import Outputs, inner, object_of
from pipelines.report.section import Options, Section
from pipelines.report.words import FIXED, grouped, listed, number, one_line
from pipelines.shards.dataset import Dataset

#: Sets, originals of a set, and views of an original that are shown at the most.
SETS, ORIGINALS, VIEWS = 8, 4, 4
#: Longest side of a picture on the page, and of the thumbnail of a larger one, pixels.
SIDE = 144


def section(outputs: Outputs, options: Options) -> Section | None:
    """A grid for each set of views; None when there are none."""
    grids = view_grids(outputs)
    if not grids:
        return None
    note = Sentences(
        [
            "Left is the original, the first by key. What was drawn for a view stands under it; boxes move with the pixels."
        ],
        quiet=True,
    )
    return Section("views", "Augmented views", 45, blocks=[note, *grids])


def view_grids(outputs: Outputs) -> list[BoxGrid]:
    """A grid for each set of views of a finished `augment`; none when it has not run."""
    if not outputs.done("augment"):
        return []
    params = inner(outputs.stages["augment"].config, "augment")
    stage, _, part = str(params.get("source", "")).partition("/")
    source = outputs.dataset(stage, part) if stage in outputs.stages else None
    metrics = outputs.json("augment", "metrics.json")
    grids = []
    for name in sorted(metrics)[:SETS]:
        dataset = outputs.dataset("augment", name)
        settings, facts = inner(inner(params, "sets"), name), inner(metrics, name)
        if dataset is not None and len(dataset):
            policy = settings.get("policy")
            policy = policy if isinstance(policy, str) else json.dumps(policy, ensure_ascii=False)
            grids.append(BoxGrid(name, policy, _summary(facts), _rows(dataset, source, settings), open=1))
    return grids


def _summary(facts: Mapping[str, Any]) -> str:
    """`400 views, 4 each of 100 images. 380 boxes came along, 20 were dropped.`"""
    views, images = (grouped(number(facts.get(field))) for field in ("samples", "images"))
    text = f"{views} views, {one_line(facts.get('views'))} each of {images} images."
    boxes = {name: number(count) for name, count in inner(facts, "boxes").items()}
    if boxes:
        kept, lost = boxes.get("annotations", 0), boxes.get("dropped", 0)
        text += f" {grouped(kept)} boxes came along, {grouped(lost)} ended outside or too small."
        others = [
            f"{grouped(count)} {name.replace(':', ' ').replace('_', ' ')}"
            for name, count in boxes.items()
            if ":" in name
        ]
        text += f" Of the originals' annotations: {listed(others)}." if others else ""
    return text


def _rows(dataset: Dataset, source: Dataset | None, settings: Mapping[str, Any]) -> list[list[Shown]]:
    columns = ["key", "label", "label_name", "width", "height", "members", "parents", "params"]
    rows = dataset.rows(columns)
    order = pc.sort_indices(rows["key"])
    chosen: defaultdict[str, list[int]] = defaultdict(list)
    parents = rows["parents"].to_pylist()
    for place in order.to_pylist():
        (parent,) = parents[place] or [""]
        if parent in chosen or len(chosen) < ORIGINALS:
            chosen[parent].append(place)
        else:
            break
    originals = _originals(source, list(chosen), settings)
    places = [place for own in chosen.values() for place in own[:VIEWS]]
    views = rows.take(pa.array(places)).to_pylist()
    records = [object_of(row["params"]) for row in views]
    texts = drawn([record.get("draws") for record in records], _order(settings.get("policy")))
    shown: dict[str, list[Shown | None]] = {parent: [originals.get(parent)] for parent in chosen}
    for row, record, text in zip(views, records, texts, strict=True):
        (parent,) = row["parents"] or [""]
        shown[parent].append(_view(dataset, row, f"view {record.get('view')}", text))
    return [[one for one in row if one is not None] for row in shown.values()]


def _view(dataset: Dataset, row: Mapping[str, Any], title: str, text: Sequence[tuple[str, str]]) -> Shown | None:
    picture = picture_of(dataset, row, f"{title} of {row['label_name'] or row['key']}", SIDE, SIDE)
    if picture is None:
        return None
    annotations = _described(dataset, row).get("annotations")
    boxes = _boxes(annotations, row) if annotations is not None else []
    return Shown(title, picture, row["width"], row["height"], boxes, text)


def _order(policy: Any) -> dict[str, int]:
    """The place of every operation in a policy, by its path in a row's draws."""
    try:
        return {leaf.path: place for place, leaf in enumerate(load(policy).leaves)}
    except PolicyError:
        return {}


def drawn(views: Sequence[Any], order: Mapping[str, int]) -> list[list[tuple[str, str]]]:
    """For each view what acted on it, in the policy's order: `("rotate", "degrees 12.3")`. Seeds of noise say nothing and are left out."""
    lines = []
    for view in (view if isinstance(view, Mapping) else {} for view in views):
        paths = sorted(view, key=lambda path: (order.get(path, len(order)), path))
        lines.append([(path, _values(view[path])) for path in paths])
    return lines


def _values(drawn_values: Any) -> str:
    values = drawn_values if isinstance(drawn_values, Mapping) else {}
    named = {name: _value(value) for name, value in values.items() if name != "seed"}
    return ", ".join(f"{name.replace('_', FIXED)}{FIXED}{text}" for name, text in named.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"{FIXED}".join(_value(item) for item in value)
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("-", "−")


def _originals(source: Dataset | None, keys: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Shown]:
    if source is None:
        return {}
    columns = ["key", "label", "label_name", "width", "height", "members"]
    rows = source.rows(columns)
    rows = rows.filter(pc.is_in(rows["key"], pa.array(keys, pa.string()))).to_pylist()
    originals = {}
    for row in rows:
        picture = picture_of(source, row, row["label_name"] or row["key"], SIDE, SIDE)
        if picture is not None:
            boxes = _source_boxes(source, row, settings)
            title = row["label_name"] or "original"
            originals[row["key"]] = Shown(title, picture, row["width"], row["height"], boxes, [])
    return originals


def _source_boxes(source: Dataset, row: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Box]:
    if settings.get("boxes") == "foreground":
        pixels = decode_rgb(source.read_image_bytes(row["shard"], row["key"], row["members"]))
        if isinstance(pixels, Outcome):
            return []
        return _corners(foreground(pixels, int(settings.get("threshold", 0)), row["label"]).boxes)
    if settings.get("boxes") == "drop":
        return []
    return _boxes(_described(source, row).get("annotations", []), row)


def _boxes(annotations: Any, row: Mapping[str, Any]) -> list[Box]:
    try:
        return _corners(read_annotations(annotations, row["width"], row["height"]).boxes)
    except ValueError:
        return []


def _corners(boxes: np.ndarray) -> list[Box]:
    """x, y, width and height of boxes that are given by two corners."""
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]


def _described(dataset: Dataset, row: Mapping[str, Any]) -> dict[str, Any]:
    return object_of(dataset.read(row["shard"], row["key"], row["members"], ["json"]).get("json"))
