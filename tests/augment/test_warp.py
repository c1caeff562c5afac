"""One resampling is what a chain of operations would have given: against torch's and Kornia's own, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from augment.draws import draw, program
from augment.policy import load
from augment.program import Warp
from augment.warp import apply_warp
from tests.augment.making import photo

KEYS = list(range(8))


def warp_of(spec: Any, size: tuple[int, int], count: int = 8, seed: int = 1, **settings: Any) -> tuple[Warp, Any]:
    """The one warp of a policy, and what was drawn."""
    drawn = draw(load({"operations": spec, **settings}), KEYS[:count], size, seed=seed)
    (segment,) = program(drawn)
    assert isinstance(segment, Warp)
    return segment, drawn


def peak_signal(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(-10 * torch.log10(((first - second) ** 2).mean()))


@pytest.mark.parametrize("size", [(20, 20), (64, 90)])
@pytest.mark.parametrize("antialias", [True, False])
def test_a_resized_crop_with_flip_is_a_slice_interpolated(size: tuple[int, int], antialias: bool) -> None:
    images = photo(8, 48, 60).float() / 255
    warp, drawn = warp_of([{"resized_crop": {"size": list(size)}}, "horizontal_flip"], (48, 60), antialias=antialias)
    found = apply_warp(images, warp)
    crop = drawn.values["resized_crop"]
    for index in range(8):
        top, left, height, width = (int(crop[side][index]) for side in ("top", "left", "height", "width"))
        cut = images[index : index + 1, :, top : top + height, left : left + width]
        expected = functional.interpolate(cut, size, mode="bilinear", align_corners=False, antialias=antialias)
        if drawn.on["horizontal_flip"][index]:
            expected = expected.flip(-1)
        torch.testing.assert_close(found[index : index + 1], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flips_crops_and_rolls_move_pixels_without_touching_them(dtype: torch.dtype) -> None:
    images = photo(8, 20, 24).to(dtype)
    warp, drawn = warp_of(
        ["vertical_flip", {"random_crop": {"size": 16, "padding": 3}}, {"roll": {"pixels": 5}}], (20, 24)
    )
    found = apply_warp(images, warp)
    assert found.dtype == dtype
    for index in range(8):
        expected = images[index]
        if drawn.on["vertical_flip"][index]:
            expected = expected.flip(1)
        padded = functional.pad(expected, (3, 3, 3, 3))
        top, left = (int(drawn.values["random_crop"][side][index]) + 3 for side in ("top", "left"))
        down, right = (int(drawn.values["roll"][side][index]) for side in ("down", "right"))
        expected = torch.roll(padded[:, top : top + 16, left : left + 16], (down, right), (1, 2))
        assert torch.equal(found[index], expected)


@pytest.mark.parametrize(
    "spec",
    [
        {"rotate": {"degrees": [-170, 170]}},
        {"affine": {"degrees": [-30, 30], "scale": [0.6, 1.6], "shear_x": [-20, 20], "translate_x": [-0.3, 0.3]}},
        {"perspective": {"distortion": 0.5}},
        {"shear_y": {"degrees": [-30, 30]}},
    ],
)
@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_one_warp_is_kornias(spec: Any, fill: float) -> None:
    transform = pytest.importorskip("kornia.geometry.transform", reason="kornia is not installed: limbeck[augment]")
    images = photo(8, 41, 53).double() / 255
    warp, _ = warp_of([spec], (41, 53), fill=fill)
    matrix = torch.from_numpy(warp.steps[0].matrix)
    expected = fill + transform.warp_perspective(images - fill, matrix, (41, 53), align_corners=True)
    torch.testing.assert_close(apply_warp(images, warp), expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(apply_warp(images.float(), warp), expected.float(), atol=2e-4, rtol=0)


def test_a_flip_around_one_warp_is_still_the_chain_exactly() -> None:
    transform = pytest.importorskip("kornia.geometry.transform", reason="kornia is not installed: limbeck[augment]")
    images = photo(8, 40, 52).double() / 255
    flips = {"horizontal_flip": {"p": 1}}
    warp, _ = warp_of([flips, {"rotate": {"degrees": [-60, 60]}}, {"vertical_flip": {"p": 1}}], (40, 52))
    turned = transform.warp_affine(images.flip(-1), torch.from_numpy(warp.steps[1].matrix[:, :2]), (40, 52))
    torch.testing.assert_close(apply_warp(images, warp), turned.flip(-2), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("spec", "bound"),
    [
        ([{"resized_crop": {"size": 64, "scale": [0.2, 0.9]}}, {"rotate": {"degrees": [-40, 40]}}], 34),
        ([{"rotate": {"degrees": [-40, 40]}}, {"affine": {"scale": [0.8, 1.2], "shear_x": [-15, 15]}}], 34),
        ([{"affine": {"scale": [0.7, 1.4], "translate_x": [-0.2, 0.2]}}, {"resize": {"size": [40, 70]}}], 34),
    ],
)
def test_two_warps_in_one_resampling_differ_from_the_chain_only_by_its_blur(spec: Any, bound: float) -> None:
    """Step by step resamples twice, which blurs; 34 dB on photographs with edges is an error of 2 %, at the edges."""
    images = photo(8, 60, 80).double() / 255
    whole, drawn = warp_of(spec, (60, 80))
    chain = images
    for step in whole.steps:
        chain = apply_warp(chain, Warp(tuple(chain.shape[2:]), (step,), np.ones(8, bool)))  # type: ignore[arg-type]
    assert peak_signal(apply_warp(images, whole), chain) > bound, drawn.rows()


def test_a_crop_is_clamped_to_its_box_even_when_something_turns_it() -> None:
    """Outside the box everything is white: none of it may bleed in, at any later rotation."""
    images = torch.ones(8, 1, 40, 40)
    images[:, :, 10:30, 5:25] = 0.25
    warp, _ = warp_of(
        [{"center_crop": {"size": 40}}, {"resize": {"size": 33}}, {"rotate": {"degrees": [-80, 80]}}], (40, 40)
    )
    clamp = np.tile([5.0, 10.0, 24.0, 29.0], (8, 1))
    first = type(warp.steps[1])(warp.steps[1].matrix, warp.steps[1].size, clamp)
    found = apply_warp(images, Warp((40, 40), (first, warp.steps[2]), warp.on))
    assert float(found.max()) <= 0.25 + 1e-6


def test_shrinking_by_a_whole_number_is_not_aliased() -> None:
    stripes = torch.arange(64).remainder(2).float().expand(1, 1, 64, 64)
    for spec in ([{"resize": {"size": 16}}], [{"resize": {"size": 16}}, {"rotate": {"degrees": 90}}]):
        warp, _ = warp_of(spec, (64, 64), count=1)
        inner = apply_warp(stripes, warp)[..., 2:-2, 2:-2]
        assert float((inner - 0.5).abs().max()) < 0.05


def test_masks_keep_their_values() -> None:
    images = torch.randint(0, 7, (8, 1, 30, 30), dtype=torch.int64, generator=torch.Generator().manual_seed(0))
    warp, _ = warp_of([{"resized_crop": {"size": 21}}], (30, 30), interpolation="nearest")
    found = apply_warp(images, warp)
    assert found.dtype == torch.int64
    assert set(found.unique().tolist()) <= set(range(7))


def test_the_memory_format_is_kept() -> None:
    images = (photo(8, 20, 24).float() / 255).to(memory_format=torch.channels_last)
    for spec in ([{"resize": {"size": 9}}], [{"rotate": {"degrees": 20}}], ["horizontal_flip"]):
        warp, _ = warp_of(spec, (20, 24))
        assert apply_warp(images, warp).is_contiguous(memory_format=torch.channels_last)
