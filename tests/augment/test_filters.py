"""Filters with values of each sample's own are Kornia's on each image alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from augment.draws import draw, program
from augment.errors import PolicyError
from augment.filters import _blur_by_convolution as blur_by_convolution
from augment.filters import _trimmed as trimmed
from augment.filters import apply_filter, gaussian_weights
from augment.kornia_chain import run_kornia
from augment.policy import load
from augment.program import Filter
from tests.augment.making import photo

pytest.importorskip("kornia", reason="kornia is not installed: limbeck[augment]")
KEYS = list(range(8))
SPECS: list[Any] = [
    {"gaussian_blur": {"sigma": [0.1, 2.0], "kernel": 9}},
    {"gaussian_blur": {"p": 0.5}},
    {"sharpness": {"factor": [0, 3], "p": 0.7}},
    {"erase": {"p": 0.7, "value": 0.5}},
    {"gaussian_noise": {"std": [0.01, 0.2], "p": 0.7}},
    {"kornia": {"operation": "RandomPlasmaBrightness", "p": 0.7}},
    {"kornia": {"operation": "RandomSaltAndPepperNoise", "arguments": {"amount": 0.2}}},
]


def filter_of(spec: Any, size: tuple[int, int] = (33, 40)) -> Filter:
    (segment,) = program(draw(load([spec]), KEYS, size, seed=1))
    assert isinstance(segment, Filter)
    return segment


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_is_filtered_as_kornia_filters_each_image(spec: Any) -> None:
    images = photo(8, 33, 40).double() / 255
    step = filter_of(spec)
    torch.testing.assert_close(apply_filter(images, step), run_kornia(images, (step,)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("spec", SPECS)
def test_a_sample_alone_gives_the_same_bits_and_the_global_generator_is_left_alone(spec: Any) -> None:
    images = photo(8, 33, 40).float() / 255
    step = filter_of(spec)
    state = torch.get_rng_state()
    whole = apply_filter(images, step)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    for index in range(8):
        values = {name: column[[index]] for name, column in step.values.items()}
        assert torch.equal(
            apply_filter(images[[index]], Filter(step.name, step.on[[index]], values, step.constants))[0], whole[index]
        )


def test_erased_rectangles_are_where_the_table_says() -> None:
    step = filter_of({"erase": {"p": 1, "scale": [0.1, 0.3], "value": 0.25}})
    found = apply_filter(torch.ones(8, 3, 33, 40), step)
    for index in range(8):
        top, left, height, width = (int(step.values[side][index]) for side in ("top", "left", "height", "width"))
        expected = torch.ones(33, 40)
        expected[top : top + height, left : left + width] = 0.25
        assert torch.equal(found[index], expected.expand(3, -1, -1))
        assert 0.08 < height * width / (33 * 40) < 0.33


def test_noise_has_the_deviation_that_was_drawn() -> None:
    step = filter_of({"gaussian_noise": {"std": [0.05, 0.2]}}, (120, 120))
    noise = apply_filter(torch.zeros(8, 3, 120, 120), step)
    np.testing.assert_allclose(noise.std((1, 2, 3)).numpy(), step.values["std"], rtol=0.02)
    assert len({int(seed) for seed in step.values["seed"]}) == 8


def test_a_geometric_operation_of_kornia_or_a_wrong_argument_is_refused() -> None:
    images = torch.zeros(8, 3, 33, 40)
    with pytest.raises(PolicyError, match="'RandomAffine' is none"):
        apply_filter(images, filter_of({"kornia": {"operation": "RandomAffine"}}))
    with pytest.raises(PolicyError, match="switched by the operation's own p"):
        apply_filter(images, filter_of({"kornia": {"operation": "RandomRain", "arguments": {"p": 0.5}}}))
    with pytest.raises(PolicyError, match="RandomGaussianNoise cannot use"):
        apply_filter(images, filter_of({"kornia": {"operation": "RandomGaussianNoise", "arguments": {"stdd": 3}}}))


def test_faint_taps_are_left_out_without_a_trace() -> None:
    images = photo(8, 80, 96).float() / 255
    step = filter_of({"gaussian_blur": {"sigma": [0.1, 2.0], "kernel": 51}}, (80, 96))
    torch.testing.assert_close(apply_filter(images, step), run_kornia(images, (step,)), atol=1e-6, rtol=0)
    wide, narrow = (trimmed(line) for line in gaussian_weights(torch.tensor([2.0, 0.1]), 51).numpy())
    assert (len(wide), len(narrow)) == (23, 1)
    np.testing.assert_array_equal(wide, wide[::-1])
    assert abs(wide.sum() - 1) < 1e-6


def test_the_blur_of_a_device_keeps_its_precision_under_autocast() -> None:
    images = photo(2, 20, 24).float() / 255
    weights = gaussian_weights(torch.tensor([0.7, 1.5]), 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = blur_by_convolution(images, weights)
    torch.testing.assert_close(made, blur_by_convolution(images, weights), atol=0, rtol=0)
