"""What is said of a picture beside it, a JSON object with COCO `annotations`, made true of the picture as it is stored.

Boxes go through the same resize, cut and padding as the pixels. Where the picture keeps its size, annotations are kept as they
are. Else outlines and keypoints are left out, an item is dropped when less than half of it is left or less than a pixel, and
`annotations_left_out` counts both. Crowds stay: an evaluation needs them to know where not to look.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from pipelines.images.annotations import UNFIT, stable_id, unfit
from pipelines.images.geometry import Plan, move_boxes, plan
from pipelines.images.params import ImageParams
from pipelines.images.process import Processed

#: Least visible share of a box, and its least side in pixels (gen2det's order of sanitising).
LEAST_VISIBLE, LEAST_SIDE = 0.5, 1.0
_SIDES = ("height", "width")


def stored_document(document: Any, key: str, image: Processed, params: ImageParams) -> dict[str, Any]:
    """The document for the stored picture `image`; `image_id` and ids from 1 are kept, others follow from the key.

    ValueError, one sentence, when the annotations are not COCO's or belong to a picture of another size.
    """
    size = (image.src_height, image.src_width)
    sides = tuple(size[place] if document.get(name) is None else document[name] for place, name in enumerate(_SIDES))
    if sides != size:
        turned = image.orientation >= 5 and sides == size[::-1]
        why = "; they were made before the picture was turned upright, as its EXIF orientation says" if turned else ""
        raise ValueError(
            f"annotations are of a picture of {sides[1]}x{sides[0]}, but it has {size[1]}x{size[0]}{why}"[:300]
        )
    items = document["annotations"]
    boxes = _boxes(items)
    sizes = plan(size, params) or Plan(size, size)
    moves = not sizes.resized == sizes.final == size
    left_out: Counter[str] = Counter()
    image_id = document.get("image_id")
    image_id = image_id if _whole(image_id, 0) else stable_id(key)
    stored = []
    after = move_boxes(boxes, size, sizes)
    clipped = np.clip(after, 0.0, np.array([sizes.final[1], sizes.final[0]] * 2, np.float64))
    for place, item in enumerate(items):
        item = dict(item)
        if moves:
            x1, y1, x2, y2 = (float(value) for value in clipped[place])
            whole = float(np.prod(after[place, 2:] - after[place, :2]))
            width, height = x2 - x1, y2 - y1
            if min(width, height) < LEAST_SIDE or width * height < LEAST_VISIBLE * whole:
                left_out["no_area"] += 1
                continue
            left_out.update(unfit([item]))
            item = {name: value for name, value in item.items() if name not in UNFIT}
            item["bbox"] = [round(value, 4) for value in (x1, y1, width, height)]
            item["area"] = round(width * height, 4)
        number = item.get("id")
        item |= {"image_id": image_id, "id": number if _whole(number, 1) else stable_id(f"{key}/{place}")}
        stored.append(item)
    facts = {name: value for name, value in document.items() if name != "annotations_left_out"}
    if moves and "description" in facts:
        facts["description"] = _moved_description(facts["description"], size, sizes)
    facts |= {"annotations": stored, "image_id": image_id, "file_name": f"{key}.{image.ext}"}
    return facts | ({"annotations_left_out": dict(left_out)} if left_out else {})


def annotations_problem(document: Any) -> str | None:
    """Why the annotations of a document can be true of no picture; None where that depends on the picture."""
    try:
        _boxes(document["annotations"])
    except ValueError as error:
        return str(error)
    return None


def _moved_description(description: Any, size: tuple[int, int], sizes: Plan) -> Any:
    """The description with the `box` (x1, y1, x2, y2) of each of its `objects` moved and clipped."""
    objects = description.get("objects") if isinstance(description, dict) else None
    if not isinstance(objects, list):
        return description
    moved = []
    for item in objects:
        box = item.get("box") if isinstance(item, dict) else None
        if isinstance(box, list) and len(box) == 4 and all(_finite(value) for value in box):
            after = move_boxes(np.array([box], np.float64), size, sizes)[0]
            inside = np.clip(after, 0.0, np.array([sizes.final[1], sizes.final[0]] * 2, np.float64))
            item = item | {"box": [round(float(value), 4) for value in inside]}
        moved.append(item)
    return description | {"objects": moved}


def _boxes(items: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(k, 4) x1, y1, x2, y2 of COCO dicts, unclipped."""
    if not isinstance(items, list):
        raise ValueError(f"annotations are a list, not {type(items).__name__}")
    boxes = []
    for place, item in enumerate(items):
        box = item.get("bbox") if isinstance(item, dict) else None
        if not (isinstance(box, list) and len(box) == 4 and all(_finite(value) for value in box)):
            raise ValueError(f"annotation {place} has no bbox of four numbers: {box!r}"[:200])
        x, y, width, height = box
        boxes.append([x, y, x + width, y + height])
    return np.array(boxes, np.float64).reshape(-1, 4)


def _finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
