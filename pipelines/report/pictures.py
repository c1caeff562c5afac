"""Pictures of the report: per class a few real and a few distilled images, as data URIs.

Small images are embedded as they are stored, byte for byte, and shown pixel by pixel; large ones as thumbnails. Which
ones is decided by key order alone: keys of real images are hashes, so the choice is random but for ever the same.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.images.params import STORED_CAPS, ImageParams
from pipelines.images.process import process
from pipelines.outcomes import Outcome
from pipelines.report.words import grouped
from pipelines.shards.dataset import Dataset

#: Longest side that is embedded as it is stored, pixels.
NATIVE = 64
#: Longest side of the thumbnails of larger images, pixels.
THUMBNAIL = 96
#: Classes that are shown at the most, and characters of data URIs that all pictures may take together.
CLASSES, BUDGET = 24, 2_000_000

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """An image to show: `width` x `height` are CSS pixels, a whole multiple of the stored ones when `crisp`."""

    uri: str
    alt: str
    width: int
    height: int
    crisp: bool


@dataclass(frozen=True)
class ClassRow:
    """The pictures of one class."""

    name: str
    real: Sequence[Picture]
    distilled: Sequence[Picture]


@dataclass(frozen=True)
class Gallery:
    """All rows, the part the real ones come from, and what was left out and why."""

    rows: Sequence[ClassRow]
    part: str
    note: str

    @property
    def any_real(self) -> bool:
        return any(row.real for row in self.rows)

    @property
    def any_distilled(self) -> bool:
        return any(row.distilled for row in self.rows)


def gallery(real: Dataset | None, part: str, distilled: Dataset | None, per_class: int) -> Gallery | None:
    """Up to `per_class` pictures of each side per class; fewer when the page would grow too heavy. None without any."""
    sides = [_pick(dataset, per_class) if dataset is not None else {} for dataset in (real, distilled)]
    names = _names(real, distilled)
    labels = sorted(set().union(*sides))
    shown = labels[:CLASSES]
    if not shown:
        return None
    datasets = (real, distilled)
    pictures = [
        {label: _pictures(dataset, side.get(label, []), name_of(names, label)) for label in shown} if dataset else {}
        for dataset, side in zip(datasets, sides, strict=True)
    ]
    rows = [ClassRow(name_of(names, c), pictures[0].get(c, []), pictures[1].get(c, [])) for c in shown]
    lost = sum(len(side.get(c, [])) for side in sides for c in shown)
    lost -= sum(len(row.real) + len(row.distilled) for row in rows)
    rows, kept = _within_budget(rows, per_class)
    notes = []
    if lost:
        notes.append(f"{lost} of the chosen images could not be decoded and are missing here: run limbeck lint.")
    if len(labels) > len(shown):
        notes.append(f"The first {len(shown)} of {grouped(len(labels))} classes are shown.")
    if kept < per_class:
        notes.append(f"At most {kept} instead of {per_class} images a class, to keep the page light.")
    return Gallery(rows, part, " ".join(notes))


def name_of(names: Sequence[str], label: int) -> str:
    """The class name, or the number when there is none."""
    return names[label] if 0 <= label < len(names) else f"class {label}"


def _names(*datasets: Dataset | None) -> list[str]:
    return next((dataset.classes for dataset in datasets if dataset is not None and dataset.classes), [])


def _pick(dataset: Dataset, count: int) -> dict[int, list[dict[str, Any]]]:
    """Rows of the first `count` keys of every label."""
    keys = dataset.rows(["key", "label"])
    order = np.argsort(np.array(keys["key"].to_pylist(), dtype=object), kind="stable")
    labels = keys["label"].to_pylist()
    chosen: defaultdict[int, list[int]] = defaultdict(list)
    for place in order.tolist():
        label = labels[place]
        if label is not None and len(chosen[label]) < count:
            chosen[label].append(place)
    wanted = [place for label in sorted(chosen)[:CLASSES] for place in chosen[label]]
    rows = dataset.rows(["key", "width", "height", "members"]).take(wanted).to_pylist()
    found = iter(rows)
    picked = {label: [next(found) for _ in chosen[label]] for label in sorted(chosen)[:CLASSES]}
    return picked | {label: [] for label in chosen if label not in picked}


def _pictures(dataset: Dataset, rows: Iterable[dict[str, Any]], name: str) -> list[Picture]:
    return [picture for row in rows if (picture := picture_of(dataset, row, name)) is not None]


def picture_of(
    dataset: Dataset, row: Mapping[str, Any], name: str, thumbnail: int = THUMBNAIL, side: int = NATIVE
) -> Picture | None:
    """A stored image for the page, as large as whole multiples of it go into `side`; None when it does not decode."""
    images = [span for span in row["members"] or [] if span["ext"] in _MEDIA]
    if not images:
        return None
    raw, ext = dataset.read_image_bytes(row["shard"], row["key"], images), images[0]["ext"]
    width, height = row["width"] or 0, row["height"] or 0
    if not 0 < max(width, height) <= NATIVE:
        made = process(raw, ImageParams(resize="longer", size=thumbnail, format="jpeg", quality=82, limits=STORED_CAPS))
        if isinstance(made, Outcome):
            return None
        raw, ext, width, height = made.data, made.ext, made.width, made.height
    scale = max(side // max(width, height), 1)
    uri = f"data:{_MEDIA[ext]};base64,{base64.b64encode(raw).decode()}"
    return Picture(uri, f"{name}, {row['key']}", width * scale, height * scale, max(width, height) <= NATIVE)


def _within_budget(rows: Sequence[ClassRow], per_class: int) -> tuple[list[ClassRow], int]:
    kept = per_class
    cut = list(rows)
    while (
        kept > 1
        and sum(len(picture.uri) for row in cut for side in (row.real, row.distilled) for picture in side) > BUDGET
    ):
        kept -= 1
        cut = [replace(row, real=row.real[:kept], distilled=row.distilled[:kept]) for row in rows]
    return cut, kept
