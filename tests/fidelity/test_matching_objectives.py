"""Gradient and trajectory matching (`docs/specs/matching.md`) written out in float64: distances, and gradients through what is unrolled."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from distill.matching.gradients import gradient_distance
from distill.matching.trajectories import trajectory_gradient
from distill.networks import build


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny() -> nn.Module:
    return build("convnet2_w4_in", 3, 8, 1).double()


def test_the_distance_of_gradients_is_one_minus_the_cosine_of_every_row() -> None:
    """Two layers and a bias, in numbers: rows that agree, that are at right angles, that oppose."""
    real = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([5.0]), torch.tensor([[[[2.0]], [[0.0]]]])]
    ours = [torch.tensor([[6.0, 8.0], [0.0, 2.0]]), torch.tensor([-5.0]), torch.tensor([[[[-1.0]], [[0.0]]]])]
    expected = (1 - 50 / (50 + 1e-6)) + (1 - 0) + (1 + 2 / (2 + 1e-6))
    assert math.isclose(float(gradient_distance(real, ours)), expected, abs_tol=1e-6)


def test_the_gradient_of_a_distance_of_gradients_is_that_of_rows_in_a_loop() -> None:
    network, condensed = tiny(), drawn(4, 3, 8, 8, seed=1).requires_grad_()
    targets = torch.full((5,), 2)

    def weight_gradients(images: torch.Tensor, keep: bool) -> tuple[torch.Tensor, ...]:
        loss = F.cross_entropy(network(images), targets[: len(images)])
        return torch.autograd.grad(loss, list(network.parameters()), create_graph=keep)

    real, own = weight_gradients(drawn(5, 3, 8, 8, seed=2), False), weight_gradients(condensed, True)
    by_rows = torch.zeros((), dtype=torch.float64)
    for (name, parameter), g, h in zip(network.named_parameters(), real, own, strict=True):
        if name.endswith("bias") or parameter.ndim == 1:
            continue
        for row in range(len(parameter)):
            a, b = g[row].reshape(-1), h[row].reshape(-1)
            by_rows = by_rows + 1 - a.dot(b) / (a.dot(a).sqrt() * b.dot(b).sqrt() + 1e-6)
    distance = gradient_distance(real, own)
    assert abs(float((distance - by_rows).detach())) < 1e-10
    ours, expected = (torch.autograd.grad(one, condensed, retain_graph=True)[0] for one in (distance, by_rows))
    assert float(expected.abs().max()) > 1e-4
    assert float((ours - expected).abs().max()) < 1e-10


def test_the_gradient_of_a_trajectory_is_that_of_all_steps_unrolled() -> None:
    """Five steps of SGD with their whole graph, against ours, that goes back a step at a time: images and rate."""
    network, images = tiny(), drawn(6, 3, 8, 8, seed=3).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    target = {name: value + 0.05 * drawn(*value.shape, seed=4) for name, value in start.items()}
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = [(2 * step + place) % 6 for place in range(4)]
        return (1 + 0.1 * step) * images[chosen].flip(3), labels[chosen]

    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    for step in range(5):
        x, y = batch(step)
        loss = F.cross_entropy(functional_call(network, weights, (x,)), y)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: w - rate * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    away = sum(((weights[name] - target[name]) ** 2).sum() for name in start)
    unrolled = away / sum(((start[name] - target[name]) ** 2).sum() for name in start)
    by_images, by_rate = torch.autograd.grad(unrolled, [images, rate])  # type: ignore[list-item]
    ours = trajectory_gradient(network, start, target, batch, 5, rate, images)
    assert abs(float(ours.loss.detach()) - float(unrolled.detach())) < 1e-12  # type: ignore[union-attr]
    assert float(by_images.abs().max()) > 1e-6
    assert float((ours.images - by_images).abs().max()) < 1e-12 + 1e-9 * float(by_images.abs().max())
    assert math.isclose(float(ours.rate), float(by_rate), rel_tol=1e-9)
