"""The low-frequency crop is the discrete Fourier transform's, and the curriculum's steps are EfficientTrain's."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from augment.errors import PolicyError
from augment.frequencies import EfficientTrain, low_frequency_crop


def written_out(image: list[list[float]], side: int) -> list[list[float]]:
    """The crop of one channel by the definition of the transform, sum by sum."""
    size = len(image)
    spectrum = {
        (u, v): sum(
            image[y][x] * cmath.exp(-2j * math.pi * (u * y + v * x) / size) for y in range(size) for x in range(size)
        )
        for u in range(-(side // 2), side - side // 2)
        for v in range(-(side // 2), side - side // 2)
    }
    inverse = [
        [
            sum(value * cmath.exp(2j * math.pi * (u * m + v * n) / side) for (u, v), value in spectrum.items())
            for n in range(side)
        ]
        for m in range(side)
    ]
    # The inverse transform divides by side^2; side^2 / size^2 keeps the mean.
    return [[(value / side**2).real * side**2 / size**2 for value in row] for row in inverse]


@pytest.mark.parametrize(("size", "side"), [(8, 6), (8, 5), (9, 6), (9, 7), (8, 1)])
def test_the_crop_is_the_written_out_transform(size: int, side: int) -> None:
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(size * side), dtype=torch.float64)
    expected = torch.tensor(written_out(image[0, 0].tolist(), side), dtype=torch.float64)
    torch.testing.assert_close(low_frequency_crop(image, side)[0, 0], expected, rtol=0, atol=1e-12)


def test_a_constant_image_stays_and_so_does_the_mean() -> None:
    constant = torch.full((1, 3, 16, 16), 0.7)
    torch.testing.assert_close(low_frequency_crop(constant, 10), torch.full((1, 3, 10, 10), 0.7))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(low_frequency_crop(images, 6).mean((2, 3)), images.mean((2, 3)))


@pytest.mark.parametrize(("u", "v"), [(1, 0), (3, 2), (0, 4)])
def test_a_sinusoid_below_the_limit_is_sampled_anew_without_error(u: int, v: int) -> None:
    def wave(side: int) -> torch.Tensor:
        axis = torch.arange(side, dtype=torch.float64) * 2 * math.pi / side
        return torch.cos(u * axis[:, None] + v * axis + 0.3)[None, None]

    torch.testing.assert_close(low_frequency_crop(wave(16), 10), wave(10), rtol=0, atol=1e-12)
    high = torch.cos(torch.arange(16, dtype=torch.float64) * 2 * math.pi * 7 / 16).expand(1, 1, 16, 16)
    assert low_frequency_crop(high, 10).abs().max() < 1e-12


def test_gradients_pass_and_types_stay() -> None:
    images = torch.rand(1, 1, 8, 8, requires_grad=True)
    low_frequency_crop(images, 4).sum().backward()
    torch.testing.assert_close(images.grad, torch.full((1, 1, 8, 8), 16 / 64))
    assert low_frequency_crop(torch.rand(1, 1, 8, 8, dtype=torch.bfloat16), 4).dtype == torch.bfloat16
    assert low_frequency_crop(images, 8) is images


def test_published_steps_and_their_scaling() -> None:
    published = EfficientTrain(224, 300, multiple=32)
    assert [published.side(epoch) for epoch in (0, 179, 180, 239, 240, 299)] == [160, 160, 192, 192, 224, 224]
    assert math.isclose(published.cost(), 0.6 * (160 / 224) ** 2 + 0.2 * (192 / 224) ** 2 + 0.2)
    small = EfficientTrain(32, 5)
    assert [small.side(epoch) for epoch in range(5)] == [22, 22, 22, 28, 32]
    assert [EfficientTrain(32, 4).side(epoch) for epoch in range(4)] == [22, 22, 28, 32]
    assert EfficientTrain(32, 1).side(0) == 32  # the last epoch is always whole
    images = torch.rand(2, 3, 32, 32)
    assert [small(images, epoch).shape[-1] for epoch in range(5)] == [22, 22, 22, 28, 32]
    halves = EfficientTrain(32, 4, steps=((0.5, 0.5), (1.0, 1.0)))
    assert [halves.side(epoch) for epoch in range(4)] == [16, 16, 32, 32]


def test_what_is_no_curriculum_is_refused() -> None:
    for steps in ((), ((1.0, 0.5),), ((0.5, 0.5),), ((0.6, 0.5), (0.6, 0.7), (1.0, 1.0)), ((0.5, 0.0), (1.0, 1.0))):
        with pytest.raises(PolicyError, match="steps take"):
            EfficientTrain(32, 4, steps=steps)
    with pytest.raises(PolicyError, match="there are epochs 0 to 3, got 4"):
        EfficientTrain(32, 4).side(4)
    with pytest.raises(PolicyError, match="of 32 pixels, the images have 28x28"):
        EfficientTrain(32, 4)(torch.rand(1, 1, 28, 28), 0)
    with pytest.raises(PolicyError, match="float images"):
        low_frequency_crop(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 4)
    with pytest.raises(PolicyError, match="multiple"):
        EfficientTrain(32, 4, multiple=64)
