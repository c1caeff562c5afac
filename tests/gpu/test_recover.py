"""Recovery on a CUDA device: the recorded step is the step as it is, a group is what it would be alone, and what it costs.

    python -m pytest tests/gpu/test_recover.py -m gpu
    python -m tests.bench.recover --device cuda --bfloat16 --steps 20 --json recover-GPU.json    # the table

Without a CUDA device it skips. No time is asserted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distill.cda import recover
from distill.config import RecoverConfig
from distill.graphs import WARM_UP, Replayed
from distill.networks import build

STEPS = WARM_UP + 9
WHERE: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "image_size": 32}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def teacher() -> nn.Module:
    """A small network with the running statistics of noise."""
    model = build("convnet3_w32", 10, 32, seed=1)
    with torch.no_grad():
        model.train()(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    return model.cuda().eval().requires_grad_(False)


def recovered(seeds: list[int], **more: Any) -> tuple[torch.Tensor, list[float]]:
    """Images (G, 10, 3, 32, 32) and the loss at every step."""
    config = RecoverConfig(iterations=STEPS, log_every=1, jitter=4, **more)
    done = recover(teacher(), torch.arange(10, device="cuda"), config, seeds=seeds, **WHERE)
    return done.images.cpu(), [loss for _, loss in done.losses]


def test_a_replayed_function_counts_every_call() -> None:
    total = torch.zeros(3, device="cuda")
    step = torch.ones(3, device="cuda")

    def add() -> torch.Tensor:
        total.add_(step)
        return total.sum()

    replayed = Replayed(add, torch.device("cuda"))
    for number in range(1, WARM_UP + 6):
        step.fill_(number)
        replayed()
    assert total.tolist() == [sum(range(1, WARM_UP + 6))] * 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("more", [{}, {"view_per_image": True}], ids=["a view a group", "a view an image"])
def test_the_recorded_step_is_the_step_as_it_is(
    precision: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, losses = recovered([3, 4], precision=precision, **more)
    monkeypatch.setattr("distill.cda.RECORD_FROM", STEPS + 1)
    plain, expected = recovered([3, 4], precision=precision, **more)
    assert losses == pytest.approx(expected, rel=1e-3)
    off = (images.int() - plain.int()).abs()
    assert float((off > 2).float().mean()) < 0.01


def test_recovering_twice_gives_the_same_bytes() -> None:
    assert torch.equal(recovered([3, 4])[0], recovered([3, 4])[0])


def test_a_group_on_the_device_is_what_it_would_be_alone() -> None:
    together = recovered([3, 4], precision="float32")[0]
    alone = recovered([4], precision="float32")[0]
    off = (together[1].int() - alone[0].int()).abs()
    assert float((off > 2).float().mean()) < 0.01


def test_the_residual_starts_the_optimiser_anew_in_a_recorded_step(monkeypatch: pytest.MonkeyPatch) -> None:
    start = torch.randint(0, 256, (1, 10, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    config = RecoverConfig(
        iterations=STEPS, log_every=1, jitter=4, precision="float32", residual_every=WARM_UP + 3, residual_alpha=0.5
    )

    def run() -> list[float]:
        targets = torch.arange(10, device="cuda")
        return [loss for _, loss in recover(teacher(), targets, config, seeds=[1], init=start, **WHERE).losses]

    losses = run()
    monkeypatch.setattr("distill.cda.RECORD_FROM", STEPS + 1)
    assert losses == pytest.approx(run(), rel=1e-3)
