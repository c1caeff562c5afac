"""Where the improved mode departs from the published one: views of their own, bfloat16, and what stops it."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from distill.cda import apply_draws, draw, draw_table, learning_rate, recover
from distill.config import RecoverConfig
from distill.statistics import BatchNormMatcher, batch_statistics, plain_distance
from tests.fidelity.test_cda import IMAGENET, recovered, tiny_network, wave


def test_views_of_one_image_each_are_the_views_of_lone_images() -> None:
    images, generator = wave((2, 3, 3, 8, 8)), torch.Generator().manual_seed(4)
    draws = [draw(9, 8, RecoverConfig(iterations=10, jitter=2), generator, random.Random(one)) for one in range(6)]
    together = apply_draws(images, draw_table(draws)).flatten(0, 1)
    for place, one in enumerate(images.flatten(0, 1)):
        assert torch.equal(together[place], apply_draws(one[None, None], draw_table([draws[place]]))[0, 0])


def test_images_with_views_of_their_own_are_recovered_apart_from_other_groups() -> None:
    def run(seeds: list[int], view_per_image: bool = True) -> torch.Tensor:
        return recovered(RecoverConfig(iterations=8, view_per_image=view_per_image, jitter=2), seeds)

    assert torch.allclose(run([3, 4])[1], run([4])[0], rtol=0, atol=1e-10)
    assert not torch.allclose(run([4]), run([4], view_per_image=False))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_of_bfloat16_activations_are_float32(dtype: torch.dtype, groups: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = (wave((6, 16, 8, 8)).to(device) * 3 + 20).to(dtype).contiguous(memory_format=torch.channels_last)
    layer = nn.BatchNorm2d(16).eval().requires_grad_(False).to(device)
    stored_mean, stored_var = layer.get_buffer("running_mean").fill_(19.0), layer.get_buffer("running_var")
    exact = x.double().requires_grad_(True)
    distance = plain_distance(exact, stored_mean.double(), stored_var.double(), groups)
    (expected,) = torch.autograd.grad(distance.sum(), exact)
    mean, var = batch_statistics(x, groups)
    assert mean.dtype == var.dtype == torch.float32
    x.requires_grad_(True)
    with BatchNormMatcher(layer, groups, first_multiplier=1.0) as matcher:
        layer(x)
        ours = matcher.loss()
        (grad,) = torch.autograd.grad(ours.sum(), x)
    assert torch.allclose(ours.double(), distance, rtol=1e-5)
    # bfloat16 has 8 bits. Were the affine map not centred in float32, a mean of 20 would cost the gradient 4 of them.
    assert float((grad - expected).norm() / expected.norm()) < (4e-3 if dtype == torch.bfloat16 else 1e-5)


def test_recovery_in_bfloat16_follows_float32() -> None:
    def run(precision: str) -> list[float]:
        config = RecoverConfig(iterations=10, log_every=1, precision=precision)  # type: ignore[arg-type]
        model, targets = tiny_network().float(), torch.arange(5)
        done = recover(model, targets, config, seeds=[0], mean=IMAGENET[0], std=IMAGENET[1], image_size=16)
        return [loss for _, loss in done.losses]

    exact, half = run("float32"), run("bfloat16")
    assert half != exact
    assert max(abs(one - other) / other for one, other in zip(half, exact, strict=True)) < 0.02


def test_adam_starts_anew_where_the_start_is_mixed_in() -> None:
    """Adam's first step has the length of the learning rate in every pixel; no later one has."""
    states: list[torch.Tensor] = []
    start = torch.randint(100, 156, (1, 5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    config = RecoverConfig(iterations=8, residual_every=5, residual_alpha=0.75, learning_rate=0.01, crop=False)
    where = {"mean": IMAGENET[0], "std": IMAGENET[1], "image_size": 8, "dtype": torch.float64}
    recover(
        tiny_network(), torch.arange(5), config, seeds=[0], init=start, **where,  # type: ignore[arg-type]
        on_step=lambda _step, images, _loss: states.append(images.clone()),
    )  # fmt: skip
    real = (start.double() / 255 - torch.tensor(IMAGENET[0]).double().view(-1, 1, 1)) / torch.tensor(
        IMAGENET[1]
    ).double().view(-1, 1, 1)
    after = (states[5] - (0.75 * states[4] + 0.25 * real)).abs(), (states[6] - states[5]).abs()
    first, second = (
        float((moved / learning_rate(step, config) - 1).abs().lt(0.01).double().mean())
        for step, moved in zip((5, 6), after, strict=True)
    )
    assert first > 0.95  # all but pixels whose gradient is as small as Adam's epsilon
    assert second < 0.5


def test_a_broken_teacher_stops_recovery() -> None:
    model, config = tiny_network(), RecoverConfig(iterations=3, log_every=1)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    where = {"mean": IMAGENET[0], "std": IMAGENET[1], "image_size": 8, "dtype": torch.float64}
    with pytest.raises(ValueError, match=r"teacher is broken: its 0\.weight"):
        recover(model, torch.arange(5), config, seeds=[0], **where)  # type: ignore[arg-type]
