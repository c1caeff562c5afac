"""COCO annotations of one picture: boxes out as an array, and back as annotations that are true of another picture.

A picture's `json` holds whole COCO dicts (`bbox` x, y, width, height in pixels of the stored image). What is done to them follows
gen2det's order: crowds out, clip, transform (elsewhere), and the area anew from the box that is left. Outlines (`segmentation`)
and `keypoints` are taken away and counted, since a flip would also have to exchange left and right.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from pipelines.images.colour import Pixels

Boxes = np.ndarray[Any, np.dtype[np.float64]]

#: Parts of an annotation that do not follow a box.
UNFIT = ("segmentation", "keypoints", "num_keypoints")


@dataclass(frozen=True)
class Annotations:
    """`boxes` (k, 4) float64 x1, y1, x2, y2 inside the picture, the dict of each, and what was left out by reason."""

    boxes: Boxes
    items: Sequence[Mapping[str, Any]]
    left_out: Counter[str] = field(default_factory=Counter)


def read_annotations(listed: Any, width: int, height: int) -> Annotations:
    """The annotations of a picture; ValueError, one sentence, when they are not what COCO writes."""
    if not isinstance(listed, list):
        raise ValueError(f"annotations are a list, not {type(listed).__name__}")
    boxes: list[list[float]] = []
    items: list[Mapping[str, Any]] = []
    left_out: Counter[str] = Counter()
    for place, item in enumerate(listed):
        box = item.get("bbox") if isinstance(item, Mapping) else None
        if not (isinstance(box, list) and len(box) == 4 and all(_finite(value) for value in box)):
            raise ValueError(f"annotation {place} has no bbox of four numbers: {box!r}"[:200])
        x, y, w, h = box
        clipped = [min(max(x, 0), width), min(max(y, 0), height), min(max(x + w, 0), width), min(max(y + h, 0), height)]
        if item.get("iscrowd"):
            left_out["crowd"] += 1
        elif clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            left_out["no_area"] += 1
        else:
            boxes.append([float(value) for value in clipped])
            items.append(item)
    return Annotations(np.array(boxes, np.float64).reshape(-1, 4), items, left_out)


def foreground(pixels: Pixels, threshold: int, label: int | None) -> Annotations:
    """One box round all pixels (H, W, 3) with a channel above `threshold`; none where there is no such pixel.

    For pictures of one thing on a plain dark background. The category is the label plus one: COCO counts from 1.
    """
    bright = pixels.max(axis=2) > threshold
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        return Annotations(np.zeros((0, 4)), [], Counter(no_foreground=1))
    box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
    return Annotations(np.array([box]), [{"category_id": 1 if label is None else label + 1}])


def moved(
    before: Annotations, boxes: Boxes, places: Sequence[int], image_id: int | str, view: int, views: int
) -> list[dict[str, Any]]:
    """Annotations for the boxes (m, 4) of `before` that are left, `places` (m,) their places; other fields are carried."""
    annotations = []
    for box, place in zip(boxes, places, strict=True):
        x1, y1, x2, y2 = (round(float(value), 4) for value in box)
        w, h = round(x2 - x1, 4), round(y2 - y1, 4)
        item = {name: value for name, value in before.items[place].items() if name not in UNFIT}
        number = item.get("id")
        annotations.append(
            item
            | {
                "id": numbered(number, view, views) if _whole(number) else stable_id(f"{image_id}/{place}"),
                "image_id": image_id,
                "bbox": [x1, y1, w, h],
                "area": round(w * h, 4),
                "iscrowd": 0,
            }
        )
    return annotations


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return both / (sum(areas) - both)


def unfit(items: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many annotations lose which field."""
    return Counter(name for item in items for name in UNFIT if item.get(name))


def image_id_of(stated: Any, key: str, view: int, views: int) -> int:
    """The id of a view's picture, from the parent's where that is a number, else from the view's key."""
    return numbered(stated, view, views) if _whole(stated) else stable_id(key)


def numbered(number: int, view: int, views: int) -> int:
    """Another id for each of `views` views, unique where the given ones are, and from 1 on as COCO's tools want it."""
    return number * views + view + 1


def stable_id(name: str) -> int:
    """A positive 52-bit integer (exact in JSON everywhere) that belongs to a name."""
    return (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 12) + 1


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
