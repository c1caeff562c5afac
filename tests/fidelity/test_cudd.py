"""Fidelity of CUDD: numbers computed from the published code (`docs/specs/cda.md`, CUDD), and its loop written here once more."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.nn import functional as F

from distill.cda import Draw, apply_draws, draw, draw_table, learning_rate, min_scale, recover
from distill.config import RecoverConfig
from distill.curriculum.choice import choose_start
from distill.curriculum.config import DEFECTS, CurriculumConfig
from distill.curriculum.losses import adversarial_loss, anchor_loss, curriculum_loss
from distill.errors import DistillError
from tests.fidelity.test_cda import IMAGENET, close, tiny_network, wave

LOGITS = torch.tensor([[2.0, 0, -1], [0, 0, 0]], dtype=torch.float64)
TARGETS = torch.tensor([0, 1])
BOTH = torch.ones(2, dtype=torch.bool)


def test_f16_adversarial_loss_and_its_gradient() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    each = adversarial_loss(logits, TARGETS, BOTH, groups=2)
    assert [round(value, 10) for value in each.tolist()] == [1.8565843320, 0.4054651081]
    loss = adversarial_loss(logits, TARGETS, BOTH)
    assert close(float(loss.detach()), 1.131024720069, 1e-11)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    for value, expected in zip(grad[0].tolist(), (0.4218973672, -0.3084316896, -0.1134656776), strict=True):
        assert close(value, expected, 1e-10)


def test_f16_smoothed_targets() -> None:
    """The published targets are float32 whatever the logits are, which shows in the ninth digit."""
    assert close(float(adversarial_loss(LOGITS, TARGETS, BOTH, epsilon=0.1)), 1.071874858952)


@pytest.mark.parametrize(("classes", "constant"), [(1000, 0.0010005003), (200, 0.0050125418), (10, 0.1053605157)])
def test_f16_an_image_that_the_teacher_fails_has_no_gradient(classes: int, constant: float) -> None:
    """As published it adds -log(1 - 1/C) to the loss; here it adds nothing. The mean is over all images in both."""
    logits = torch.randn(2, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_(True)
    half = torch.tensor([False, True])
    published = adversarial_loss(logits, TARGETS, half, groups=2, constant=True)
    ours = adversarial_loss(logits, TARGETS, half, groups=2)
    assert close(float(published[0].detach()), constant, 1e-9)
    assert published[1] == ours[1] > ours[0] == 0
    for losses in (published.mean(), ours.mean()):
        (grad,) = torch.autograd.grad(losses, logits)
        assert not grad[0].any()
        assert grad[1].any()


def test_f16_the_anchor_is_the_mean_squared_difference() -> None:
    views, start = wave((4, 3, 8, 8)), wave((4, 3, 8, 8), torch.cos)
    each = anchor_loss(views, start, groups=2)
    assert torch.allclose(each, torch.stack([F.mse_loss(views[:2], start[:2]), F.mse_loss(views[2:], start[2:])]))


START = torch.randint(0, 256, (1, 5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))


def student_network() -> torch.nn.Module:
    model = tiny_network()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.flip(0))
    return model


def by_hand(draws: list[Draw], config: RecoverConfig, *, raw: bool, adversary: bool) -> list[float]:
    """The published loop: one crop of images and originals together, CE + r_bn R + MSE - mean log(1 - p_student) of masked logits."""
    teacher, student, targets = tiny_network(), student_network(), torch.arange(5)
    mean, std = (torch.tensor(values).double().view(-1, 1, 1) for values in IMAGENET)
    originals = START[0].double() / 255
    originals = originals if raw else (originals - mean) / std
    inputs, losses = originals.clone().requires_grad_(True), []
    optimizer = torch.optim.Adam([inputs], lr=config.learning_rate, betas=(0.5, 0.9), eps=1e-8)
    statistics: list[torch.Tensor] = []

    def hook(layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        values, moved = given[0], given[0].transpose(0, 1).flatten(1)
        statistics.append(
            (moved.var(1, unbiased=False) - layer.get_buffer("running_var")).norm()
            + (values.mean((0, 2, 3)) - layer.get_buffer("running_mean")).norm()
        )

    for layer in teacher:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_pre_hook(hook)
    for step, one in enumerate(draws):
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        both = apply_draws(torch.cat([inputs, originals])[None], draw_table([one]))[0]
        views, starts = both[:5], both[5:]
        statistics.clear()
        answers = teacher(views)
        loss = F.cross_entropy(answers, targets) + config.r_bn * (10 * statistics[0] + statistics[1])
        loss = loss + F.mse_loss(views.reshape(5, -1), starts.reshape(5, -1))
        if adversary:
            mask = (answers.argmax(1) == targets).double()[:, None]
            wrong = torch.log(1 - (student(views) * mask).softmax(1) + 1e-12)
            loss = loss + F.nll_loss(wrong, targets)
        optimizer.zero_grad()
        (inputs.grad,) = torch.autograd.grad(loss, inputs)
        optimizer.step()
        losses.append(float(loss))
        with torch.no_grad():
            inputs.clamp_(-mean / std, (1 - mean) / std)
    return [*losses, float(inputs.sum()), float(inputs.norm())]


@pytest.mark.parametrize("adversary", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("mode", ["reference", "improved"])
def test_a_curriculum_recovers_as_the_published_loop_does(mode: str, raw: bool, adversary: bool) -> None:
    config = RecoverConfig(mode=mode, milestone=0.0, iterations=6, log_every=1, jitter=2)  # type: ignore[arg-type]
    torch_rng, roll_rng = torch.Generator().manual_seed(3), random.Random(3)
    draws = [draw(step, 8, config, torch_rng, roll_rng) for step in range(6)]
    targets = torch.arange(5)
    student = student_network() if adversary else None
    seen: list[torch.Tensor] = []
    done = recover(
        tiny_network(),
        targets,
        config,
        seeds=[3],
        mean=IMAGENET[0],
        std=IMAGENET[1],
        image_size=8,
        init=START,
        raw_init=raw,
        extra=curriculum_loss(student, targets, 1, CurriculumConfig(), constant=True),
        dtype=torch.float64,
        on_step=lambda _step, images, _loss: seen.append(images.clone()),
    )
    ours = [loss for _, loss in done.losses] + [float(seen[-1].sum()), float(seen[-1].norm())]
    expected = by_hand(draws, config, raw=raw, adversary=adversary)
    assert all(math.isclose(one, other, rel_tol=1e-7) for one, other in zip(ours, expected, strict=True))


def test_groups_of_a_curriculum_are_recovered_apart() -> None:
    targets, config = torch.arange(5), RecoverConfig(milestone=0.0, iterations=4, jitter=2)
    start = torch.cat([START, START.flip(1)])

    def run(places: list[int]) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        extra = curriculum_loss(student_network(), targets, len(places), CurriculumConfig(), constant=False)
        recover(
            tiny_network(), targets, config, seeds=places, mean=IMAGENET[0], std=IMAGENET[1], image_size=8,
            init=start[places], extra=extra, dtype=torch.float64,
            on_step=lambda _step, images, _loss: seen.append(images.clone()),
        )  # fmt: skip
        return seen[-1]

    assert torch.allclose(run([0, 1])[1], run([1])[0], rtol=0, atol=1e-10)


def test_the_crop_of_cudd_has_no_curriculum() -> None:
    assert min_scale(0, RecoverConfig(milestone=0.0)) == 0.08


def names(*classes: int) -> torch.Tensor:
    return torch.tensor(classes)


def test_the_first_curriculum_begins_at_what_the_teacher_names_right() -> None:
    assert choose_start(names(1, 2, 2, 1, 2), None, 2, 2) == [(1, "recognised"), (2, "recognised")]
    assert choose_start(names(1, 2, 1), None, 2, 3) == [(1, "recognised"), (0, "any"), (2, "any")]


def test_a_later_curriculum_begins_at_what_the_student_names_wrong() -> None:
    teacher, student = names(2, 2, 1, 2, 0), names(2, 1, 0, 0, 2)
    assert choose_start(teacher, student, 2, 2) == [(1, "recognised"), (3, "recognised")]
    expected = [(1, "recognised"), (3, "recognised"), (2, "hard"), (0, "any"), (4, "any")]
    assert choose_start(teacher, student, 2, 5) == expected


def test_the_published_fallback_compares_with_class_0_whatever_the_class() -> None:
    """For any other class it accepts what both networks name right as hard."""
    teacher, student = names(2, 0, 1), names(2, 1, 1)
    assert choose_start(teacher, student, 2, 1) == [(1, "hard")]
    assert choose_start(teacher, student, 2, 1, label_0=True) == [(0, "hard")]
    assert choose_start(names(1, 0), names(1, 0), 0, 1, label_0=True) == [(0, "hard")]


def test_defects_belong_to_the_mode_unless_they_are_named() -> None:
    assert CurriculumConfig().defects_of("reference") == set(DEFECTS)
    assert CurriculumConfig().defects_of("improved") == set()
    assert CurriculumConfig(defects=("label_0",)).defects_of("reference") == {"label_0"}
    assert CurriculumConfig(defects=()).defects_of("reference") == set()


@pytest.mark.parametrize("wrong", [{"epsilon": 1.0}, {"anchor": -1.0}, {"adversary": -0.1}])
def test_a_setting_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DistillError, match=next(iter(wrong))):
        CurriculumConfig(**wrong)  # type: ignore[arg-type]
