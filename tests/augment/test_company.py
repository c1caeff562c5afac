"""A sample never depends on its company: pixels, boxes, masks, points and refusals, to the bit, on every backend.

`python -m tests.augment.company` tries far more of it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from augment.augmenter import Augmenter
from augment.errors import PolicyError
from tests.augment.company import GROUPS, OPERATIONS, SIZES, WAYS, Way, available, policies, unequal
from tests.augment.making import photo

torch.set_num_threads(1)
CASES = list(policies(triples=12, seed=1))
SINGLES = [(name, policy) for name, policy in CASES if name in OPERATIONS | GROUPS]
OTHERS = [(name, policy) for name, policy in CASES if name not in OPERATIONS | GROUPS]


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
@pytest.mark.parametrize(("name", "policy"), OTHERS, ids=[name for name, _ in OTHERS])
def test_presets_and_triples_of_operations_give_a_sample_the_same_alone_and_in_company(
    name: str, policy: Any, way: Way
) -> None:
    if not available(name, way, "cpu"):
        pytest.skip("not installed")
    assert unequal(policy, SIZES[1], way) == []


@pytest.mark.parametrize(("name", "policy"), SINGLES, ids=[name for name, _ in SINGLES])
def test_every_operation_gives_a_sample_the_same_alone_and_in_company(name: str, policy: Any) -> None:
    for way in (WAYS[0], WAYS[4]):
        assert unequal(policy, SIZES[1], way) == []


@pytest.mark.parametrize("way", WAYS[:2], ids=[way.name for way in WAYS[:2]])
def test_a_detection_view_that_shrinks_does_not_change_with_the_size_of_its_shard(way: Way) -> None:
    assert unequal({"preset": "detection", "size": 42}, (100, 98), way) == []


def test_an_unclamped_step_of_one_sample_switches_no_clamps_on_for_another() -> None:
    policy = [
        "identity",
        {"one_of": [{"brightness_shift": {"shift": 0.5}}, {"contrast": {"factor": 0.7}}]},
        {"gamma": {"gamma": 2}},
    ]
    for way, size in itertools.product(WAYS[:3], SIZES):
        assert unequal(policy, size, way) == []


THIN, OUT = [3.0, 3, 3.5, 20], [-0.4, 3, 10, 20]


@pytest.mark.parametrize("policy", ["none", ["invert"], [{"horizontal_flip": {"p": 0.0}}], ["horizontal_flip"]])
def test_box_rules_hold_where_nothing_moves_too(policy: Any) -> None:
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    made = Augmenter(policy)(images, list(range(8)), boxes=[np.array([THIN, OUT])] * 8)
    assert [kept.tolist() for kept in made.kept or []] == [[1]] * 8
    assert {tuple(boxes[0]) for boxes in made.boxes or []} <= {(0, 3, 10, 20), (22, 3, 32, 20)}


def test_a_point_outside_the_image_is_not_visible_whether_it_moves_or_not() -> None:
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    made = Augmenter(["horizontal_flip"])(images, list(range(8)), keypoints=[np.array([[50.0, 5], [3, 5]])] * 8)
    assert [points[:, 2].tolist() for points in made.keypoints or []] == [[0, 1]] * 8


REFUSED = {
    "a roll": ([{"roll": {"pixels": 4, "p": 0.1}}], "roll"),
    "a roll in a group": ([{"one_of": ["identity", {"roll": {"pixels": 4}}]}], "roll"),
    "augmix that moves": ([{"augmix": ["equalize", {"rotate": {"degrees": 9}}], "p": 0.1}], "augmix"),
    "a kernel that does not fit": ([{"resize": {"size": 8}}, {"gaussian_blur": {"kernel": 17, "p": 0.1}}], "kernel"),
    "a crop that does not fit": (["invert", {"center_crop": {"size": 40}}], "center_crop"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("backend", ["cv2", "torch"])
def test_what_boxes_or_a_size_cannot_follow_is_refused_always_and_not_when_the_dice_fall_so(
    case: str, backend: Any
) -> None:
    policy, word = REFUSED[case]
    augmenter, image = Augmenter(policy, backend=backend), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for number in range(25):
        with pytest.raises(PolicyError, match=word):
            augmenter(image, [number], boxes=[np.array([[3.0, 3, 20, 20]])])


def test_what_can_never_be_on_refuses_nothing() -> None:
    policy = [{"roll": {"pixels": 4, "p": 0}}, {"gaussian_blur": {"kernel": 65, "p": 0}}, {"augmix": ["invert"]}]
    made = Augmenter(policy)(photo(3, 32, 32), [1, 2, 3], boxes=[np.array([[3.0, 3, 20, 20]])] * 3)
    assert [len(boxes) for boxes in made.boxes or []] == [1, 1, 1]


def test_an_operation_of_kornia_that_there_is_not_is_refused_before_it_is_drawn() -> None:
    pytest.importorskip("kornia")
    with pytest.raises(PolicyError, match="RandomNothing"):
        Augmenter([{"kornia": {"p": 0.01, "operation": "RandomNothing"}}])
