"""Matrices and segments of operations, against Kornia's own geometry and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augment.draws import draw, program
from augment.operations.geometric import homography, resize_matrix
from augment.policy import load
from augment.program import Warp

SIZE = (30, 50)
KEYS = list(range(16))


def step_of(spec: object) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The only step's matrices, and what was drawn for them."""
    found = draw(load([spec]), KEYS, SIZE, seed=1)
    (segment,) = program(found)
    assert isinstance(segment, Warp)
    (path,) = found.values
    return segment.steps[0].matrix, found.values[path]


@pytest.fixture(scope="module")
def geometry() -> object:
    return pytest.importorskip("kornia.geometry.transform", reason="kornia is not installed: limbeck[augment]")


def middle() -> torch.Tensor:
    return torch.tensor([[(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2]], dtype=torch.float64).repeat(len(KEYS), 1)


def test_affine_is_kornias_matrix(geometry: object) -> None:
    spec = {"degrees": [-90, 90], "translate_x": [-0.3, 0.3], "translate_y": [-0.2, 0.2], "scale": [0.5, 2]}
    matrix, drawn = step_of({"affine": {**spec, "scale_y": [0.5, 2], "shear_x": [-30, 30], "shear_y": [-30, 30]}})
    values = {name: torch.from_numpy(column).double() for name, column in drawn.items()}
    expected = geometry.get_affine_matrix2d(  # type: ignore[attr-defined]
        torch.stack([values["translate_x"], values["translate_y"]], 1),
        middle(),
        torch.stack([values["scale"], values["scale_y"]], 1),
        values["degrees"],
        torch.deg2rad(values["shear_x"]),
        torch.deg2rad(values["shear_y"]),
    )
    np.testing.assert_allclose(matrix, expected.numpy(), atol=1e-9)


def test_a_turn_is_anticlockwise_as_kornias(geometry: object) -> None:
    matrix, drawn = step_of({"rotate": {"degrees": [-90, 90]}})
    angle = torch.from_numpy(drawn["degrees"]).double()
    ones = torch.ones(len(KEYS), 2, dtype=torch.float64)
    expected = geometry.get_rotation_matrix2d(middle(), angle, ones)  # type: ignore[attr-defined]
    np.testing.assert_allclose(matrix[:, :2], expected.numpy(), atol=1e-9)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_shear_is_kornias(geometry: object, axis: str) -> None:
    matrix, drawn = step_of({f"shear_{axis}": {"degrees": [-40, 40]}})
    angle = torch.deg2rad(torch.from_numpy(drawn["degrees"]).double())
    expected = geometry.get_shear_matrix2d(middle(), **{f"s{axis}": angle})  # type: ignore[attr-defined]
    np.testing.assert_allclose(matrix, expected.numpy(), atol=1e-9)


def test_perspective_moves_the_corners_where_it_says() -> None:
    matrix, drawn = step_of({"perspective": {"distortion": 0.6}})
    start = np.array([[0, 0], [49, 0], [49, 29], [0, 29]], float)
    points = np.einsum("nij,kj->nki", matrix, np.concatenate([start, np.ones((4, 1))], 1))
    moved = points[..., :2] / points[..., 2:]
    np.testing.assert_allclose(moved, start + drawn["corners"].reshape(-1, 4, 2), atol=1e-6)
    inward = drawn["corners"].reshape(-1, 4, 2) * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    assert inward.min() >= 0
    assert inward[..., 0].max() <= 50 * 0.3


def test_a_homography_of_four_unmoved_points_is_the_identity() -> None:
    corners = np.array([[0, 0], [9, 0], [9, 5], [0, 5]], float)
    np.testing.assert_allclose(homography(corners, corners[None])[0], np.eye(3), atol=1e-12)


def test_resizing_stretches_pixel_areas_not_corner_centres() -> None:
    """Left edge -0.5 stays at -0.5, right edge W - 0.5 goes to w - 0.5 (align_corners=False)."""
    matrix = resize_matrix(1, 4, 2, 20, 10, (5, 40))[0]
    np.testing.assert_allclose(matrix @ [3.5, 1.5, 1], [-0.5, -0.5, 1])
    np.testing.assert_allclose(matrix @ [23.5, 11.5, 1], [39.5, 4.5, 1])


def test_what_is_off_is_the_identity_and_nothing_is_drawn_for_it() -> None:
    found = draw(load([{"affine": {"p": 0.5, "degrees": [10, 20], "scale": [0.5, 0.6]}}]), KEYS, SIZE)
    (segment,) = program(found)
    assert isinstance(segment, Warp)
    off = ~found.on["affine"]
    assert 0 < off.sum() < len(KEYS)
    assert (segment.steps[0].matrix[off] == np.eye(3)).all()
    assert (segment.on == ~off).all()
    assert all((column[off] == 0).all() for column in found.values["affine"].values())


@pytest.mark.parametrize(
    ("size", "spec", "left_top", "scale"),
    [
        # docs/specs/augment.md, "Boxes" 3: 640 x 480 letterboxed to 512: scale 0.8, 64 pixels above and below
        ((480, 640), {"letterbox": {"size": 512}}, (0, 64), (0.8, 0.8)),
        ((480, 640), {"resize": {"size": 512}}, (0, 0), (0.8, 512 / 480)),
        ((480, 640), {"center_crop": {"size": 480}}, (-80, 0), (1, 1)),
    ],
)
def test_the_frame_of_fixed_operations(size: tuple[int, int], spec: object, left_top: object, scale: object) -> None:
    (segment,) = program(draw(load([spec]), [0], size))
    assert isinstance(segment, Warp)
    matrix = np.eye(3)
    for step in segment.steps:
        matrix = step.matrix[0] @ matrix
    np.testing.assert_allclose(matrix @ [-0.5, -0.5, 1], [*(np.array(left_top) - 0.5), 1], atol=1e-9)
    np.testing.assert_allclose(np.diag(matrix)[:2], scale)
