"""Fidelity of FADRM's residuals (`docs/specs/cda.md`): its loop of blocks, written here once more."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.nn import functional as F

from distill.cda import apply_draws, draw, draw_table, recover
from distill.config import RecoverConfig
from distill.statistics import BatchNormMatcher
from tests.fidelity.test_cda import IMAGENET, tiny_network

START = torch.randint(0, 256, (1, 5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))


def blocks_by_hand(blocks: list[int], alpha: float, rate: float) -> list[float]:
    """Losses, sum and norm: Adam new in each block, one cosine over all steps, X <- alpha X + (1 - alpha) X_0 between blocks."""
    mean, std = (torch.tensor(values).double().view(-1, 1, 1) for values in IMAGENET)
    patch = (START[0].double() / 255 - mean) / std
    inputs, teacher, targets = patch.clone(), tiny_network(), torch.arange(5)
    torch_rng, roll_rng = torch.Generator().manual_seed(3), random.Random(3)
    drawn_by = RecoverConfig(milestone=0.0, jitter=2)
    losses: list[float] = []
    for number, steps in enumerate(blocks):
        inputs = inputs.detach().requires_grad_(True)
        optimizer = torch.optim.Adam([inputs], lr=rate, betas=(0.5, 0.9), eps=1e-8)
        for _ in range(steps):
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * len(losses) / sum(blocks)))
            views = apply_draws(inputs[None], draw_table([draw(len(losses), 8, drawn_by, torch_rng, roll_rng)]))[0]
            with BatchNormMatcher(teacher, 1, 10.0, closed_form=False) as matcher:
                loss = F.cross_entropy(teacher(views), targets) + 0.01 * matcher.loss()[0]
                (inputs.grad,) = torch.autograd.grad(loss, inputs)
            optimizer.step()
            losses.append(float(loss.detach()))
            with torch.no_grad():
                inputs.clamp_(-mean / std, (1 - mean) / std)
        if number + 1 < len(blocks):
            inputs = alpha * inputs.detach() + (1 - alpha) * patch
    return [*losses, float(inputs.detach().sum()), float(inputs.detach().norm())]


@pytest.mark.parametrize("mode", ["reference", "improved"])
def test_residuals_are_mixed_in_between_blocks_as_published(mode: str) -> None:
    config = RecoverConfig(
        mode=mode,  # type: ignore[arg-type]
        milestone=0.0,
        iterations=9,
        jitter=2,
        log_every=1,
        learning_rate=0.05,
        residual_every=3,
        residual_alpha=0.5,
    )
    seen: list[torch.Tensor] = []
    done = recover(
        tiny_network(),
        torch.arange(5),
        config,
        seeds=[3],
        mean=IMAGENET[0],
        std=IMAGENET[1],
        image_size=8,
        init=START,
        dtype=torch.float64,
        on_step=lambda _step, images, _loss: seen.append(images.clone()),
    )
    ours = [loss for _, loss in done.losses] + [float(seen[-1].sum()), float(seen[-1].norm())]
    expected = blocks_by_hand([3, 3, 3], 0.5, 0.05)
    assert all(math.isclose(one, other, rel_tol=1e-7) for one, other in zip(ours, expected, strict=True))
    without = blocks_by_hand([9], 0.5, 0.05)
    assert not math.isclose(ours[-1], without[-1], rel_tol=1e-3)
