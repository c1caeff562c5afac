"""The OpenCV path next to the torch path, in levels of 255: how far apart they may be, operation by operation."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from augment.augmenter import Augmenter
from augment.cpu import run_cpu
from augment.draws import draw, program
from augment.policy import load
from tests.augment.making import photo

KEYS = [f"key-{number}" for number in range(12)]

#: Operation: the largest difference of a pixel, and the largest mean difference.
BOUNDS: list[tuple[Any, int, float]] = [
    ("horizontal_flip", 0, 0),
    ("vertical_flip", 0, 0),
    ({"center_crop": {"size": 30}}, 0, 0),
    ({"random_crop": {"size": 40, "padding": 4}}, 0, 0),
    ({"shift": {}}, 0, 0),
    ({"roll": {"pixels": 9}}, 0, 0),
    ({"resize": {"size": 90}}, 1, 0.2),
    ({"letterbox": {"size": 90}}, 1, 0.2),
    ({"resize": {"size": 20}}, 48, 2),  # a box filter next to a triangle, at sharp edges
    ({"resize": {"size": [8, 90]}}, 32, 3.2),  # one axis shrinks, the other grows; unfiltered it would be 84, 6.0
    ({"resize": {"size": [60, 9]}}, 20, 3.2),  # 48, 5.9
    ({"resized_crop": {"size": 32}}, 16, 0.5),
    ({"rotate": {"degrees": [-40, 40]}}, 1, 0.05),
    ({"affine": {"scale": [1, 1.5], "shear_x": [-20, 20], "translate_x": [-0.1, 0.1]}}, 1, 0.05),
    ({"affine": {"scale": [0.5, 1]}}, 1, 0.05),
    ({"perspective": {}}, 1, 0.05),
    ({"shear_x": {"degrees": 20}}, 1, 0.05),
    ({"translate_y": {"share": [-0.4, 0.4]}}, 1, 0.05),
    ({"brightness": {"factor": [0.3, 1.8]}}, 1, 0.1),
    ({"contrast": {"factor": [0.3, 1.7]}}, 1, 0.1),
    ({"saturation": {"factor": [0, 3]}}, 1, 0.1),
    ({"hue": {"turns": [-0.5, 0.5]}}, 9, 1.0),
    ({"gamma": {"gamma": [0.5, 2]}}, 1, 0.05),
    ({"solarize": {"threshold": [0, 1]}}, 0, 0),
    ({"posterize": {"bits": [1, 8]}}, 0, 0),
    ("invert", 0, 0),
    ("grayscale", 1, 0.1),
    ("channel_shuffle", 0, 0),
    ("autocontrast", 1, 0.05),
    ("equalize", 0, 0),
    ({"gaussian_blur": {"kernel": 9}}, 1, 0.05),
    ({"sharpness": {"factor": [0, 2]}}, 1, 0.05),
    ({"erase": {"value": 0.5}}, 0, 0),
    ({"gaussian_noise": {}}, 1, 0.05),
    ({"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}}, 3, 0.4),
    ({"augmix": [{"rotate": {"degrees": 20}}, {"contrast": {"factor": 0.7}}, "invert"]}, 1, 0.2),
    ({"kornia": {"operation": "RandomPlasmaShadow"}}, 0, 0),  # drawn while it applies, from the sample's own seed
]


@pytest.mark.parametrize(("spec", "largest", "mean"), BOUNDS)
def test_an_operation_is_the_torch_paths_within_its_bound(spec: Any, largest: int, mean: float) -> None:
    images = photo(12, 40, 48)
    policy = {"operations": [spec], "fill": 0.4}
    ours, other = (
        Augmenter(policy, seed=7, backend=backend)(images, KEYS).images.int() for backend in ("cv2", "torch")
    )
    apart = (ours - other).abs()
    assert int(apart.max()) <= largest
    assert float(apart.float().mean()) <= mean


@pytest.mark.parametrize("size", [(40, 640), (600, 60)])
def test_an_axis_that_shrinks_is_filtered_though_the_other_grows(size: tuple[int, int]) -> None:
    """Noise tells: a tenth of the pixels picked would keep its spread, their averages have a third of it or less."""
    noise = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = Augmenter([{"resize": {"size": 64}}], backend="cv2")(noise, KEYS[:2]).images
    assert float(made.float().std()) < float(noise.float().std()) / 3


@pytest.mark.parametrize("size", [13, 20, 24, 64, 90, 96])
@pytest.mark.parametrize("operation", ["resize", "resized_crop", "letterbox"])
def test_the_nearest_pixel_is_the_torch_paths_and_so_the_masks(operation: str, size: int) -> None:
    """Halves go up: pixels half way between two are many where sizes share factors, and a mask must lie on its image."""
    images = photo(12, 40, 48)
    policy = {"operations": [{operation: {"size": size}}], "interpolation": "nearest"}
    ours, other = (Augmenter(policy, seed=7, backend=backend)(images, KEYS).images for backend in ("cv2", "torch"))
    assert torch.equal(ours, other)
    masks = Augmenter(policy, seed=7, backend="cv2")(images, KEYS, masks=images).masks
    assert masks is not None
    assert torch.equal(masks, ours)


@pytest.mark.parametrize("spec", [{"resize": {"size": [8, 9]}}, {"resized_crop": {"size": 16}}])
def test_without_antialiasing_a_crop_is_sampled_and_not_averaged(spec: Any) -> None:
    policy = {"operations": [spec], "antialias": False}
    ours, other = (
        Augmenter(policy, seed=7, backend=backend)(photo(12, 40, 48), KEYS).images.int() for backend in ("cv2", "torch")
    )
    assert int((ours - other).abs().max()) <= 1


@pytest.mark.parametrize("spec", [{"rotate": {"degrees": [-40, 40]}}, "perspective"])
def test_turned_images_take_the_nearest_pixel_too(spec: Any) -> None:
    policy = {"operations": [spec], "interpolation": "nearest"}
    ours, other = (
        Augmenter(policy, seed=7, backend=backend)(photo(12, 40, 48), KEYS).images for backend in ("cv2", "torch")
    )
    assert torch.equal(ours, other)


def test_colours_that_are_not_clamped_meet_the_next_clamp_and_no_other() -> None:
    images = photo(12, 40, 48)
    shift, stretch = {"brightness_shift": {"shift": [-0.5, 0.5]}}, {"saturation_mean": {"factor": [1, 2]}}
    for spec in (
        [shift, stretch, {"contrast_mean": {"factor": 0.5}}],
        [shift, {"contrast": {"factor": 0.9}}, {"brightness": {"factor": 0.5}}],
    ):
        ours, kornia = (
            Augmenter(spec, seed=3, backend=backend)(images, KEYS).images.int() for backend in ("cv2", "kornia")
        )
        assert int((ours - kornia).abs().max()) <= 1


def test_a_forked_worker_makes_its_own_threads() -> None:
    images = np.zeros((8, 16, 16, 3), np.uint8)
    segments = program(draw(load("randaugment"), KEYS[:8], (16, 16)))
    run_cpu(images, segments, threads=2)
    child = multiprocessing.get_context("fork").Process(target=run_cpu, args=(images, segments, 2))
    child.start()
    child.join(60)
    code = child.exitcode
    child.kill()
    assert code == 0


def kornia_functions() -> dict[str, tuple[dict[str, float], Callable[[torch.Tensor], torch.Tensor], int]]:
    """Operation: its values, Kornia's function with the same, the largest difference in levels."""
    from kornia import color, enhance, filters

    return {
        "brightness": ({"factor": 1.4}, lambda x: enhance.adjust_brightness_accumulative(x, 1.4), 1),
        "contrast": ({"factor": 1.6}, lambda x: enhance.adjust_contrast_with_mean_subtraction(x, 1.6), 1),
        "saturation": ({"factor": 2.5}, lambda x: enhance.adjust_saturation_with_gray_subtraction(x, 2.5), 1),
        "hue": ({"turns": -0.3}, lambda x: enhance.adjust_hue(x, -0.6 * math.pi), 9),
        "gamma": ({"gamma": 0.7}, lambda x: enhance.adjust_gamma(x, 0.7), 1),
        "solarize": ({"threshold": 0.4}, lambda x: enhance.solarize(x, 0.4), 0),
        "posterize": ({"bits": 3}, lambda x: enhance.posterize(x, 3), 0),
        "invert": ({}, enhance.invert, 0),
        "grayscale": ({}, lambda x: color.rgb_to_grayscale(x).expand(-1, 3, -1, -1), 1),
        "equalize": ({}, enhance.equalize, 0),
        "autocontrast": ({}, enhance.normalize_min_max, 1),
        "sharpness": ({"factor": 1.8}, lambda x: enhance.sharpness(x, 1.8), 1),
        "gaussian_blur": ({"sigma": 1.3}, lambda x: filters.gaussian_blur2d(x, 9, (1.3, 1.3)), 1),
    }


def test_colours_and_filters_are_kornias_functions() -> None:
    images = photo(6, 40, 48, seed=3)
    images[0] = 77  # flat, where histograms and extremes have nothing to stretch
    for name, (values, function, largest) in kornia_functions().items():
        settings = values | ({"kernel": 9} if name == "gaussian_blur" else {})
        ours = Augmenter([{name: settings}], backend="cv2")(images, KEYS[:6]).images.int()
        theirs = (function(images.float() / 255) * 255).round().clamp(0, 255).int()
        if name == "autocontrast":  # Kornia makes a flat picture black; ours, like PIL, leaves it
            theirs[0] = 77
        assert int((ours - theirs).abs().max()) <= largest, name


def test_a_chain_of_colour_maps_is_one_map_rounded_once() -> None:
    images = photo(12, 40, 48)
    chain: list[Any] = [
        {"brightness": {"factor": 0.8}},
        {"saturation": {"factor": 0.7}},
        {"saturation": {"factor": 0.8}},
        "invert",
        {"contrast": {"factor": 0.7}},
        {"saturation_mean": {"factor": 0.8}},
        {"saturation_mean": {"factor": 0.7}},
        {"contrast_mean": {"factor": 0.9}},
        {"brightness_shift": {"shift": 0.1}},
        "invert",
    ]
    for steps in (chain, [*chain, "grayscale"]):
        ours, kornia = (Augmenter(steps, backend=backend)(images, KEYS).images.int() for backend in ("cv2", "kornia"))
        assert int((ours - kornia).abs().max()) <= 1


def test_threads_and_a_read_only_input_change_nothing() -> None:
    images = photo(12, 40, 48).permute(0, 2, 3, 1).contiguous().numpy()
    images.flags.writeable = False
    for name in ("simclr", "trivial", "augmix"):
        segments = program(draw(load({"preset": name, "size": 32}), KEYS, (40, 48)))
        np.testing.assert_array_equal(run_cpu(images, segments, threads=1), run_cpu(images, segments, threads=3))


def test_one_channel_is_warped_too() -> None:
    images = photo(12, 40, 48)[:, :1]
    spec = [
        {"resized_crop": {"size": 32}},
        {"rotate": {"degrees": [-20, 20]}},
        "horizontal_flip",
        {"roll": {"pixels": 3}},
    ]
    ours, other = (Augmenter(spec, seed=7, backend=backend)(images, KEYS).images.int() for backend in ("cv2", "torch"))
    assert ours.shape == (12, 1, 32, 32)
    assert float((ours - other).abs().float().mean()) < 3


def test_saturating_colours_clamp_where_the_chain_does() -> None:
    """Twice as bright and then half as bright is not the identity: the first clamps."""
    images = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    for backend in ("cv2", "torch", "kornia"):
        made = Augmenter([{"brightness": {"factor": 2}}, {"brightness": {"factor": 0.5}}], backend=backend)(
            images, ["a"]
        )
        assert made.images.unique().tolist() == [128]
