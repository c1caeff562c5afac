"""One resampling, frame by frame, against the unfused chain of Kornia's and torch's own functions, and what must hold for any warp."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from augment.draws import draw, program
from augment.homography import take
from augment.policy import load
from augment.program import Warp, WarpStep
from augment.warp import apply_warp

COUNT, HEIGHT, WIDTH = 6, 40, 56
TURN = {"rotate": {"degrees": [-40, 40]}}
MIXED: dict[str, list[Any]] = {
    "flips": ["horizontal_flip", "vertical_flip"],
    "crop": [{"resized_crop": {"size": [30, 36]}}, "horizontal_flip"],
    "shrink": [{"resized_crop": {"size": 12, "scale": [0.5, 1.0]}}, "vertical_flip"],
    "letterbox": [{"letterbox": {"size": 48}}, {"affine": {"scale": [0.5, 1.5], "translate_x": [-0.2, 0.2], "p": 0.7}}],
    "turn": [{"resized_crop": {"size": 32}}, "horizontal_flip", {"rotate": {"degrees": [-40, 40], "p": 0.6}}],
    "turns": [
        {"resized_crop": {"size": 32}},
        {"shear_x": {"degrees": 20, "p": 0.5}},
        {"rotate": {"degrees": 30, "p": 0.5}},
    ],
    "one of": [{"one_of": ["identity", "horizontal_flip", TURN, {"shift": {"share": 0.2}}, {"perspective": {}}]}],
    "roll": [{"resized_crop": {"size": 32}}, "horizontal_flip", {"roll": {"pixels": 7}}, {"shift": {"share": 0.2}}],
}


def warp_of(spec: list[Any], seed: int = 3, size: tuple[int, int] = (HEIGHT, WIDTH), count: int = COUNT) -> Warp:
    (segment,) = program(draw(load(spec), list(range(count)), size, seed=seed))
    assert isinstance(segment, Warp)
    return segment


def noise(
    count: int = COUNT, size: tuple[int, int] = (HEIGHT, WIDTH), dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    return torch.rand(count, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def smooth(size: tuple[int, int] = (HEIGHT, WIDTH)) -> torch.Tensor:
    """A picture without detail finer than eight pixels, float64 in [0, 1]."""
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    waves = [(0.5 + 0.5 * torch.sin(x / (3 + k) + k) * torch.cos(y / (4 + k))) for k in range(3)]
    return torch.stack(waves)[None].repeat(COUNT, 1, 1, 1)


def unfused(images: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Each step by itself: crops cut out and interpolated, the rest by kornia.geometry.warp_perspective."""
    geometry = pytest.importorskip("kornia.geometry.transform", reason="kornia is not installed: limbeck[augment]")
    for step in warp.steps:
        made = []
        for image, sample in zip(images, range(len(images)), strict=True):
            matrix, one = step.matrix[sample], image[None]
            box = None if step.clamp is None else step.clamp[sample]
            if box is not None and np.isfinite(box).all():
                left, top, right, bottom = (int(side) for side in box)
                cut = one[:, :, top : bottom + 1, left : right + 1]
                one = F.interpolate(cut, step.size, mode="bilinear", align_corners=False, antialias=warp.antialias)
            elif step.roll is not None:
                one = torch.roll(one, tuple(int(by) for by in step.roll[sample]), (2, 3))
            elif not (matrix == np.eye(3)).all() or one.shape[2:] != step.size:
                fill = torch.full((3,), warp.fill, dtype=one.dtype)
                one = geometry.warp_perspective(
                    one, torch.from_numpy(matrix)[None], step.size, "bilinear", "fill", False, fill
                )
            made.append(one)
        images = torch.cat(made)
    return images


EXACT: dict[str, list[Any]] = {
    "flips": ["horizontal_flip", "vertical_flip"],
    "crop and flip": [{"resized_crop": {"size": [30, 36]}}, "horizontal_flip", "vertical_flip"],
    "enlarge": [{"resize": {"size": [80, 90]}}, "horizontal_flip"],
    "shrink": [{"resize": {"size": [17, 23]}}, "vertical_flip"],
    "flip, then crop": ["horizontal_flip", {"resized_crop": {"size": 20}}],
    "crop by pixels, then turn": [{"center_crop": {"size": [31, 40]}}, TURN],
    "turn, then crop by pixels": [TURN, {"center_crop": {"size": [31, 40]}}, "horizontal_flip"],
    "padded crop, then turn": [{"random_crop": {"size": [40, 48], "padding": 8}}, "vertical_flip", TURN],
    "shear": [{"shear_x": {"degrees": [-30, 30]}}, "horizontal_flip"],
    "a fraction of a pixel": [{"translate_x": {"share": [-0.3, 0.3]}}, "horizontal_flip"],
    "perspective": ["vertical_flip", {"perspective": {"distortion": 0.6}}],
    "shift by pixels, then turn": [{"shift": {"share": 0.3}}, {"affine": {"degrees": [10, 40], "shear_x": [5, 20]}}],
    "roll": [{"roll": {"pixels": 9}}, {"shift": {"share": 0.2}}, {"roll": {"pixels": 5}}, "horizontal_flip"],
    "enlarge and roll": [{"resize": {"size": [60, 60]}}, "horizontal_flip", {"roll": {"pixels": 9}}],
    "some": [{"one_of": ["identity", "horizontal_flip", TURN, {"perspective": {}}, {"translate_y": {"share": 0.23}}]}],
}


@pytest.mark.parametrize("fill", [0.0, 0.4])
@pytest.mark.parametrize("name", EXACT)
def test_a_chain_in_which_one_step_interpolates_equals_the_unfused_one(name: str, fill: float) -> None:
    warp = replace(warp_of(EXACT[name]), fill=fill)
    if "roll" in name and fill:
        pytest.skip("the same pixels as without fill")
    torch.testing.assert_close(apply_warp(noise(), warp), unfused(noise(), warp), atol=1e-9, rtol=0)
    single = apply_warp(noise(dtype=torch.float32), warp)
    torch.testing.assert_close(single.double(), unfused(noise(), warp), atol=1e-5, rtol=0)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(12, 15), (30, 36), (70, 90), (20, 90)])
def test_a_crop_is_cut_out_before_it_is_resized(size: tuple[int, int], antialias: bool) -> None:
    warp = warp_of([{"resized_crop": {"size": size, "scale": [0.1, 0.9]}}, "horizontal_flip"])
    warp = replace(warp, antialias=antialias)
    torch.testing.assert_close(apply_warp(noise(), warp), unfused(noise(), warp), atol=1e-9, rtol=0)


def test_a_zoom_is_kornias() -> None:
    warp = warp_of([{"affine": {"scale": [0.5, 1.5], "translate_x": [-0.2, 0.2]}}, "horizontal_flip"])
    warp = replace(warp, fill=0.4)
    torch.testing.assert_close(apply_warp(noise(), warp), unfused(noise(), warp), atol=1e-9, rtol=0)


def test_a_letterbox_that_shrinks_is_an_antialiased_resize_between_bars() -> None:
    warp = warp_of([{"letterbox": {"size": 20}}], size=(30, 40))
    made = apply_warp(noise(size=(30, 40)), replace(warp, fill=0.4))
    assert (made[:, :, :2] == 0.4).all()
    assert (made[:, :, 18:] == 0.4).all()
    square = warp_of([{"letterbox": {"size": [20, 26]}}], size=(30, 30))
    made = apply_warp(noise(size=(30, 30)), replace(square, fill=0.4))
    inner = F.interpolate(noise(size=(30, 30)), (20, 20), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(made, F.pad(inner, (3, 3), value=0.4), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("name", "spec", "bound"),
    [
        # the fused result is sharper: it is compared on smooth pictures, inside the frame, in dB
        ("crop, turn", [{"resized_crop": {"size": 36, "scale": [0.3, 0.6]}}, "horizontal_flip", TURN], 38),
        ("turn, crop", [TURN, {"resized_crop": {"size": 36, "scale": [0.3, 0.6]}}], 38),
        ("two turns", [TURN, "vertical_flip", {"shear_y": {"degrees": [-20, 20]}}], 36),
        ("letterbox, move", [{"letterbox": {"size": 64}}, {"affine": {"scale": [1, 1.5], "translate_x": 0.13}}], 38),
        ("shrink, turn", [{"resized_crop": {"size": 20, "scale": [0.6, 1.0]}}, TURN], 60),
    ],
)
def test_a_chain_in_which_several_steps_interpolate_is_near_the_unfused_one(
    name: str, spec: list[Any], bound: float
) -> None:
    warp = warp_of(spec)
    ours, theirs = apply_warp(smooth(), warp), unfused(smooth(), warp)
    error = -10 * math.log10(float((ours - theirs).square().mean()))
    assert error > bound


def test_what_an_earlier_frame_cut_off_does_not_come_back() -> None:
    """Moved out to the right and back in: the half that had left is fill, as in the unfused chain."""
    matrices = np.tile(np.eye(3), (2, COUNT, 1, 1))
    matrices[0, :, 0, 2], matrices[1, :, 0, 2] = 28, -28
    steps = tuple(WarpStep(matrix, (HEIGHT, WIDTH)) for matrix in matrices)
    warp = Warp((HEIGHT, WIDTH), steps, np.ones(COUNT, bool), fill=0.5)
    made = apply_warp(noise(), warp)
    assert (made[..., 28:] == 0.5).all()
    assert (made[..., :28] == noise()[..., :28]).all()
    turned = replace(warp, steps=(*steps, *warp_of([TURN]).steps))
    torch.testing.assert_close(apply_warp(noise(), turned), unfused(noise(), turned), atol=1e-9, rtol=0)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    "then", [["horizontal_flip"], ["horizontal_flip", TURN], ["horizontal_flip", {"perspective": {}}]]
)
def test_a_crop_never_reads_beyond_its_box(then: list[Any], antialias: bool) -> None:
    """Ones in the box, and beyond it what would show at once; also where a turn reads between the crop's outermost pixels."""
    for size in (12, 70):
        warp = warp_of([{"resized_crop": {"size": size, "scale": [0.1, 0.4]}}, *then])
        images = torch.full((COUNT, 1, HEIGHT, WIDTH), 1e6, dtype=torch.float64)
        clamp = warp.steps[0].clamp
        assert clamp is not None
        for image, (left, top, right, bottom) in zip(images, clamp.astype(int), strict=True):
            image[:, top : bottom + 1, left : right + 1] = 1
        made = apply_warp(images, replace(warp, fill=1.0, antialias=antialias))
        torch.testing.assert_close(made, torch.ones_like(made), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bool])
def test_whole_pixels_are_copied_in_any_dtype(dtype: torch.dtype) -> None:
    pixels = (noise() * 255).to(dtype)
    steps = [
        "horizontal_flip",
        "vertical_flip",
        {"shift": {"share": 0.2}},
        {"random_crop": {"size": [20, 30]}},
        {"roll": {"pixels": 6}},
    ]
    warp = warp_of(steps)
    made = apply_warp(pixels, warp)
    assert made.dtype == dtype
    torch.testing.assert_close(made.double(), unfused(pixels.double(), warp), atol=1e-9, rtol=0)


def test_interpolating_whole_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs floats, got torch\.uint8"):
        apply_warp((noise() * 255).to(torch.uint8), warp_of([TURN]))


@pytest.mark.parametrize(
    "spec", [EXACT["flips"], ["horizontal_flip", {"shift": {"share": 0.2}}, {"roll": {"pixels": 60}}]]
)
def test_copies_of_large_images_are_the_same(spec: list[Any]) -> None:
    """One by one above a size, the batch at once below it or where a gradient is wanted."""
    images = noise(4, (160, 150))
    warp = warp_of(spec, size=(160, 150), count=4)
    made = apply_warp(images, warp)
    torch.testing.assert_close(made, unfused(images, warp), atol=1e-12, rtol=0)
    assert (made == apply_warp(images.clone().requires_grad_(), warp)).all()


@pytest.mark.parametrize("kind", ["bilinear", "nearest"])
@pytest.mark.parametrize("name", MIXED)
def test_a_batch_may_be_split_anywhere(name: str, kind: Any) -> None:
    """To the bit: a filter's row ends in as many zeros as another sample's is long, which changes no sum."""
    warp = replace(warp_of(MIXED[name]), interpolation=kind, fill=0.3)
    images = noise(dtype=torch.float32)
    whole = apply_warp(images, warp)
    for where in (np.arange(COUNT)[::-1], np.array([4]), np.array([1, 5])):
        part = replace(take(warp, where), on=warp.on[where])
        assert torch.equal(apply_warp(images[where.copy()], part), whole[where.copy()])


@pytest.mark.parametrize("name", MIXED)
def test_channels_last_is_kept_and_changes_no_value(name: str) -> None:
    warp = replace(warp_of(MIXED[name]), fill=0.3)
    images = noise().contiguous(memory_format=torch.channels_last)
    made = apply_warp(images, warp)
    assert made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made, apply_warp(noise(), warp), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", MIXED)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    small = {"crop": [{"resized_crop": {"size": [5, 7]}}, "horizontal_flip"], "letterbox": [{"letterbox": {"size": 6}}]}
    spec = small.get(name, [step for step in MIXED[name] if "size" not in str(step)])
    warp = replace(warp_of(spec, size=(7, 8), count=3), fill=0.3)
    images = noise(3, (7, 8))[:, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda pixels: apply_warp(pixels, warp), (images,), eps=1e-3, atol=1e-7)


def test_samples_that_are_off_are_untouched() -> None:
    warp = warp_of([{"rotate": {"degrees": [10, 20], "p": 0.5}}])
    assert 0 < warp.on.sum() < COUNT
    images = noise(dtype=torch.float32)
    made = apply_warp(images, warp)
    assert (made[~warp.on] == images[~warp.on]).all()
    assert (made[warp.on] != images[warp.on]).flatten(1).any(1).all()


def test_half_precision_is_sampled_in_single() -> None:
    images = noise(dtype=torch.bfloat16)
    warp = warp_of([TURN])
    expected = apply_warp(images.float(), warp).bfloat16()
    assert (apply_warp(images, warp) == expected).all()


def test_nothing_is_seen_behind_the_viewer() -> None:
    """A homography whose horizon crosses the output: what lies behind it is fill, not the picture upside down."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0.05, 0, 1.0]])
    warp = Warp((20, 20), (WarpStep(matrix[None], (20, 60)),), np.ones(1, bool), fill=0.25)
    made = apply_warp(torch.ones(1, 1, 20, 20, dtype=torch.float64), warp)
    assert (made[..., 20:] == 0.25).all()
    torch.testing.assert_close(made[..., 1:12, 1:6], torch.ones(1, 1, 11, 5, dtype=torch.float64))


def test_a_turn_of_one_pixel_images_is_defined() -> None:
    """Sides of one pixel have no corner to align."""
    warp = warp_of([TURN, "horizontal_flip"], size=(1, 1))
    assert (apply_warp(noise(size=(1, 1)), warp) == noise(size=(1, 1))).all()
