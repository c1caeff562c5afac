"""Boxes, masks and points against the worked numbers of docs/specs/augment.md, against each other, and against the pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from augment.draws import draw, program
from augment.errors import PolicyError
from augment.policy import load
from augment.program import Warp, WarpStep
from augment.targets import warp_boxes, warp_masks, warp_points
from augment.warp import apply_warp

BOX = [100.0, 120, 300, 280]


def warp_of(spec: list[Any], size: tuple[int, int], seed: int = 3, count: int = 1) -> Warp:
    (segment,) = program(draw(load(spec), list(range(count)), size, seed=seed))
    assert isinstance(segment, Warp)
    return segment


def by_hand(size: tuple[int, int], *steps: WarpStep) -> Warp:
    return Warp(size, steps, np.ones(1, bool))


def moved(matrix: Any, size: tuple[int, int]) -> WarpStep:
    return WarpStep(np.array(matrix, float)[None], size)


def shifted(x: float, y: float, size: tuple[int, int]) -> WarpStep:
    return moved([[1, 0, x], [0, 1, y], [0, 0, 1]], size)


CROP = [{"center_crop": {"size": 480}}, {"resize": {"size": 512}}]


@pytest.mark.parametrize(
    ("size", "spec", "expected"),
    [
        ((480, 640), CROP, [64 / 3, 128, 704 / 3, 896 / 3]),  # 6.1
        ((640, 480), CROP, [320 / 3, 128 / 3, 320, 640 / 3]),  # 6.1, upright
        ((480, 640), [{"resize": {"size": 512}}], [80, 128, 240, 896 / 3]),  # 6.3, squashed
        ((480, 640), [{"letterbox": {"size": 512}}], [80, 160, 240, 288]),  # 6.3
    ],
)
def test_boxes_of_the_fact_sheet(size: tuple[int, int], spec: list[Any], expected: list[float]) -> None:
    boxes, index, visible = warp_boxes(np.array([BOX]), warp_of(spec, size), 0)
    np.testing.assert_allclose(boxes, [expected], atol=1e-9)
    assert index.tolist() == [0]
    np.testing.assert_allclose(visible, [1], atol=1e-12)


def test_a_box_is_clipped_then_dropped_by_what_is_left() -> None:
    """6.1: 0.6 of the second is left, nothing of the third; the map says which is which."""
    given = np.array([[0, 0, 60, 60], [40, 50, 140, 150], BOX])
    warp = warp_of(CROP, (480, 640))
    boxes, index, visible = warp_boxes(given, warp, 0)
    assert index.tolist() == [1, 2]
    np.testing.assert_allclose(boxes[0], [0, 53.3333333, 64, 160], atol=1e-6)
    np.testing.assert_allclose(visible, [0.6, 1], atol=1e-12)
    assert warp_boxes(given, warp, 0, min_visible=0.61)[1].tolist() == [2]
    assert warp_boxes(given, warp, 0, min_visible=0.0)[1].tolist() == [1, 2]
    assert warp_boxes(given, warp, 0, min_visible=0.0, min_side=65)[1].tolist() == [2]


@pytest.mark.parametrize(("width", "left"), [(641, 80), (643, 81)])
def test_an_odd_margin_uses_the_pixels_actually_cropped(width: int, left: int) -> None:
    """6.2: the box follows the crop that was made, whichever half of a pixel the operation chose."""
    warp = warp_of([{"center_crop": {"size": 480}}], (480, width))
    boxes, _, _ = warp_boxes(np.array([BOX]), warp, 0)
    np.testing.assert_allclose(boxes, [[100 - left, 120, 300 - left, 280]])


def test_a_letterbox_inverts_within_a_ten_thousandth() -> None:
    """6.3."""
    there = warp_of([{"letterbox": {"size": 512}}], (480, 640))
    matrix = np.linalg.multi_dot([np.eye(3), *(step.matrix[0] for step in there.steps[::-1])])
    back = by_hand((512, 512), moved(np.linalg.inv(matrix), (480, 640)))
    boxes, _, _ = warp_boxes(warp_boxes(np.array([BOX]), there, 0)[0], back, 0)
    np.testing.assert_allclose(boxes, [BOX], atol=1e-4)


def test_a_mirrored_box_keeps_its_pixels() -> None:
    """Columns 2..4 of ten become columns 5..7: edges 2..5 become 5..8."""
    warp = by_hand((6, 10), moved([[-1, 0, 9], [0, 1, 0], [0, 0, 1]], (6, 10)))
    boxes, _, _ = warp_boxes(np.array([[2.0, 1, 5, 4]]), warp, 0)
    assert boxes.tolist() == [[5, 1, 8, 4]]


def test_a_turned_box_is_the_hull_of_its_corners_clipped() -> None:
    """By 45 degrees about its middle a square of side s has a hull of side s sqrt 2."""
    warp = warp_of([{"rotate": {"degrees": 45}}], (100, 100))
    boxes, _, visible = warp_boxes(np.array([[40.0, 40, 60, 60], [80, 40, 100, 60]]), warp, 0, min_visible=0)
    reach = 10 * 2**0.5
    np.testing.assert_allclose(boxes[0], [50 - reach, 50 - reach, 50 + reach, 50 + reach])
    middle = 50 + 40 * np.cos(np.pi / 4), 50 - 40 * np.sin(np.pi / 4)
    np.testing.assert_allclose(boxes[1], [middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach])
    assert visible[0] == pytest.approx(1)


def test_what_a_crop_cut_off_stays_gone_when_a_later_step_shrinks() -> None:
    """Cropped to the left half, then shrunk about the middle: the second box is gone, the third is halved."""
    crop = shifted(0, 0, (40, 50))
    shrink = moved([[0.5, 0, 12.25], [0, 0.5, 9.75], [0, 0, 1]], (40, 50))
    given = np.array([[10.0, 10, 30, 30], [60, 10, 80, 30], [40, 10, 60, 30]])
    boxes, index, visible = warp_boxes(given, by_hand((40, 100), crop, shrink), 0)
    assert index.tolist() == [0, 2]
    np.testing.assert_allclose(boxes, [[17.5, 15, 27.5, 25], [32.5, 15, 37.5, 25]])
    np.testing.assert_allclose(visible, [1, 0.5])
    turned = by_hand((40, 100), crop, *warp_of([{"rotate": {"degrees": 30}}], (40, 50)).steps)
    _, index, _ = warp_boxes(given, turned, 0, min_visible=0.01)
    assert index.tolist() == [0, 2]


def test_a_box_out_of_one_frame_and_back_in_is_what_was_left() -> None:
    steps = (shifted(30, 0, (40, 50)), shifted(-30, 0, (40, 50)))
    boxes, _, visible = warp_boxes(np.array([[10.0, 10, 26, 30]]), by_hand((40, 50), *steps), 0)
    np.testing.assert_allclose(boxes, [[10, 10, 20, 30]])
    np.testing.assert_allclose(visible, [0.625])


@pytest.mark.parametrize("spec", [[{"rotate": {"degrees": 25}}], [{"affine": {"degrees": 20, "scale": 1.4}}], CROP[:1]])
def test_a_step_that_is_off_changes_no_box(spec: list[Any]) -> None:
    """What other samples of a batch do leaves identity steps behind; they may come anywhere."""
    warp = warp_of([*spec, "identity"], (500, 640))
    idle_first, idle_last = moved(np.eye(3), warp.size_in), moved(np.eye(3), warp.size)
    given = np.random.default_rng(0).uniform([0, 0, 320, 250], [320, 250, 640, 500], (20, 4))
    expected = warp_boxes(given, warp, 0, min_visible=0.1)
    found = warp_boxes(given, replace(warp, steps=(idle_first, *warp.steps, idle_last)), 0, min_visible=0.1)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_roll_is_refused_for_boxes() -> None:
    step = WarpStep(np.eye(3)[None], (10, 20), roll=np.array([[0, 4]]))
    with pytest.raises(PolicyError, match="a roll cuts boxes in two"):
        warp_boxes(np.array([[14.0, 2, 20, 8]]), by_hand((10, 20), step), 0)


def test_samples_that_are_off_keep_their_targets() -> None:
    warp = warp_of([{"shift": {"share": 0.3}}], (20, 20), count=2)
    warp = replace(warp, steps=tuple(replace(step, on=np.array([True, False])) for step in warp.steps))
    boxes, index, visible = warp_boxes(np.array([[1.0, 2, 3, 4]]), warp, 1)
    assert (boxes.tolist(), index.tolist(), visible.tolist()) == ([[1, 2, 3, 4]], [0], [1])
    assert warp_points(np.array([[1.0, 2, 1]]), warp, 1).tolist() == [[1, 2, 1]]
    assert [part.shape for part in warp_boxes(np.zeros((0, 4)), warp, 0)] == [(0, 4), (0,), (0,)]


def test_a_point_outside_a_frame_is_no_longer_visible() -> None:
    warp = warp_of(CROP, (480, 640))
    points = np.array([[79.6, 240, 2], [79.4, 240, 2], [320, 240, 0], [560, 10, 1]])
    found = warp_points(points, warp, 0)
    assert found[:, 2].tolist() == [2, 0, 0, 0]
    np.testing.assert_allclose(found[2, :2], [(320 - 80 + 0.5) * 512 / 480 - 0.5, 240.5 * 512 / 480 - 0.5])
    np.testing.assert_allclose(warp_points(points[:, :2], warp, 0), found[:, :2])


POLICIES: list[list[Any]] = [
    [{"resized_crop": {"size": [70, 60], "scale": [0.4, 0.9]}}, "horizontal_flip"],
    [{"letterbox": {"size": 90}}, {"affine": {"scale": [0.6, 1.4], "translate_x": [-0.1, 0.1]}}, "vertical_flip"],
    [{"affine": {"degrees": [-40, 40], "shear_x": [-10, 10], "scale": [0.8, 1.3]}}, "horizontal_flip"],
    [{"resized_crop": {"size": 80, "scale": [0.5, 0.9]}}, {"perspective": {"distortion": 0.4}}],
    ["horizontal_flip", {"shift": {"share": 0.3}}],
]


@pytest.mark.parametrize("spec", POLICIES)
def test_image_mask_box_and_point_go_the_same_way(spec: list[Any]) -> None:
    """A bright rectangle: where the mask says it is, the image is bright, its extent is the box, its middle the point."""
    count, size = 8, (80, 100)
    warp = warp_of(spec, size, count=count)
    image = torch.zeros(count, 1, *size, dtype=torch.float64)
    image[:, :, 30:50, 40:70] = 1
    box, point = np.array([[40.0, 30, 70, 50]]), np.array([[54.5, 39.5, 2]])
    bright = apply_warp(image, replace(warp, antialias=False))[:, 0].numpy()
    mask = warp_masks(image.to(torch.uint8), warp)[:, 0].numpy()
    assert mask.dtype == np.uint8
    assert ((mask == 1) == (bright > 0.5)).mean() > 0.985
    seen = 0
    for sample in range(count):
        boxes, index, _ = warp_boxes(box, warp, sample, min_visible=0.3)
        rows, columns = np.nonzero(mask[sample])
        x, y, visibility = warp_points(point, warp, sample)[0]
        if visibility:
            assert mask[sample, round(y), round(x)] == 1
        if len(index):
            seen += 1
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            if "affine" in str(spec) or "perspective" in str(spec):  # the hull of a turned, clipped box may be wider
                assert (boxes[0] <= extent + np.array([1, 1, np.inf, np.inf])).all()
                assert (boxes[0] >= extent - np.array([np.inf, np.inf, 1, 1])).all()
            if "degrees" not in str(spec) and "perspective" not in str(spec):
                np.testing.assert_allclose(boxes[0], extent, atol=1)
    assert seen >= count / 2


def test_masks_keep_their_labels_and_get_no_new_ones() -> None:
    labels = torch.tensor([0, 7, 200], dtype=torch.int64)[
        torch.randint(3, (4, 2, 40, 40), generator=torch.Generator().manual_seed(1))
    ]
    for spec in POLICIES:
        made = warp_masks(labels, replace(warp_of(spec, (40, 40), count=4), fill=0.5))
        assert set(made.unique().tolist()) <= {0, 7, 200}


def test_a_mask_ends_where_a_frame_on_the_way_ends_half_a_pixel_beyond_its_centres() -> None:
    """Shrunk, then turned: ones are ones where the picture of ones is more than half covered."""
    warp = warp_of(
        [{"affine": {"scale": 0.9, "degrees": 15}}, {"shift": {"share": 0.2}}, {"rotate": {"degrees": 25}}], (60, 60)
    )
    ones = torch.ones(1, 1, 60, 60, dtype=torch.float64)
    covered = apply_warp(ones, warp) > 0.5
    assert 0.3 < float(covered.double().mean()) < 0.95
    assert float((warp_masks(ones, warp).bool() != covered).double().mean()) < 0.003
