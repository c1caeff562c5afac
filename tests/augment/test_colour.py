"""Folded colour operations are Kornia's, one after the other; and do not depend on the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from augment.colour import apply_colour
from augment.draws import draw, program
from augment.kornia_chain import run_kornia
from augment.policy import load
from augment.program import Colour, ColourStep
from tests.augment.making import photo

KEYS = list(range(8))


pytest.importorskip("kornia", reason="kornia is not installed: limbeck[augment]")


def colour_of(spec: Any, seed: int = 3) -> Colour:
    (segment,) = program(draw(load(spec), KEYS, (24, 30), seed=seed))
    assert isinstance(segment, Colour)
    return segment


SINGLE: list[Any] = [
    {"brightness": {"factor": [0.3, 1.8]}},
    {"contrast": {"factor": [0.3, 1.8]}},
    {"saturation": {"factor": [0, 3]}},
    {"hue": {"turns": [-0.5, 0.5]}},
    {"gamma": {"gamma": [0.4, 2.5]}},
    {"solarize": {"threshold": [0, 1]}},
    {"posterize": {"bits": [0, 8]}},
    "invert",
    "grayscale",
    "channel_shuffle",
    "autocontrast",
    "equalize",
    {"brightness_shift": {"shift": [-0.5, 0.5]}},
    {"saturation_mean": {"factor": [0, 2]}},
    {"contrast_mean": {"factor": [0.5, 1.5]}},
]
CHAINS: list[Any] = [
    [{"color_jitter": {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "p": 0.8}}, {"grayscale": {"p": 0.4}}],
    [{"contrast": {"factor": [0.2, 1]}}, "invert", {"contrast": {"factor": [0.5, 2]}}, {"brightness": {"factor": 1.5}}, "channel_shuffle"],
    [{"brightness_shift": {"shift": [-0.5, 0.5]}}, {"saturation_mean": {"factor": [0, 2]}}, {"contrast_mean": {"factor": [0.5, 1.5]}}],
    [{"one_of": SINGLE[:6]}, {"one_of": SINGLE[6:12]}],
    [{"contrast_mean": {"factor": [1.5, 2]}}, {"solarize": {"threshold": [0, 1]}}],
    [{"saturation": {"factor": 2}}, {"gamma": {"gamma": 0.5, "p": 0.5}}, "grayscale", "equalize"],
]  # fmt: skip


@pytest.mark.parametrize("spec", [*([one] for one in SINGLE), *CHAINS])
def test_what_is_folded_is_the_chain(spec: Any) -> None:
    images = photo(8, 24, 30).double() / 255
    colour = colour_of(spec)
    before = images.clone()
    torch.testing.assert_close(apply_colour(images, colour), run_kornia(images, (colour,)), atol=1e-6, rtol=0)
    assert torch.equal(images, before)


@pytest.mark.parametrize("spec", CHAINS)
@pytest.mark.parametrize("last", [False, True])
def test_a_sample_alone_gives_the_same_bits(spec: Any, last: bool) -> None:
    images = photo(8, 24, 30).float() / 255
    if last:
        images = images.to(memory_format=torch.channels_last)
    colour = colour_of(spec)
    whole = apply_colour(images, colour)
    for index in range(8):
        steps = [
            ColourStep(step.name, step.on[[index]], {name: column[[index]] for name, column in step.values.items()})
            for step in colour.steps
        ]
        assert torch.equal(apply_colour(images[[index]], Colour(tuple(steps)))[0], whole[index])


def test_hue_has_a_finite_gradient_on_grey_pixels() -> None:
    images = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    step = ColourStep("hue", np.array([True]), {"turns": np.array([0.2], np.float32)})
    apply_colour(images, Colour((step,))).sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()


def test_equalize_is_pillows() -> None:
    from PIL import Image, ImageOps

    images = photo(8, 24, 30)
    found = (apply_colour(images.float() / 255, colour_of(["equalize"])) * 255).round().to(torch.uint8)
    for image, ours in zip(images, found, strict=True):
        theirs = np.asarray(ImageOps.equalize(Image.fromarray(image.permute(1, 2, 0).numpy())))
        np.testing.assert_array_equal(ours.permute(1, 2, 0).numpy(), theirs)


def test_under_autocast_colours_keep_their_precision_with_a_gradient_too() -> None:
    images = (photo(8, 24, 30).float() / 255).requires_grad_()
    colour = colour_of([{"saturation": {"factor": [0, 2]}}])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = apply_colour(images, colour)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, apply_colour(images, colour), atol=0, rtol=0)
