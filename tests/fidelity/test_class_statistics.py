"""Statistics of one class in place of those of all (LPLD): what they are, and what an image's distance from them is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill import statistics
from distill.cda import recover
from distill.config import RecoverConfig
from distill.statistics import BatchNormMatcher, class_statistics
from tests.fidelity.test_cda import IMAGENET, tiny_network, wave

IMAGES = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def statistics_by_hand() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and biased variance of the input of each batch norm over all images and pixels, in double precision."""
    values = (IMAGES.double() / 255 - torch.tensor(IMAGENET[0]).double().view(3, 1, 1)) / torch.tensor(
        IMAGENET[1]
    ).double().view(3, 1, 1)
    goals = []
    for layer in tiny_network():
        if isinstance(layer, nn.BatchNorm2d):
            moved = values.transpose(0, 1).flatten(1)
            goals.append((moved.mean(1), ((moved - moved.mean(1, keepdim=True)) ** 2).mean(1)))
        values = layer(values)
    return goals


def test_statistics_of_a_class_are_those_of_its_images_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CLASS_BATCH", 3)  # three steps, the last of one image
    found = class_statistics(tiny_network().float(), IMAGES, mean=IMAGENET[0], std=IMAGENET[1])
    for ours, by_hand in zip(found, statistics_by_hand(), strict=True):
        for one, other in zip(ours, by_hand, strict=True):
            assert torch.allclose(one.double(), other, rtol=1e-5, atol=1e-7)


GOALS = [
    (
        torch.tensor([[0.1, -0.2, 0.05], [0.3, 0.0, -0.1]]).double(),
        torch.tensor([[0.5, 1, 0.25], [0.2, 0.4, 2]]).double(),
    )
]


@pytest.mark.parametrize("closed_form", [True, False])
def test_each_group_is_held_to_the_statistics_of_its_own(closed_form: bool) -> None:
    layer = nn.BatchNorm2d(3).double().eval()
    layer.get_buffer("running_mean").fill_(0.4)
    images = wave((4, 3, 4, 4)).requires_grad_(True)
    expected = []
    for group, part in enumerate(images.detach().chunk(2)):
        moved = part.transpose(0, 1).flatten(1)
        off_mean, off_var = moved.mean(1) - GOALS[0][0][group], moved.var(1, unbiased=False) - GOALS[0][1][group]
        expected.append(float(off_mean.norm() + off_var.norm()))
    with BatchNormMatcher(layer, 2, 1.0, closed_form, GOALS) as matcher:
        out = layer(images)
        assert torch.allclose(matcher.loss().detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
        (grad,) = torch.autograd.grad(matcher.loss().sum(), images)
    assert torch.allclose(out, layer(images)), "layers normalise by what they have stored"
    exact = images.detach().clone().requires_grad_(True)
    total = statistics.plain_distance(exact, *GOALS[0], 2).sum()
    assert torch.allclose(grad, torch.autograd.grad(total, exact)[0], rtol=0, atol=1e-12)


def test_groups_of_other_classes_are_recovered_apart() -> None:
    """A group of class 1 beside one of class 3, each with its own statistics, is what it is alone."""
    goals = [(torch.stack([mean, mean + 0.3]), torch.stack([var, 2 * var])) for mean, var in statistics_by_hand()]

    def run(places: list[int]) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        targets = torch.tensor([[1, 1], [3, 3]])[places]
        own = [(mean[places], var[places]) for mean, var in goals]
        recover(
            tiny_network(), targets, RecoverConfig(iterations=5, jitter=2), seeds=places, mean=IMAGENET[0],
            std=IMAGENET[1], image_size=8, goals=own, dtype=torch.float64,
            on_step=lambda _step, images, _loss: seen.append(images.clone()),
        )  # fmt: skip
        return seen[-1]

    assert torch.allclose(run([0, 1])[1], run([1])[0], rtol=0, atol=1e-10)
    assert not torch.allclose(run([0])[0], run([1])[0])
