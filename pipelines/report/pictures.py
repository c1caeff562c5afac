"""Pictures of the report: stored images of datasets as data URIs.

Small images are embedded as they are stored, byte for byte, and shown pixel by pixel; large ones as thumbnails. Which
ones is decided by key order alone: keys of real images are hashes, so the choice is random but for ever the same.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.images.params import STORED_CAPS, ImageParams
from pipelines.images.process import process
from pipelines.outcomes import Outcome
from pipelines.report.blocks import ClassStrip, Picture
from pipelines.report.words import grouped
from pipelines.shards.dataset import Dataset

#: Longest side that is embedded as it is stored, pixels.
NATIVE = 64
#: Longest side of the thumbnails of larger images, pixels.
THUMBNAIL = 96
#: Classes that are shown at the most, and characters of data URIs that the pictures of a section may take together.
CLASSES, BUDGET = 24, 2_000_000

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def name_of(names: Sequence[str], label: int) -> str:
    """The class name, or the number when there is none."""
    return names[label] if 0 <= label < len(names) else f"class {label}"


def first_by_key(dataset: Dataset, count: int) -> dict[int, list[str]]:
    """The first `count` keys of every label."""
    columns = dataset.rows(["key", "label"])
    keys, labels = columns["key"].to_pylist(), columns["label"].to_pylist()
    chosen: defaultdict[int, list[str]] = defaultdict(list)
    for place in np.argsort(np.array(keys, dtype=object), kind="stable").tolist():
        label = labels[place]
        if label is not None and len(chosen[label]) < count:
            chosen[label].append(keys[place])
    return dict(chosen)


def pictures_of(
    dataset: Dataset | None, keys: Mapping[int, Sequence[str]], labels: Iterable[int], names: Sequence[str]
) -> dict[int, list[Picture]]:
    """The pictures of the `keys` of each of `labels`, in their order; those that do not decode are left out."""
    if dataset is None:
        return {}
    columns = ["key", "width", "height", "members"]
    wanted = {key for label in labels for key in keys.get(label, [])}
    rows = dataset.rows(columns)
    places = [place for place, key in enumerate(rows["key"].to_pylist()) if key in wanted]
    by_key = {row["key"]: row for row in rows.take(places).to_pylist()}
    shown = {}
    for label in labels:
        own = (by_key[key] for key in keys.get(label, []) if key in by_key)
        pictures = (picture_of(dataset, row, name_of(names, label)) for row in own)
        shown[label] = [picture for picture in pictures if picture is not None]
    return shown


def picture_of(
    dataset: Dataset, row: Mapping[str, Any], name: str, thumbnail: int = THUMBNAIL, side: int = NATIVE
) -> Picture | None:
    """A stored image for the page, as large as whole multiples of it go into `side`; None when it does not decode."""
    images = [span for span in row["members"] or [] if span["ext"] in _MEDIA]
    if not images:
        return None
    raw, ext = dataset.read_image_bytes(row["shard"], row["key"], images), images[0]["ext"]
    size = (row["width"] or 0, row["height"] or 0)
    return encoded_picture(raw, ext, size, f"{name}, {row['key']}", thumbnail, side)


def encoded_picture(
    raw: bytes, ext: str, size: tuple[int, int], alt: str, thumbnail: int = THUMBNAIL, side: int = NATIVE
) -> Picture | None:
    """An encoded image of `size` (width, height) for the page, as `picture_of`."""
    width, height = size
    if not 0 < max(width, height) <= NATIVE:
        resized = process(
            raw, ImageParams(resize="longer", size=thumbnail, format="jpeg", quality=82, limits=STORED_CAPS)
        )
        if isinstance(resized, Outcome):
            return None
        raw, ext, width, height = resized.data, resized.ext, resized.width, resized.height
    scale = max(side // max(width, height), 1)
    uri = f"data:{_MEDIA[ext]};base64,{base64.b64encode(raw).decode()}"
    return Picture(uri, alt, width * scale, height * scale, max(width, height) <= NATIVE)


def side_by_side(sources: int) -> int:
    """How many pictures of each of so many sources stand in one line of a wide page: more would break into a second one."""
    return {1: 16, 2: 8, 3: 5, 4: 4}.get(sources, 3)


def within_budget(rows: Sequence[ClassStrip], count: int) -> tuple[list[ClassStrip], int]:
    """The same rows with so few pictures a source that they stay light together, and how many that are at the most."""
    shown = list(rows)
    while count > 1 and sum(len(one.uri) for row in shown for source in row.sources for one in source) > BUDGET:
        count -= 1
        shown = [replace(row, sources=[source[:count] for source in row.sources]) for row in rows]
    return shown, count


def left_out(classes: int, shown: int, count: int, asked: int) -> str:
    """A sentence for each limit that the pictures met; empty when all are there."""
    sentences = []
    if classes > shown:
        sentences.append(f"The first {shown} of {grouped(classes)} classes are shown.")
    if count < asked:
        sentences.append(f"At most {count} instead of {asked} images a class, to keep the page light.")
    return " ".join(sentences)
