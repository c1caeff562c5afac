"""What a frame cut off stays cut off on every backend, in the pixels as in boxes and masks.

`python -m tests.bench.frames` tries all pairs.
"""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from augment.augmenter import Augmenter
from tests.bench.frames import GOAL, OPERATIONS, share_far

torch.set_num_threads(1)
CUT = ["random_crop", "center_crop", "zoom_in", "shear_x", "translate_x", "shift", "rotate", "roll"]
BRING_BACK = ["zoom_out", "perspective", "translate_x", "rotate", "letterbox", "resize"]
PAIRS = list(itertools.product(CUT, BRING_BACK))


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=[" > ".join(pair) for pair in PAIRS])
def test_two_steps_on_cv2_are_kornias_two_operations(one: str, other: str) -> None:
    pytest.importorskip("kornia")
    assert share_far([OPERATIONS[one], OPERATIONS[other]], "cv2", count=3) <= GOAL


TRIPLES: list[list[str]] = [
    ["translate_x", "horizontal_flip", "translate_x"],
    ["rotate", "shear_y", "zoom_out"],
    ["center_crop", "vertical_flip", "zoom_out"],
    ["zoom_in", "roll", "zoom_out"],
    ["resized_crop", "translate_y", "zoom_out"],
    ["shift", "zoom_out", "zoom_in"],
]


@pytest.mark.parametrize("names", TRIPLES, ids=" > ".join)
def test_so_are_three(names: list[str]) -> None:
    pytest.importorskip("kornia")
    assert share_far([OPERATIONS[name] for name in names], "cv2", count=3) <= 2 * GOAL


@pytest.mark.parametrize("backend", ["cv2", "torch"])
@pytest.mark.parametrize("one", CUT[:-1])
def test_no_object_is_seen_whose_mask_and_box_a_frame_cut_off(one: str, backend: Any) -> None:
    policy = [OPERATIONS[one], OPERATIONS["zoom_out"]]
    images = torch.full((16, 3, 72, 60), 20, dtype=torch.uint8)
    boxes = []
    for sample in range(16):
        left, top = 3 * sample, (11 * sample) % 56
        images[sample, 0, top : top + 12, left : left + 10] = 250
        boxes.append(np.array([[left, top, left + 10, top + 12]], float))
    masks = (images[:, :1] > 200).to(torch.uint8)
    made = Augmenter(policy, seed=3, backend=backend, min_visible=0.0, min_side=0.0)(
        images, list(range(16)), boxes=boxes, masks=masks
    )
    assert made.masks is not None
    assert made.boxes is not None
    for image, mask, found in zip(made.images, made.masks[:, 0], made.boxes, strict=True):
        seen = (image[0].int() - image[1].int() > 60).numpy()
        near = cv2.dilate(mask.numpy(), np.ones((3, 3), np.uint8)) > 0
        assert not (seen & ~near).any()
        if seen.sum() > 4:
            assert len(found) == 1
