"""Colour: the folded program equals Kornia's functions one after the other, sample by sample, and never knows its batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: limbeck[distill]")
pytest.importorskip("kornia", reason="kornia is not installed")

from augment.colour import apply_colour  # noqa: E402
from augment.colour_plan import plan_colour  # noqa: E402
from augment.kornia_chain import run_kornia  # noqa: E402
from augment.program import Colour, ColourStep, Filter  # noqa: E402
from augment.torch_chain import run_torch  # noqa: E402

Draw = Callable[[np.random.Generator, int], dict[str, np.ndarray]]


def _uniform(key: str, low: float, high: float) -> Draw:
    return lambda random, count: {key: random.uniform(low, high, count).astype(np.float32)}


def _orders(random: np.random.Generator, count: int, things: int) -> np.ndarray:
    return np.stack([random.permutation(things) for _ in range(count)]).astype(np.int8)


def _jitter(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    factors = {
        key: random.uniform(0.4, 1.6, count).astype(np.float32) for key in ("brightness", "contrast", "saturation")
    }
    return {**factors, "hue": random.uniform(-0.3, 0.3, count).astype(np.float32), "order": _orders(random, count, 4)}


DRAWS: dict[str, Draw] = {
    "brightness": _uniform("factor", 0.3, 1.9),
    "contrast": _uniform("factor", 0.3, 1.9),
    "saturation": _uniform("factor", 0.0, 2.5),
    "hue": _uniform("turns", -0.5, 0.5),
    "jitter": _jitter,
    "gamma": _uniform("gamma", 0.3, 2.5),
    "solarize": _uniform("threshold", 0.1, 0.9),
    "posterize": lambda random, count: {"bits": random.integers(0, 9, count)},
    "invert": lambda random, count: {},
    "grayscale": lambda random, count: {},
    "channel_shuffle": lambda random, count: {"order": _orders(random, count, 3)},
    "autocontrast": lambda random, count: {},
    "equalize": lambda random, count: {},
    "brightness_shift": _uniform("shift", -0.5, 0.5),
    "saturation_mean": _uniform("factor", 0.0, 2.0),
    "contrast_mean": _uniform("factor", 0.5, 1.5),
}
SMOOTH = [name for name in DRAWS if name not in ("solarize", "posterize", "equalize", "autocontrast")]


def make_step(name: str, random: np.random.Generator, count: int, probability: float = 1.0) -> ColourStep:
    """A drawn step, off for some samples unless `probability` is 1."""
    return ColourStep(name, random.random(count) < probability, DRAWS[name](random, count))


def make_images(random: np.random.Generator, count: int, height: int, width: int) -> torch.Tensor:
    """8-bit pictures with black, white and gray in them, where hue and clamps are at their edges."""
    levels = random.integers(0, 256, (count, 3, height, width))
    levels[:, :, 0] = 0
    levels[:, :, 1] = 255
    levels[:, :, 2] = levels[:, :1, 2]
    levels[:, 0, 3] = levels[:, 1, 3]
    return torch.from_numpy((levels / 255).astype(np.float32))


@pytest.mark.parametrize("size", [(9, 13), (100, 97)])
@pytest.mark.parametrize("name", DRAWS)
def test_every_operation_is_kornias_for_small_images_and_for_large(name: str, size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    images = make_images(random, 8, *size)
    colour = Colour((make_step(name, random, 8, 0.7),))
    given = images.clone()
    result = apply_colour(images, colour)
    assert torch.equal(images, given), "the images given must stay as they are"
    torch.testing.assert_close(result, run_kornia(images, [colour]), atol=3e-6, rtol=0)
    off = ~torch.from_numpy(colour.steps[0].on)
    assert torch.equal(result[off], images[off])


@pytest.mark.parametrize("size", [(8, 8), (100, 97)])
@pytest.mark.parametrize("seed", range(12))
def test_any_chain_of_smooth_operations_equals_kornias_chain(seed: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    names = random.choice([name for name in SMOOTH if name != "gamma"], 6)
    images = make_images(random, 6, *size)
    colour = Colour(tuple(make_step(name, random, 6, 0.8) for name in names))
    expected = run_kornia(images, [colour])
    torch.testing.assert_close(apply_colour(images, colour), expected, atol=2e-5, rtol=1e-5)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(apply_colour(images, colour, mean, std), normalised, atol=1e-4, rtol=1e-5)


def test_the_operations_that_step_agree_in_a_chain_but_for_pixels_at_an_edge() -> None:
    random = np.random.default_rng(3)
    images = make_images(random, 6, 40, 40)
    names = ("jitter", "solarize", "equalize", "gamma", "autocontrast", "posterize")
    colour = Colour(tuple(make_step(name, random, 6, 0.7) for name in names))
    difference = (apply_colour(images, colour) - run_kornia(images, [colour])).abs()
    assert (difference > 1e-5).float().mean() < 2e-3, "a value on the edge of a step may fall to the other side"


def test_images_beyond_the_unit_interval_are_clamped_as_kornia_clamps_them() -> None:
    random = np.random.default_rng(5)
    images = make_images(random, 6, 8, 8) * 1.4 - 0.2
    colour = Colour((make_step("jitter", random, 6, 0.5), make_step("brightness", random, 6, 0.5)))
    result = apply_colour(images, colour, bounded=False)
    torch.testing.assert_close(result, run_kornia(images, [colour]), atol=3e-6, rtol=0)


def test_a_program_clamps_what_noise_or_an_unclamped_step_drove_out_of_the_unit_interval() -> None:
    random = np.random.default_rng(6)
    images = make_images(random, 6, 8, 8)
    seeds = random.integers(0, 2**63, 6).astype(np.uint64)
    noise = Filter("gaussian_noise", np.ones(6, bool), {"std": np.full(6, 0.3, np.float32), "seed": seeds})
    darker = ColourStep("brightness", np.ones(6, bool), {"factor": np.full(6, 0.8, np.float32)})
    shift = Colour((make_step("brightness_shift", random, 6),))
    for segments in ((noise, Colour((darker,))), (shift, noise, Colour((darker,)))):
        torch.testing.assert_close(run_torch(images, segments), run_kornia(images, segments), atol=3e-6, rtol=0)


@pytest.mark.parametrize("size", [(7, 9), (32, 32), (97, 101)])
def test_splitting_a_batch_never_changes_a_bit(size: tuple[int, int]) -> None:
    random = np.random.default_rng(7)
    count = 50 if size[0] < 97 else 5
    images = make_images(random, count, *size)
    steps = tuple(
        make_step(name, random, count, 0.6) for name in ("jitter", "solarize", "grayscale", "gamma", "equalize")
    )
    whole = apply_colour(images, Colour(steps), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    start = 0
    for length in (1, 2, count - 3):
        part = slice(start, start + length)
        start += length
        cut = tuple(
            ColourStep(step.name, step.on[part], {key: value[part] for key, value in step.values.items()})
            for step in steps
        )
        assert torch.equal(apply_colour(images[part], Colour(cut), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), whole[part])


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    random = np.random.default_rng(11)
    images = torch.from_numpy(random.uniform(0.05, 0.95, (2, 3, 3, 3))).requires_grad_()
    colour = Colour((make_step(name, random, 2),))
    assert torch.autograd.gradcheck(lambda tensor: apply_colour(tensor, colour), (images,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in DRAWS if name != "posterize"])
def test_gradients_are_kornias(name: str) -> None:
    random = np.random.default_rng(13)
    colour = Colour((make_step(name, random, 4, 0.8),))
    start = torch.from_numpy(random.uniform(0.01, 0.99, (4, 3, 6, 6)).astype(np.float32))
    weights = torch.from_numpy(random.normal(size=start.shape).astype(np.float32))
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    (apply_colour(ours, colour) * weights).sum().backward()
    (run_kornia(theirs, [colour]) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_clamps_that_cannot_bite_cost_no_round() -> None:
    def value(factor: float) -> dict[str, np.ndarray]:
        return {"factor": np.array([factor], np.float32)}

    on = np.ones(1, bool)
    names = ("brightness", "contrast", "saturation")
    darker = Colour(tuple(ColourStep(name, on, value(0.7)) for name in names))
    plan = plan_colour(darker, 1)
    assert plan.active.sum() == 1
    assert not plan.clamp.any()
    brighter = Colour(tuple(ColourStep(name, on, value(1.3)) for name in names))
    assert plan_colour(brighter, 1).clamp.sum() == 3


def test_normalising_costs_no_round_after_a_matrix() -> None:
    colour = Colour((make_step("contrast", np.random.default_rng(0), 4),))
    mean, std = np.full(3, 0.5), np.full(3, 0.2)
    assert plan_colour(colour, 4, mean, std).active.shape[1] == plan_colour(colour, 4).active.shape[1] == 1


def test_an_unknown_operation_is_named() -> None:
    step = ColourStep("sepia", np.ones(2, bool), {})
    with pytest.raises(ValueError, match="sepia"):
        apply_colour(torch.rand(2, 3, 8, 8), Colour((step,)))
