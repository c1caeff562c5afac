"""Fidelity of recovery: numbers computed from the published SRe2L and CDA code (`docs/specs/cda.md`, last section)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import nn

from augment.crops import Box, apply_matrices, axis_matrices, draw_resized_crop
from distill.cda import Draw, apply_draws, draw, draw_table, learning_rate, min_scale, pixel_bounds, recover, to_uint8
from distill.config import RecoverConfig
from distill.networks import build
from distill.statistics import BatchNormMatcher, cross_entropy_by_group, plain_distance

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY = ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
REFERENCE = RecoverConfig(mode="reference")


def close(value: float, expected: float, tolerance: float = 1e-8) -> bool:
    return math.isclose(value, expected, rel_tol=0, abs_tol=tolerance)


def wave(shape: tuple[int, ...], function: Callable[[torch.Tensor], torch.Tensor] = torch.sin) -> torch.Tensor:
    count = math.prod(shape)
    return function(0.37 * torch.arange(count, dtype=torch.float64)).reshape(shape)


def tiny_network() -> nn.Module:
    """The network of F5."""
    first, second, last = (
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.Conv2d(4, 8, 3, 2, 1, bias=False),
        nn.Linear(8, 5),
    )
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(8)]
    model = nn.Sequential(
        first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last
    ).double()
    index = torch.arange(1000, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(0.1 * torch.sin(index[:108] + 1).reshape(first.weight.shape))
        second.weight.copy_(0.1 * torch.cos(index[:288] + 1).reshape(second.weight.shape))
        last.weight.copy_(0.3 * torch.sin(0.7 * index[:40]).reshape(last.weight.shape))
        last.bias.copy_(0.01 * index[:5])
        for norm, (mean, var, step) in zip(norms, [(0.01, 1.0, 0.1), (0.02, 0.5, 0.05)], strict=True):
            channels = index[: norm.num_features]
            norm.running_mean.copy_(mean * channels)  # type: ignore[union-attr]
            norm.running_var.copy_(var + step * channels)  # type: ignore[union-attr]
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("step", "cosine", "linear", "cosine_half", "linear_half", "rate"),
    [
        (0, 1, 1, 1, 1, 0.25),
        (250, 0.991161, 0.942500, 0.964985, 0.885000, 0.24759816),
        (500, 0.964985, 0.885000, 0.865269, 0.770000, 0.24048494),
        (1000, 0.865269, 0.770000, 0.540000, 0.540000, 0.21338835),
        (1500, 0.716034, 0.655000, 0.214731, 0.310000, 0.17283543),
        (2000, 0.540000, 0.540000, 0.08, 0.08, 0.125),
        (2500, 0.363966, 0.425000, 0.08, 0.08, 0.07716457),
        (3000, 0.214731, 0.310000, 0.08, 0.08, 0.03661165),
        (3500, 0.115015, 0.195000, 0.08, 0.08, 0.00951506),
        (3750, 0.088839, 0.137500, 0.08, 0.08, 0.00240184),
        (3999, 0.080000, 0.080230, 0.08, 0.08, 3.8553e-8),
    ],
)
def test_f1_schedule_of_4000_steps(
    step: int, cosine: float, linear: float, cosine_half: float, linear_half: float, rate: float
) -> None:
    expected = {
        ("cosine", 1.0): cosine,
        ("linear", 1.0): linear,
        ("cosine", 0.5): cosine_half,
        ("linear", 0.5): linear_half,
    }
    for (curriculum, milestone), value in expected.items():
        config = RecoverConfig(iterations=4000, curriculum=curriculum, milestone=milestone)  # type: ignore[arg-type]
        assert close(min_scale(step, config), value, 5e-7)
    stepped = RecoverConfig(iterations=4000, curriculum="step", milestone=0.5)
    assert min_scale(step, stepped) == (1.0 if step < 2000 else 0.08)
    assert min_scale(step, RecoverConfig(iterations=4000, milestone=0.0)) == 0.08
    assert close(learning_rate(step, RecoverConfig(iterations=4000)), rate, 5e-9)


def test_f2_schedule_of_1000_steps() -> None:
    config = RecoverConfig(iterations=1000)
    for step, value in [(250, 0.865269), (500, 0.54), (750, 0.214731), (999, 0.080002)]:
        assert close(min_scale(step, config), value, 5e-7)


@pytest.mark.parametrize(
    ("statistics", "bounds"),
    [
        (IMAGENET, [(-2.11790, 2.24891), (-2.03571, 2.42857), (-1.80444, 2.64000)]),
        (TINY, [(-2.08601, 2.25804), (-1.97837, 2.43664), (-1.75729, 2.66357)]),
        (CIFAR, [(-2.42907, 2.51409), (-2.41825, 2.59679), (-2.22139, 2.75373)]),
    ],
)
def test_f3_clamp_bounds(
    statistics: tuple[tuple[float, ...], tuple[float, ...]], bounds: list[tuple[float, float]]
) -> None:
    low, high = pixel_bounds(*statistics)
    for channel, (least, most) in enumerate(bounds):
        assert close(float(low[channel]), least, 5e-6)
        assert close(float(high[channel]), most, 5e-6)


def f4_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, c, h, w = torch.meshgrid(*(torch.arange(size) for size in (2, 3, 4, 4)), indexing="ij")
    x = ((3 * n + 5 * c + 7 * h + 11 * w) % 13).double() / 13 - 0.5
    return x, torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64), torch.tensor([0.5, 1, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("closed_form", [False, True])
def test_f4_bn_distance(closed_form: bool) -> None:
    x, mean, var = f4_case()
    x.requires_grad_(True)
    layer = nn.BatchNorm2d(3).double().eval().requires_grad_(False)
    layer.running_mean, layer.running_var = mean, var
    with BatchNormMatcher(layer, first_multiplier=1.0, closed_form=closed_form) as matcher:
        layer(x)
        distance = matcher.loss()
        (grad,) = torch.autograd.grad(distance.sum(), x)
    assert close(distance.item(), 1.235806971004, 1e-11)
    assert close(float(grad.sum()), -0.290837636871, 1e-11)
    assert close(float(grad.norm()), 0.204817000136, 1e-11)
    expected = torch.tensor([-0.006080660676, -0.027819020748, -0.023866591644, -0.019914162540], dtype=torch.float64)
    assert torch.allclose(grad[0, 0, 0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("closed_form", [False, True])
def test_f5_tiny_network(closed_form: bool) -> None:
    model, targets = tiny_network(), torch.arange(5)
    x = wave((5, 3, 8, 8)).requires_grad_(True)
    with BatchNormMatcher(model, closed_form=closed_form) as matcher:
        logits = model(x)
        entropy, statistics = cross_entropy_by_group(logits, targets, 1), matcher.loss()
        first, second = (float(one) for one in matcher.distances())
        loss = entropy + 0.01 * statistics
        (grad,) = torch.autograd.grad(loss.sum(), x)
    row = torch.tensor([0.0226864440, 0.0195037679, 0.0120551522, 0.0081727264, 0.0140878705], dtype=torch.float64)
    assert torch.allclose(logits[0], row, rtol=0, atol=5e-11)
    assert close(float(entropy), 1.608528251136, 1e-11)
    assert close(first, 2.252741364720, 1e-11)
    assert close(second, 2.173465504643, 1e-11)
    assert close(float(statistics), 24.700879151846, 1e-10)
    assert close(float(loss), 1.855537042654, 1e-11)
    assert close(float(grad.norm()), 0.004171327802, 1e-11)


def plain(rate: float, r_bn: float, mode: str) -> RecoverConfig:
    return RecoverConfig(
        mode=mode,  # type: ignore[arg-type]
        iterations=20,
        learning_rate=rate,
        r_bn=r_bn,
        crop=False,
        flip=False,
        jitter=0,
        log_every=1,
    )


def trajectory(
    config: RecoverConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[torch.Tensor], list[float], torch.Tensor]:
    """Run F6: no augmentation, from the wave of F5."""
    states: list[torch.Tensor] = []
    losses: list[float] = []

    def watch(_step: int, images: torch.Tensor, loss: torch.Tensor) -> None:
        states.append(images[0].clone())
        losses.append(float(loss))

    monkeypatch.setattr(torch, "randn", lambda shape, **_: wave(tuple(shape)))
    done = recover(
        tiny_network(),
        torch.arange(5),
        config,
        seeds=[0],
        mean=IMAGENET[0],
        std=IMAGENET[1],
        image_size=8,
        dtype=torch.float64,
        on_step=watch,
    )
    return states, losses, done.images[0]


@pytest.mark.parametrize("mode", ["reference", "improved"])
def test_f6_adam_trajectory(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states, _, images = trajectory(plain(0.25, 0.01, mode), monkeypatch)
    sums = {1: 3.838337166, 2: 4.848924187, 5: 11.851264954, 10: 28.581113607, 20: 37.065806958}
    norms = {1: 24.813417319, 2: 28.853184357, 5: 39.937938088, 10: 41.987550020, 20: 43.734574299}
    for step, expected in sums.items():
        assert close(float(states[step - 1].sum()), expected, 1e-8)
        assert close(float(states[step - 1].norm()), norms[step], 1e-8)
    head = torch.tensor([0.786478524, 2.092200075, 1.913177921], dtype=torch.float64)
    assert torch.allclose(states[19][0, 0, 0, :3], head, rtol=0, atol=1e-9)
    with BatchNormMatcher(tiny_network()):
        entropy = cross_entropy_by_group(tiny_network()(states[19]), torch.arange(5), 1)
    assert close(float(entropy), 1.583280116, 1e-9)
    if mode == "reference":
        assert int(images.long().sum()) == 111651
        assert images[0, 0, 0, :4].tolist() == [169, 245, 235, 249]
    else:
        assert images[0, 0, 0, 0] == round((0.786478524 * 0.229 + 0.485) * 255)


def test_f6_adam_trajectory_with_heavy_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    states, losses, images = trajectory(plain(0.1, 1.0, "reference"), monkeypatch)
    sums = {1: 4.389618879, 2: 3.806629534, 5: 2.677804645, 10: -0.571407417, 20: 1.021639673}
    before = {1: 26.309407403, 2: 25.502320997, 5: 20.332504709, 10: 14.500872606, 20: 12.654179355}
    for step, expected in sums.items():
        assert close(float(states[step - 1].sum()), expected, 1e-8)
        assert close(losses[step - 1], before[step], 1e-8)
    assert int(images.long().sum()) == 109501


@pytest.mark.parametrize("mode", ["reference", "improved"])
def test_f7_full_loop_with_its_random_streams(mode: str) -> None:
    config = RecoverConfig(mode=mode, iterations=20, jitter=4, learning_rate=0.25, r_bn=0.01, log_every=1)  # type: ignore[arg-type]
    states: list[torch.Tensor] = []
    losses: list[float] = []

    def watch(_step: int, images: torch.Tensor, loss: torch.Tensor) -> None:
        states.append(images[0].clone())
        losses.append(float(loss))

    recover(
        tiny_network(),
        torch.arange(5),
        config,
        seeds=[0],
        mean=IMAGENET[0],
        std=IMAGENET[1],
        image_size=32,
        dtype=torch.float64,
        on_step=watch,
    )
    table = {
        1: (1.839309186, -14.396826, 129.377102),
        2: (1.820256361, 37.699122, 139.631967),
        5: (1.795241053, 390.207058, 171.899166),
        10: (1.733295180, 914.697698, 206.591200),
        20: (1.842584784, 1136.725152, 218.474567),
    }
    for step, (loss, total, norm) in table.items():
        assert close(losses[step - 1], loss, 2e-8)
        assert close(float(states[step - 1].sum()), total, 2e-6)
        assert close(float(states[step - 1].norm()), norm, 2e-6)


def test_f7_draws() -> None:
    config = RecoverConfig(iterations=20, jitter=4)
    torch_rng, roll_rng = torch.Generator().manual_seed(0), random.Random(0)
    noise = torch.randn(5, 3, 32, 32, generator=torch_rng)
    assert torch.allclose(noise.flatten()[:3], torch.tensor([-1.12583983, -1.15236020, -0.25057858]), rtol=0, atol=5e-9)
    assert close(float(noise.double().sum()), -154.801379, 1e-4)
    draws = [draw(step, 32, config, torch_rng, roll_rng) for step in range(20)]
    whole = Box(0, 0, 32, 32)
    expected = {
        0: Draw(whole, True, (3, 3)),
        1: Draw(whole, False, (0, 2)),
        2: Draw(whole, True, (4, 3)),
        3: Draw(Box(0, 0, 31, 31), False, (3, 2)),
        9: Draw(Box(0, 7, 31, 25), False, (2, 4)),
        15: Draw(Box(7, 7, 23, 18), False, (3, 2)),
        19: Draw(Box(10, 16, 13, 12), False, (2, 0)),
    }
    assert {step: draws[step] for step in expected} == expected


@pytest.mark.parametrize(
    ("size", "low", "boxes"),
    [
        (224, 0.08, [(55, 0, 152, 177), (62, 78, 130, 140), (4, 60, 152, 164), (16, 56, 78, 65)]),
        (224, 0.54, [(0, 3, 182, 212), (31, 22, 178, 192), (13, 2, 187, 201), (16, 52, 183, 151)]),
        (32, 0.08, [(1, 0, 22, 25), (13, 12, 19, 20), (9, 6, 22, 23), (8, 8, 11, 9)]),
    ],
)
def test_f8_crop_streams(size: int, low: float, boxes: list[tuple[int, int, int, int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    assert [tuple(draw_resized_crop(size, size, (low, 1.0), generator)) for _ in boxes] == boxes


def test_f8_roll_streams() -> None:
    first, second = random.Random(0), random.Random(0)
    assert [first.randint(0, 32) for _ in range(8)] == [24, 26, 2, 16, 32, 31, 25, 19]
    assert [second.randint(0, 4) for _ in range(8)] == [3, 3, 0, 2, 4, 3, 3, 2]


@pytest.mark.parametrize("fused", [False, True])
def test_f9_an_untouched_pixel_drifts_with_adams_momentum(fused: bool) -> None:
    pixel = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([pixel], lr=0.25, betas=REFERENCE.betas, eps=1e-8, fused=fused)
    moves, before = [], 0.0
    for gradient in (1.0, 0, 0, 0, 0, 0):
        pixel.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        moves.append(pixel.item() - before)
        before = pixel.item()
    expected = [-0.25, -0.121081, -0.065326, -0.036199, -0.020148, -0.011178]
    assert all(close(move, value, 5e-7) for move, value in zip(moves, expected, strict=True))
    assert close(before, -0.503932, 1e-6)


def test_f10_a_crop_is_two_matrices() -> None:
    x = wave((1, 3, 8, 8))
    box = Box(1, 2, 5, 4)
    cropped = apply_draws(x[None], draw_table([Draw(box, False, (0, 0))]))[0]
    assert close(float(cropped.sum()), 6.447930422435, 1e-10)
    start = torch.tensor([-0.5298361409, -0.5975438012, -0.7329591219, -0.8412828193], dtype=torch.float64)
    assert torch.allclose(cropped[0, 0, 0, :4], start, rtol=0, atol=1e-10)
    final = apply_draws(x[None], draw_table([Draw(box, True, (2, 3))]))[0]
    top = torch.tensor([0.0631574462, 0.0877180818, 0.0999983996, -0.0604430370], dtype=torch.float64)
    end = torch.tensor([-0.8221833134, -0.7581017864, -0.6694530211, -0.5562370174], dtype=torch.float64)
    assert torch.allclose(final[0, 0, 0, :4], top, rtol=0, atol=1e-10)
    assert torch.allclose(final[0, 2, 7, 4:], end, rtol=0, atol=1e-10)
    rows = axis_matrices(torch.tensor([1]), torch.tensor([5]), 8)[0]
    assert rows[3].tolist() == [0, 0, 0.3125, 0.6875, 0, 0, 0, 0]
    assert rows[0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    batch = apply_draws(wave((2, 3, 8, 8))[None], draw_table([Draw(box, True, (2, 3))]))
    assert close(float(batch.sum()), -2.931799142632, 1e-10)


def test_f10_matrices_equal_cutting_and_interpolating() -> None:
    x, generator = wave((4, 3, 32, 32)), torch.Generator().manual_seed(3)
    for _ in range(50):
        box = draw_resized_crop(32, 32, (0.08, 1.0), generator)
        cut = x[..., box.top : box.top + box.height, box.left : box.left + box.width]
        expected = nn.functional.interpolate(cut, (32, 32), mode="bilinear", align_corners=False)
        assert torch.allclose(
            apply_draws(x[None], draw_table([Draw(box, False, (0, 0))]))[0], expected, rtol=0, atol=1e-14
        )


def test_a_box_that_sticks_out_is_padding() -> None:
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    rows = axis_matrices(torch.tensor([-1]), torch.tensor([4]), 4)
    columns = axis_matrices(torch.tensor([2]), torch.tensor([4]), 4)
    assert apply_matrices(x, rows, columns)[0, 0].tolist() == [[0] * 4, [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("size", [32, 64, 224])
def test_f20_closed_form_equals_the_published_hook(size: int) -> None:
    model = build("resnet18", 10, size, seed=1)
    with torch.no_grad():
        model.train()
        model(torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)))
    model.eval().requires_grad_(False)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2), requires_grad=True)
    grads = []
    for closed_form in (False, True):
        with BatchNormMatcher(model, closed_form=closed_form) as matcher:
            loss = cross_entropy_by_group(model(x), torch.tensor([0, 1]), 1) + 0.01 * matcher.loss()
            grads.append(torch.autograd.grad(loss.sum(), x)[0])
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 2e-6


def test_f20_the_network_is_untouched_afterwards() -> None:
    model = tiny_network()
    before = model(wave((5, 3, 8, 8)))
    with BatchNormMatcher(model):
        pass
    assert torch.equal(model(wave((5, 3, 8, 8))), before)


def recovered(config: RecoverConfig, seeds: list[int]) -> torch.Tensor:
    """The last images (groups, 5, 3, 16, 16) of a small float64 run with one group for each seed."""
    last: list[torch.Tensor] = []
    recover(
        tiny_network(),
        torch.arange(5),
        config,
        seeds=seeds,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        image_size=16,
        dtype=torch.float64,
        on_step=lambda _step, images, _loss: last.append(images.clone()),
    )
    return last[-1]


@pytest.mark.parametrize("mode", ["reference", "improved"])
def test_f21_a_batch_of_groups_is_as_many_runs(mode: str) -> None:
    config = RecoverConfig(mode=mode, iterations=12, log_every=1)  # type: ignore[arg-type]
    together = recovered(config, [7, 8, 9])
    for place, seed in enumerate([7, 8, 9]):
        assert torch.allclose(together[place], recovered(config, [seed])[0], rtol=0, atol=1e-10)
    assert torch.equal(together, recovered(config, [7, 8, 9]))


def test_f21_statistics_do_not_depend_on_the_order_of_images() -> None:
    x, mean, var = f4_case()
    assert torch.allclose(plain_distance(x, mean, var), plain_distance(x.flip(0), mean, var), rtol=0, atol=1e-14)


def test_the_published_code_floors_and_ours_rounds() -> None:
    half = torch.full((1, 3, 1, 1), 100.7 / 255)
    assert to_uint8(half, (0, 0, 0), (1, 1, 1), floor=True).unique().tolist() == [100]
    assert to_uint8(half, (0, 0, 0), (1, 1, 1), floor=False).unique().tolist() == [101]


def test_f20_the_closed_form_keeps_two_thirds_of_the_memory() -> None:
    model = build("resnet18", 10, 32, seed=1).eval().requires_grad_(False)
    own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
    kept = []
    for closed_form in (False, True):
        # Storages are held until they are counted, so that no address is used twice.
        storages: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor, storages: dict[int, torch.Tensor] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            images = torch.zeros(8, 3, 32, 32, requires_grad=True)
            with BatchNormMatcher(model, closed_form=closed_form) as matcher:
                model(images)
                matcher.loss()
        kept.append(sum(one.untyped_storage().nbytes() for place, one in storages.items() if place not in own) / 2**23)
    # MiB per image, as in the sheet.
    assert close(kept[0], 6.8, 0.1)
    assert close(kept[1], 4.5, 0.1)
