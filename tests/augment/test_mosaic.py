"""A mosaic's boxes lie on the pixels of their tiles, and it is remade from what was written down."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from augment.errors import PolicyError
from augment.mosaic import MosaicTable, apply_mosaic, draw_mosaic

KEYS = [f"sample{number}" for number in range(6)]


def painted() -> tuple[torch.Tensor, list[np.ndarray]]:
    """Images of 16 x 24 of their own value, each with one bright rectangle of value 100 + i."""
    images = torch.arange(1, 7, dtype=torch.float32)[:, None, None, None].expand(6, 3, 16, 24).clone()
    boxes = []
    for place in range(6):
        x1, y1, x2, y2 = 2 + place, 3, 10 + 2 * place, 12
        images[place, :, y1:y2, x1:x2] = 100 + place
        boxes.append(np.array([[x1, y1, x2, y2]], float))
    return images, boxes


@pytest.mark.parametrize("canvas", [(32, 48), (16, 24), (20, 60)])
def test_boxes_lie_on_the_pixels_of_their_tile(canvas: tuple[int, int]) -> None:
    images, boxes = painted()
    table = draw_mosaic(KEYS, canvas, seed=3)
    made = apply_mosaic(images, table, boxes, fill=0.0, min_visible=0.01)
    assert made.images.shape == (6, 3, *canvas)
    compared = 0
    for sample in range(6):
        bright = made.images[sample, 0]
        seen = {int(value) - 100 for value in bright.unique().tolist() if value >= 100}
        told = [int(table.tiles[sample, tile]) for tile, _ in made.kept[sample]]
        assert set(told) <= seen
        for source, box in zip(told, made.boxes[sample].astype(int), strict=True):
            where = (bright == 100 + source).nonzero().numpy()
            assert box.tolist() == [*where.min(0)[::-1], *(where.max(0)[::-1] + 1)]
            compared += 1
    assert compared > 6


def test_each_sample_is_in_its_own_mosaic_with_three_others() -> None:
    table = draw_mosaic(KEYS, (32, 48))
    assert all(len(set(tiles)) == 4 and place in tiles for place, tiles in enumerate(table.tiles.tolist()))
    assert len({tuple(point) for point in table.centre.tolist()}) == 6
    assert ((table.centre >= [12, 8]) & (table.centre < [36, 24])).all()


def test_a_mosaic_is_remade_bit_by_bit_from_its_rows() -> None:
    images, boxes = painted()
    table = draw_mosaic(KEYS, (32, 48), seed=1)
    rows = json.loads(json.dumps([table.row(place) for place in range(6)]))
    made = apply_mosaic(images, table, boxes)
    again = apply_mosaic(
        images.flip(0), MosaicTable.from_rows(KEYS[::-1], rows[::-1]), [boxes[place] for place in range(5, -1, -1)]
    )
    assert torch.equal(again.images.flip(0), made.images)
    assert all((a == b).all() for a, b in zip(again.boxes[::-1], made.boxes, strict=True))


def test_a_box_that_is_mostly_beyond_the_canvas_is_dropped() -> None:
    images, boxes = painted()
    table = MosaicTable(tuple(KEYS), np.zeros((6, 4), np.int64), np.tile([6, 8], (6, 1)), (16, 24))
    made = apply_mosaic(images, table, boxes, min_visible=0.5)
    assert made.kept[0].tolist() == [[3, 0]]  # of the tile top right 4 rows of 9 are left, bottom right 5
    assert made.boxes[0].tolist() == [[8, 11, 16, 16]]
    assert apply_mosaic(images, table, boxes, min_visible=0.4).kept[0].tolist() == [[1, 0], [3, 0]]


def test_bytes_keep_their_type_and_grey_lies_beyond() -> None:
    images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    made = apply_mosaic(images, draw_mosaic(KEYS, (32, 48)))
    assert made.images.dtype == torch.uint8
    assert set(made.images.unique().tolist()) == {0, 114}


def test_a_mosaic_of_nothing_or_of_other_images_is_refused() -> None:
    with pytest.raises(PolicyError, match="the batch is empty"):
        draw_mosaic([], (8, 8))
    table = draw_mosaic(KEYS, (8, 8))
    with pytest.raises(PolicyError, match="for 6 images, got 2"):
        apply_mosaic(torch.zeros(2, 3, 4, 4), table)
    with pytest.raises(PolicyError, match="needs 'sample"):
        MosaicTable.from_rows(KEYS[:1], [table.row(0)])
