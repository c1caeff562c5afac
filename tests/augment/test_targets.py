"""Boxes and points go where their pixels go. Worked numbers are those of docs/specs/augment.md, "Boxes"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from augment.draws import draw, program
from augment.policy import load
from augment.program import Warp
from augment.targets import warp_boxes, warp_points
from augment.warp import apply_warp


def warp_of(spec: Any, size: tuple[int, int], keys: Any = (0,)) -> Warp:
    (segment,) = program(draw(load(spec), list(keys), size, seed=2))
    assert isinstance(segment, Warp)
    return segment


CENTRE = [{"center_crop": {"size": 480}}, {"resize": {"size": 512}}]


def test_boxes_1_centre_crop_and_resize() -> None:
    warp = warp_of(CENTRE, (480, 640))
    boxes = np.array([[100.0, 120, 300, 280], [40, 50, 140, 150], [0, 0, 60, 60]])
    found, kept, visible = warp_boxes(boxes, warp, 0)
    assert kept.tolist() == [0, 1]
    np.testing.assert_allclose(found[0], [21.333, 128, 234.667, 298.667], atol=1e-3)
    np.testing.assert_allclose(found[1] / 512, [0, 0.104167, 0.125, 0.3125], atol=1e-6)
    np.testing.assert_allclose(visible, [1, 0.6])
    tall = warp_of(CENTRE, (640, 480))
    np.testing.assert_allclose(
        warp_boxes(boxes[:1], tall, 0)[0][0] / 512, [0.208333, 0.083333, 0.625, 0.416667], atol=1e-6
    )


@pytest.mark.parametrize(("width", "left"), [(641, 80), (643, 81)])
def test_an_odd_margin_is_cut_at_the_whole_pixel_that_is_really_cut(width: int, left: int) -> None:
    """Boxes 2: use the integer actually cropped. Ours floors; PIL rounds half to even, which makes 643 into 82."""
    warp = warp_of([{"center_crop": {"size": 480}}], (480, width))
    found, _, _ = warp_boxes(np.array([[100.0, 120, 300, 280]]), warp, 0)
    np.testing.assert_allclose(found[0], [100 - left, 120, 300 - left, 280])


def test_boxes_3_squash_and_letterbox() -> None:
    box = np.array([[100.0, 120, 300, 280]])
    squashed, _, _ = warp_boxes(box, warp_of([{"resize": {"size": 512}}], (480, 640)), 0)
    np.testing.assert_allclose(squashed[0], [80, 128, 240, 298.6667], atol=1e-4)
    boxed, _, _ = warp_boxes(box, warp_of([{"letterbox": {"size": 512}}], (480, 640)), 0)
    np.testing.assert_allclose(boxed[0], [80, 160, 240, 288], atol=1e-9)


@pytest.mark.parametrize(
    "spec",
    [
        [{"resized_crop": {"size": [37, 51], "scale": [0.4, 1]}}, {"horizontal_flip": {"p": 1}}],
        [{"rotate": {"degrees": [-50, 50]}}, {"resize": {"size": 70}}],
        [{"perspective": {"distortion": 0.4}}],
        [{"letterbox": {"size": 80}}, {"affine": {"scale": [0.6, 1.3], "translate_x": [-0.2, 0.2]}}],
    ],
)
def test_boxes_and_points_lie_on_the_pixels_that_were_painted(spec: Any) -> None:
    """A painted rectangle, warped as an image: the box found from pixels is the box computed, within a pixel."""
    keys = list(range(10))
    warp = warp_of(spec, (60, 90), keys)
    images = torch.zeros(10, 1, 60, 90)
    images[:, :, 18:41, 30:66] = 1
    painted = apply_warp(images, warp)[:, 0] > 0.5
    compared = 0
    for sample in keys:
        found, _, visible = warp_boxes(np.array([[30.0, 18, 66, 41]]), warp, sample, min_visible=0.05)
        if not len(found) or not painted[sample].any():
            continue
        where = painted[sample].nonzero().numpy()
        (top, left), (bottom, right) = where.min(0), where.max(0) + 1
        # A hull reaches the very corner of a turned box, where less than half of a pixel is painted.
        np.testing.assert_allclose(found[0], [left, top, right, bottom], atol=1.6)
        area = float(painted[sample].sum())
        assert area / (visible[0] * 23 * 36 * _growth(warp, sample)) == pytest.approx(1, abs=0.06)
        points = warp_points(np.array([[47.5, 29.0, 2]]), warp, sample)
        if points[0, 2]:
            x, y = np.rint(points[0, :2]).astype(int)
            assert painted[sample, y, x]
        compared += 1
    assert compared >= 6


def _growth(warp: Warp, sample: int) -> float:
    """Area of the painted rectangle after all steps, over before."""
    corners = np.array([[29.5, 17.5], [65.5, 17.5], [65.5, 40.5], [29.5, 40.5]])
    for step in warp.steps:
        there = np.concatenate([corners, np.ones((4, 1))], 1) @ step.matrix[sample].T
        corners = there[:, :2] / there[:, 2:]
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2) / (23 * 36)


def test_what_left_a_crop_does_not_come_back() -> None:
    """An object outside the crop stays gone when a later step shrinks the crop into its frame."""
    warp = warp_of([{"center_crop": {"size": 20}}, {"affine": {"scale": 0.4}}], (60, 60))
    found, kept, _ = warp_boxes(np.array([[2.0, 2, 12, 12], [25, 25, 35, 35]]), warp, 0)
    assert kept.tolist() == [1]
    np.testing.assert_allclose(found[0], [8, 8, 12, 12], atol=1e-9)
    points = warp_points(np.array([[5.0, 5, 2], [30, 30, 2]]), warp, 0)
    assert points[:, 2].tolist() == [0, 2]


def test_small_and_hidden_boxes_are_dropped_after_clipping_and_areas_are_of_what_is_left() -> None:
    warp = warp_of([{"center_crop": {"size": 20}}], (40, 40))
    boxes = np.array([[9.5, 15, 10.5, 25], [0, 0, 40, 40], [15, 15, 15.8, 30]])
    found, kept, visible = warp_boxes(boxes, warp, 0, min_visible=0.2, min_side=1.0)
    assert kept.tolist() == [1]
    np.testing.assert_allclose(found[0], [0, 0, 20, 20])
    np.testing.assert_allclose(visible, [0.25])
