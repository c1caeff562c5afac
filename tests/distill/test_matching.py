"""Distribution matching: its loss and gradient written out, one augmentation for both sides, tiles, and what a class depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from distill.errors import DistillError, DivergedError
from distill.matching.config import MatchConfig, PoolConfig
from distill.matching.distribution import Matching, distribution_loss, pool_trainer
from distill.matching.features import mean_features
from distill.matching.tiles import decode_tiles, encode_tiles
from distill.networks import build
from distill.siamese import siamese_policy

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FRESH: dict[str, Any] = {"network": "convnet2_w4_in", "pool_every": 0, "real_batch": 6, "iterations": 4}


def images(count: int, seed: int, grey: bool = False, side: int = 8) -> torch.Tensor:
    """Random images (count, 3, side, side) uint8."""
    drawn = torch.randint(256, (count, 1 if grey else 3, side, side), generator=torch.Generator().manual_seed(seed))
    return drawn.expand(-1, 3, -1, -1).to(torch.uint8).contiguous()


def matching(labels: tuple[int, ...] = (0, 1, 2), grey: bool = False, **options: Any) -> Matching:
    config = MatchConfig(**{**FRESH, "tiles": 1, **options})
    real = [images(12, label, grey) for label in labels]
    start = torch.stack([one[: config.tiles**2] for one in real])
    return Matching(real, labels, start, config, classes=5, mean=MEAN, std=STD, seed=3, grey=grey)


def run(one: Any) -> Any:
    """Take all iterations that are left."""
    while not one.done:
        one.advance()
    return one


def test_the_loss_and_its_gradient_are_those_of_the_paper() -> None:
    """Equation 6 in float64, the sum over classes of squared distances between means of feature maps, and its gradient by hand."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(2 * 5, 3, 8, 8, generator=generator, dtype=torch.float64)
    condensed = torch.randn(2 * 3, 3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    network = build("convnet2_w4_in", 2, 8, 1).double().eval()
    loss = distribution_loss(mean_features(network, real, 2), mean_features(network, condensed, 2))
    (gradient,) = torch.autograd.grad(loss, condensed)
    expected = torch.zeros((), dtype=torch.float64)
    by_hand = torch.zeros_like(condensed)
    for label in range(2):
        phi = network.features(condensed[3 * label : 3 * label + 3]).flatten(1)
        away = phi.mean(0) - network.features(real[5 * label : 5 * label + 5]).flatten(1).mean(0)
        expected = expected + (away**2).sum()
        (own,) = torch.autograd.grad((phi * (2 * away.detach() / 3)).sum(), condensed)
        by_hand += own
    assert torch.allclose(loss, expected, atol=0, rtol=1e-12)
    assert torch.allclose(gradient, by_hand, atol=1e-12)


def test_a_step_is_sgd_with_momentum_in_normalised_space() -> None:
    one = matching(iterations=2, learning_rate=0.5, momentum=0.5)
    before, gradients = one.images.detach().clone(), []
    for _ in range(2):
        one.advance()
        assert one.images.grad is not None
        gradients.append(one.images.grad.clone())
    velocity = 0.5 * gradients[0] + gradients[1]
    assert torch.allclose(one.images.detach(), before - 0.5 * gradients[0] - 0.5 * velocity, atol=1e-6)


def test_both_sides_of_a_class_get_one_augmentation_and_classes_others() -> None:
    one = matching(labels=(0, 1))
    pixels = images(1, 9).float().div(255)
    seen = [one._seen(pixels.expand(2 * each, -1, -1, -1), step, (0, 1)) for each, step in ((3, 1), (2, 1), (3, 2))]
    assert torch.equal(seen[0][0], seen[0][2])
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][3], seen[1][2])
    assert not torch.equal(seen[0][0], seen[0][3]) or not torch.equal(seen[0][0], seen[2][0])


@pytest.mark.parametrize("grey", [False, True])
def test_the_policy_pads_with_black_and_cuts_out_to_the_mean(grey: bool) -> None:
    (pick,) = siamese_policy(MEAN, STD, grey)["operations"]
    colour, shift, cutout, flip, scale, turn = pick["one_of"]
    assert [next(iter(one)) for one in colour] == (
        ["brightness_shift", "contrast_mean"] if grey else ["brightness_shift", "saturation_mean", "contrast_mean"]
    )
    assert colour[0]["brightness_shift"]["shift"] == [-0.125, 0.125]  # half of a deviation
    assert cutout["erase"]["value"] == pytest.approx(0.5)
    assert (shift, flip) == ({"shift": {"share": 0.125}}, {"horizontal_flip": {"p": 0.5}})
    assert scale["affine"]["scale"] == [1 / 1.2, 1.2]
    assert turn["rotate"]["degrees"] == [-15.0, 15.0]


@pytest.mark.parametrize("options", [{}, {"tiles": 2}, {"average": 0.5}])
def test_a_class_does_not_depend_on_the_others(options: dict[str, Any]) -> None:
    together, alone = matching(**options), matching(labels=(1,), **options)
    assert (run(together).result()[1].int() - run(alone).result()[0].int()).abs().max() <= 1


def test_grey_images_stay_grey_and_are_one_channel() -> None:
    one = matching(grey=True)
    assert one.images.shape[1] == 1
    result = run(one).result()
    assert result.shape == (3, 1, 3, 8, 8)
    assert result.dtype == torch.uint8
    assert torch.equal(result[:, :, 0], result[:, :, 2])
    assert matching().images.shape[1] == 3


def test_a_state_goes_on_to_the_same_images() -> None:
    whole, first, second = (matching(average=0.75, iterations=5) for _ in range(3))
    run(whole)
    for _ in range(3):
        first.advance()
    second.load_state(first.state())
    run(second)
    assert torch.equal(whole.result(), second.result())
    assert whole.losses == second.losses


def test_the_result_is_the_mean_of_the_last_images() -> None:
    one = matching(iterations=4, average=0.5)
    seen = []
    while not one.done:
        one.advance()
        seen.append(one.images.detach().clone())
    mean = (seen[2] + seen[3]) / 2
    levels = (mean * one._spread + one._centre).clamp(0, 1).mul(255).round().to(torch.uint8)
    assert torch.equal(one.result().flatten(0, 1), levels)


def test_networks_of_the_pool_take_turns_with_fresh_ones() -> None:
    data = (images(20, 1), torch.arange(20) % 5)
    config = MatchConfig(**{**FRESH, "tiles": 1, "pool_every": 2}, pool=PoolConfig(networks=1, snapshots=(1, 2)))
    trainer = pool_trainer(data, config, classes=5, mean=MEAN, std=STD, seed=0)
    pool = [{name: value.clone() for name, value in trainer.model.state_dict().items()} for _ in trainer.run()]
    one = Matching([images(6, 1)], (0,), images(1, 1)[None], config, classes=5, mean=MEAN, std=STD, seed=3, pool=pool)
    weights = [one._network(step).state_dict()["features.0.weight"] for step in range(4)]
    assert torch.equal(weights[1], pool[0]["features.0.weight"])
    assert torch.equal(weights[3], pool[1]["features.0.weight"])
    assert not torch.equal(weights[0], weights[2])


def test_tiles_are_cut_row_by_row_and_enlarged_bilinearly() -> None:
    stored = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decoded = decode_tiles(stored, 2)
    for number in range(2):
        for place, (top, left) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
            tile = stored[number : number + 1, :, top : top + 4, left : left + 4]
            enlarged = interpolate(tile, size=(8, 8), mode="bilinear", align_corners=False)[0]
            assert torch.equal(decoded[4 * number + place], enlarged)
    assert decode_tiles(stored, 1) is stored


def test_tiles_are_means_of_squares_and_come_back_to_their_places() -> None:
    whole = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, 3, 8, 8)
    stored = encode_tiles(whole, 2)
    assert stored.shape == (1, 3, 8, 8)
    assert stored[0, 0, ::4, ::4].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert torch.equal(decode_tiles(stored, 2), whole)
    ramp = torch.arange(64.0).view(1, 1, 8, 8).expand(4, 3, -1, -1)
    assert encode_tiles(ramp, 2)[0, 0, 0, 0] == np.mean([0, 1, 8, 9])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tiles": 3}, "images of 8x8 pixels cannot be cut into 3x3 equal tiles"),
        ({"network": "resnet20"}, "got resnet20"),
        ({"pool_every": 2}, "the pool is empty"),
        ({"iterations": 0}, "iterations takes a whole number from 1, got 0"),
        ({"pool": PoolConfig(networks=0), "pool_every": 2}, "pool.networks is 0"),
    ],
)
def test_what_cannot_be_matched_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DistillError, match=sentence):
        matching(**options)


def test_an_empty_class_and_a_loss_that_diverges_are_refused() -> None:
    config = MatchConfig(**FRESH, tiles=1)
    with pytest.raises(DistillError, match="class 4 has no real image"):
        Matching([images(0, 1)], (4,), images(1, 1)[None], config, classes=5, mean=MEAN, std=STD, seed=0)
    one = matching(learning_rate=1e30, iterations=5)
    with pytest.raises(DivergedError, match="lower the learning_rate"):
        run(one)


def test_the_lines_of_the_format_page_decode_tiles(repository: Path) -> None:
    page = (repository / "docs/format.md").read_text()
    lines = page.split("## Tiles")[1].split("```python\n")[1].split("```")[0]
    stored = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for image, ours in zip(stored, decode_tiles(stored, 2).split(4), strict=True):
        names: dict[str, Any] = {"torch": torch, "image": image, "f": 2}
        exec(lines, names)
        assert torch.equal(names["images"], ours)
