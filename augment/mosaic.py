"""Mosaic (Bochkovskiy et al. 2020): four images of one size round a point on one canvas, with their boxes. No stage does this yet:
the one that trains a detector will.

A sample and three partners, each cut where the canvas ends, meet at a point drawn in the middle half of the canvas. Nothing is
resized: what a detector sees of the canvas, the policy that comes after decides. Keys, places and the point are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from augment.errors import PolicyError
from augment.mixing import next_in_order
from augment.seeds import Keys, key_names, operation_seeds, sample_seeds, uniforms

#: Which way a tile lies from the point: left and top, right and top, left and bottom, right and bottom.
_RIGHT, _DOWN = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])


@dataclass(frozen=True, slots=True, eq=False)
class MosaicTable:
    """Which four images of a batch meet in each sample's mosaic, and where.

    `tiles` (n, 4) int64: places in the batch of the images top left, top right, bottom left and bottom right of the point
    `centre` (n, 2) int64, x and y in pixels on a canvas of `size` (height, width). One of the tiles is the sample itself.
    """

    keys: tuple[str | int | float, ...]
    tiles: np.ndarray
    centre: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, index: int) -> dict[str, Any]:
        """Write down what was done to one sample, in values that JSON holds exactly."""
        tiles = [self.keys[place] for place in self.tiles[index]]
        return {"tiles": tiles, "centre": self.centre[index].tolist(), "size": list(self.size)}

    @classmethod
    def from_rows(cls, keys: Keys, rows: Sequence[Mapping[str, Any]]) -> MosaicTable:
        """Read the table that `row` wrote down, for the same samples in any order. `PolicyError` where one of them is missing."""
        names = key_names(keys)
        place = {key: index for index, key in enumerate(names)}
        missing = [key for row in rows for key in row["tiles"] if key not in place]
        if missing:
            raise PolicyError(f"the recorded mosaic needs {missing[0]!r}, which is not in the batch")
        tiles = np.array([[place[key] for key in row["tiles"]] for row in rows], np.int64).reshape(-1, 4)
        centre = np.array([row["centre"] for row in rows], np.int64).reshape(-1, 2)
        return cls(names, tiles, centre, (int(rows[0]["size"][0]), int(rows[0]["size"][1])))


class Mosaic(NamedTuple):
    """Canvases (n, C, H, W) with their boxes: `boxes` (k, 4) float64 on each canvas, those that are left.

    `kept` (k, 2) int64 per canvas says of each box which tile it comes from, 0 to 3, and its place among that image's boxes before.
    """

    images: torch.Tensor
    boxes: list[np.ndarray]
    kept: list[np.ndarray]


def draw_mosaic(keys: Keys, size: tuple[int, int], *, seed: int = 0, epoch: int = 0) -> MosaicTable:
    """Draw one mosaic for each sample of a batch, on canvases of `size` (height, width). `PolicyError` for an empty batch.

    The partners are the three samples with the next larger hashes of their keys, as in `augment.mixing`; a batch of fewer than
    four repeats itself.
    """
    names = key_names(keys)
    if not names:
        raise PolicyError("the batch is empty: there is nothing to lay out")
    numbers = uniforms(operation_seeds(sample_seeds(seed, keys, epoch), ["mosaic"]), np.arange(1, 8, dtype=np.uint64))
    tiles = np.concatenate([np.arange(len(names))[:, None], next_in_order(numbers[:, 0], 3)], 1)
    tiles = np.take_along_axis(tiles, numbers[:, 3:7].argsort(1, kind="stable"), 1)
    centre = ((0.25 + 0.5 * numbers[:, 1:3]) * (size[1], size[0])).astype(np.int64)
    return MosaicTable(names, tiles.astype(np.int64), centre, size)


def apply_mosaic(
    images: torch.Tensor,
    table: MosaicTable,
    boxes: Sequence[np.ndarray] | None = None,
    *,
    fill: float = 114 / 255,
    min_visible: float = 0.5,
    min_side: float = 1.0,
) -> Mosaic:
    """Lay out images (n, C, H, W), uint8 or float in [0, 1], and boxes (k, 4) x1, y1, x2, y2 in pixels, per image, on new canvases.

    A tile's corner lies on the point. Boxes are shifted, clipped to the canvas, and dropped when less than `min_visible` of
    them is left or a side is under `min_side` pixels. `fill` in [0, 1] is where no tile reaches.
    """
    if len(images) != len(table):
        raise PolicyError(f"this mosaic is for {len(table)} images, got {len(images)}")
    height, width = images.shape[2:]
    value = round(fill * 255) if images.dtype == torch.uint8 else fill
    canvas = images.new_full((len(images), images.shape[1], *table.size), value)
    left = table.centre[:, :1] - width * (1 - _RIGHT)
    top = table.centre[:, 1:] - height * (1 - _DOWN)
    canvas_boxes, kept = [], []
    for sample, tiles in enumerate(table.tiles.tolist()):
        here, places = [np.zeros((0, 4))], [np.zeros((0, 2), np.int64)]
        for tile, source in enumerate(tiles):
            x, y = int(left[sample, tile]), int(top[sample, tile])
            (x1, x2), (y1, y2) = _span(x, width, table.size[1]), _span(y, height, table.size[0])
            canvas[sample, :, y1:y2, x1:x2] = images[source, :, y1 - y : y2 - y, x1 - x : x2 - x]
            if boxes is not None:
                shifted, index = _clipped(boxes[source], x, y, table.size, min_visible, min_side)
                here.append(shifted)
                places.append(np.stack([np.full(len(index), tile), index], 1))
        canvas_boxes.append(np.concatenate(here))
        kept.append(np.concatenate(places))
    return Mosaic(canvas, canvas_boxes, kept)


def _span(start: int, length: int, limit: int) -> tuple[int, int]:
    """The part of [start, start + length) inside [0, limit); empty where there is none."""
    low = min(max(start, 0), limit)
    return low, max(min(start + length, limit), low)


def _clipped(
    boxes: np.ndarray, x: int, y: int, size: tuple[int, int], min_visible: float, min_side: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shift boxes (k, 4) by x, y and clip them to a canvas of `size`; returns those that are left, and their places."""
    whole = np.asarray(boxes, np.float64).reshape(-1, 4) + np.array([x, y, x, y])
    inside = whole.clip(0, (size[1], size[0], size[1], size[0]))
    area, left = (np.prod(some[:, 2:] - some[:, :2], axis=1) for some in (whole, inside))
    visible = np.divide(left, area, out=np.zeros_like(left), where=area > 0)
    remaining = np.flatnonzero((visible >= min_visible - 1e-6) & (inside[:, 2:] - inside[:, :2] >= min_side).all(1))
    return inside[remaining], remaining
