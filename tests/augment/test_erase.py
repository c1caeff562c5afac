"""What erase covers counts as cut off for masks, points and boxes, wherever the picture moves before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from augment.augmenter import Augmented, Augmenter

KEYS = [f"key-{number}" for number in range(24)]
ERASE = {"erase": {"p": 0.6, "scale": [0.1, 0.4], "value": 0}}


def made(policy: Any, boxes: Any = None, points: Any = None, **options: Any) -> Augmented:
    images = torch.full((len(KEYS), 3, 40, 48), 255, dtype=torch.uint8)
    given = {"boxes": None if boxes is None else [np.array(boxes, float)] * len(KEYS)}
    given |= {"keypoints": None if points is None else [np.array(points, float)] * len(KEYS)}
    return Augmenter(policy, seed=2, **options)(images, KEYS, masks=torch.full((len(KEYS), 2, 40, 48), 7), **given)


@pytest.mark.parametrize("backend", ["cv2", "torch"])
@pytest.mark.parametrize(
    "policy",
    [
        [ERASE],
        ["horizontal_flip", ERASE, "vertical_flip"],
        [ERASE, {"center_crop": {"size": 30}}, {"shift": {"share": 0.2}}],
        [ERASE, {"roll": {"pixels": 5}}, "invert", "invert", ERASE],
    ],
    ids=["alone", "between flips", "before a crop", "twice round a roll"],
)
def test_masks_are_zero_where_pixels_are_erased(policy: Any, backend: Any) -> None:
    found = made(policy, backend=backend)
    assert found.masks is not None
    assert found.masks.dtype == torch.int64
    assert torch.equal(found.masks[:, 0] == 7, found.images[:, 0] == 255)
    assert torch.equal(found.masks[:, 0], found.masks[:, 1])


def test_points_under_the_rectangle_are_not_visible() -> None:
    grid = [[x, y] for x in range(0, 48, 5) for y in range(0, 40, 5)]
    found = made(["horizontal_flip", ERASE, {"translate_x": {"share": [-0.2, 0.2]}}], points=grid)
    for image, points in zip(found.images, found.keypoints or [], strict=True):
        for x, y, visible in points:
            if visible and 1 <= x <= 46:
                assert int(image[0, round(y), round(x)]) > 0


@pytest.mark.parametrize("after", [[], [{"shear_x": {"degrees": 10}}], ["vertical_flip"]])
def test_a_box_goes_when_less_than_min_visible_of_it_is_left_and_keeps_its_sides_otherwise(after: list[Any]) -> None:
    box = [10.0, 12, 30, 28]
    found, still = made([ERASE, *after], [box]), made([{"erase": {"p": 0.0}}, *after], [box])
    assert found.boxes is not None
    assert still.boxes is not None
    counts = {0: 0, 1: 0}
    for sample in range(len(KEYS)):
        row = found.draws.row(sample).get("erase", {"left": 0, "top": 0, "width": 0, "height": 0})
        across = min(row["left"] + row["width"], box[2]) - max(row["left"], box[0])
        down = min(row["top"] + row["height"], box[3]) - max(row["top"], box[1])
        covered = max(across, 0) * max(down, 0) / (20 * 16)
        assert len(found.boxes[sample]) == (covered <= 0.5)
        counts[len(found.boxes[sample])] += 1
        if len(found.boxes[sample]):
            np.testing.assert_allclose(found.boxes[sample], still.boxes[sample])
    assert min(counts.values()) > 0
