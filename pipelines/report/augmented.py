"""Views that `augment` made, next to the picture they were made of, with boxes drawn and what was drawn by lot beneath.

Which pictures are shown is decided by key order alone. Boxes are those of the samples' `json`, and of the original as the stage
took them along.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from augment.errors import PolicyError
from augment.policy import load
from pipelines.images.annotations import foreground, read_annotations
from pipelines.images.process import decode_rgb
from pipelines.outcomes import Outcome
from pipelines.report.pictures import Picture, picture_of
from pipelines.report.reading import Outputs
from pipelines.report.words import FIXED, grouped, listed
from pipelines.shards.dataset import Dataset

#: Sets, originals of a set, and views of an original that are shown at the most.
SETS, ORIGINALS, VIEWS = 8, 4, 4
#: Longest side of a picture on the page, and of the thumbnail of a larger one, pixels.
SIDE = 144

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """One picture of `width` x `height` stored pixels; `boxes` x, y, width, height in these; `drawn` name and values."""

    title: str
    picture: Picture
    width: int
    height: int
    boxes: Sequence[Box]
    drawn: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """A set of views: the policy as it was written, what was made, and rows of an original and its views."""

    name: str
    policy: str
    summary: str
    rows: Sequence[Sequence[Shown]]


def view_grids(outputs: Outputs) -> list[Grid]:
    """A grid for each set of views of a finished `augment`; none when it has not run."""
    if not outputs.done("augment"):
        return []
    params = outputs.stages["augment"].config.get("augment", {})
    stage, _, part = str(params.get("source", "")).partition("/")
    source = outputs.dataset(stage, part) if stage in outputs.stages else None
    made = outputs.json("augment", "metrics.json")
    grids = []
    for name in sorted(made)[:SETS]:
        dataset = outputs.dataset("augment", name)
        settings = params.get("sets", {}).get(name, {})
        if dataset is not None and len(dataset):
            policy = settings.get("policy")
            policy = policy if isinstance(policy, str) else json.dumps(policy, ensure_ascii=False)
            grids.append(Grid(name, policy, _summary(made[name]), _rows(dataset, source, settings)))
    return grids


def _summary(facts: Mapping[str, Any]) -> str:
    """`400 views, 4 each of 100 images. 380 boxes came along, 20 were dropped.`"""
    text = f"{grouped(facts.get('samples'))} views, {facts.get('views')} each of {grouped(facts.get('images'))} images."
    boxes = facts.get("boxes") or {}
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
    places = [place for found in chosen.values() for place in found[:VIEWS]]
    views = rows.take(pa.array(places)).to_pylist()
    records = [_parsed(row["params"]) for row in views]
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
    """For each view what acted on it, in the policy's order: `("rotate", "degrees 12.3")`.

    Seeds of noise are left out, and values that are the same wherever the operation acts: nobody drew them.
    """
    different: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    known = [view if isinstance(view, Mapping) else {} for view in views]
    for view in known:
        for path, values in view.items():
            for name, value in values.items():
                different[path, name].add(_value(value))
    found = []
    for view in known:
        lines = []
        for path in sorted(view, key=lambda path: (order.get(path, len(order)), path)):
            told = {name: _value(value) for name, value in view[path].items() if name != "seed"}
            parts = [
                f"{name.replace('_', FIXED)}{FIXED}{text}"
                for name, text in told.items()
                if len(different[path, name]) > 1 or len(known) == 1
            ]
            lines.append((path, ", ".join(parts)))
        found.append(lines)
    return found


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
    found = {}
    for row in rows:
        picture = picture_of(source, row, row["label_name"] or row["key"], SIDE, SIDE)
        if picture is not None:
            boxes = _source_boxes(source, row, settings)
            title = row["label_name"] or "original"
            found[row["key"]] = Shown(title, picture, row["width"], row["height"], boxes, [])
    return found


def _source_boxes(source: Dataset, row: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Box]:
    if settings.get("boxes") == "foreground":
        pixels = decode_rgb(source.read_image_bytes(row["shard"], row["key"], row["members"]))
        if isinstance(pixels, Outcome):
            return []
        found = foreground(pixels, int(settings.get("threshold", 0)), row["label"]).boxes
        return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in found.tolist()]
    if settings.get("boxes") == "drop":
        return []
    return _boxes(_described(source, row).get("annotations", []), row)


def _boxes(annotations: Any, row: Mapping[str, Any]) -> list[Box]:
    try:
        found = read_annotations(annotations, row["width"], row["height"]).boxes
    except ValueError:
        return []
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in found.tolist()]


def _described(dataset: Dataset, row: Mapping[str, Any]) -> dict[str, Any]:
    return _parsed(dataset.read(row["shard"], row["key"], row["members"], ["json"]).get("json"))


def _parsed(text: str | bytes | None) -> dict[str, Any]:
    try:
        form = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return form if isinstance(form, dict) else {}
