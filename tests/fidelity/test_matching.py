"""Fidelity of distribution matching (`docs/specs/matching.md`): an iteration written out in float64, and each kind of augmentation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from augment.augmenter import Augmenter
from distill.matching.config import MatchConfig
from distill.matching.distribution import Matching
from distill.matching.features import feature_maps, mean_features
from distill.networks import ConvNet, build
from distill.siamese import siamese_policy
from tests.distill.test_matching import MEAN, STD, images

CLASSES, TILES, SIZE = (0, 3), 2, 8


def matching(**options: Any) -> Matching:
    """Two classes of colour images, four tiles in each of two stored ones."""
    config = MatchConfig(network="convnet2_w4_in", pool_every=0, real_batch=6, tiles=TILES, **options)
    real = [images(12, label) for label in CLASSES]
    start = torch.stack([one[: 2 * TILES**2] for one in real])
    return Matching(real, CLASSES, start, config, classes=5, mean=MEAN, std=STD, seed=3)


def centre_and_spread() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))  # type: ignore[return-value]


def phi(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The flattened last map of two blocks of convolution, instance norm, ReLU and mean of 2 x 2."""
    for block in (0, 4):
        x = F.conv2d(x, weights[f"features.{block}.weight"], padding=1)
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt()
        x = x.clamp_min(0).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    return x.flatten(1)


def test_one_iteration_is_the_published_arithmetic() -> None:
    """Every second iteration's loss and step, from the draws as they are recorded: class by class, in float64."""
    one = matching(iterations=2, learning_rate=0.7)
    centre, spread = centre_and_spread()
    velocity = torch.zeros(one.images.shape, dtype=torch.float64)
    for step in range(2):
        x = one.images.detach().double().requires_grad_()
        weights = {name: value.double() for name, value in one._network(step).state_dict().items()}
        loss = torch.zeros((), dtype=torch.float64)
        for place, label in enumerate(CLASSES):
            stored = x[2 * place : 2 * place + 2]
            half = SIZE // TILES
            tiles = [
                F.interpolate(image[None, :, t : t + half, u : u + half], (SIZE, SIZE), mode="bilinear")
                for image in stored
                for t in (0, half)
                for u in (0, half)
            ]
            sides = []
            for pixels in (one._real_batch(place, step).double(), torch.cat(tiles) * spread + centre):
                draws = one._augment.draw([str(label)] * len(pixels), (SIZE, SIZE), epoch=step)
                seen = one._augment.replay(pixels, draws).images
                sides.append(phi(weights, (seen - centre) / spread).mean(0))
            loss = loss + (sides[0].detach() - sides[1]).square().sum()
        (gradient,) = torch.autograd.grad(loss, x)
        velocity = 0.5 * velocity + gradient
        expected = x.detach() - 0.7 * velocity
        assert one.advance() == pytest.approx(loss.item(), rel=1e-5)
        assert float((one.images.detach().double() - expected).abs().max()) < 1e-6


def test_the_short_way_to_features_is_the_network() -> None:
    generator = torch.Generator().manual_seed(0)
    network = build("convnet2_w4_in", 5, SIZE, 1).double().eval().requires_grad_(False)
    assert isinstance(network, ConvNet)
    with torch.no_grad():  # not as they begin: scales and shifts of their own
        for layer in (network.features[1], network.features[5]):
            layer.weight.copy_(0.5 + torch.rand(4, generator=generator, dtype=torch.float64))  # type: ignore[operator]
            layer.bias.copy_(torch.randn(4, generator=generator, dtype=torch.float64))  # type: ignore[operator]
    x = 3 + torch.randn(70, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    expected = network.features(x)
    assert float((feature_maps(network, x) - expected).abs().max()) < 1e-10
    means = expected.flatten(1).view(2, 35, -1).mean(1)
    assert float((mean_features(network, x, 2) - means).abs().max()) < 1e-10
    with torch.no_grad():  # a negative scale turns the threshold round: the plain way is taken
        network.features[5].weight[0] = -1.0  # type: ignore[index,operator]
    assert torch.equal(feature_maps(network, x), network.features(x))


def test_both_sides_of_a_class_have_the_same_draws() -> None:
    one = matching(iterations=1)
    for step in range(20):
        rows = [one._augment.draw(["3"] * count, (SIZE, SIZE), epoch=step).rows() for count in (6, 8)]
        assert all(row == rows[0][0] for side in rows for row in side)


def by_hand(kind: str, row: dict[str, Any], z: torch.Tensor, grey_black: float) -> torch.Tensor:
    """What was published for one kind of augmentation, of an image (3, S, S) as networks see it; `grey_black` is black there."""
    if kind == "horizontal_flip":
        return z.flip(2)
    if kind == "brightness_shift":
        z = z + row["brightness_shift"]["shift"] / 0.25
        across = z.mean(0, keepdim=True)
        z = (z - across) * row["saturation_mean"]["factor"] + across
        return (z - z.mean()) * row["contrast_mean"]["factor"] + z.mean()
    values = row[kind]
    if kind == "erase":
        z = z.clone()
        top, left = values["top"], values["left"]
        z[:, top : top + values["height"], left : left + values["width"]] = 0.0  # the mean
        return z
    moved = torch.full_like(z, grey_black)
    for y in range(SIZE):
        for x in range(SIZE):
            v, u = y - values["down"], x - values["right"]
            if 0 <= v < SIZE and 0 <= u < SIZE:
                moved[:, y, x] = z[:, v, u]
    return moved


def test_each_kind_does_in_the_space_of_networks_what_was_published() -> None:
    """Every draw of forty iterations that is no resampling (those are F.grid_sample's affair), computed by hand."""
    policy = Augmenter(siamese_policy((0.5,) * 3, (0.25,) * 3, grey=False), seed=3, backend="torch")
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kinds = set()
    for step in range(40):
        draws = policy.draw(["0"], (SIZE, SIZE), epoch=step)
        row = {path.rsplit(".", 1)[-1]: values for path, values in draws.row(0).items()}
        kind = next(iter(row), "none")
        if kind in ("none", "affine", "rotate"):
            continue
        kinds.add(kind)
        seen = (policy.replay(x, draws).images[0] - 0.5) / 0.25
        assert float((seen - by_hand(kind, row, (x[0] - 0.5) / 0.25, -2.0)).abs().max()) < 1e-6, kind
    assert kinds == {"brightness_shift", "shift", "erase", "horizontal_flip"}
