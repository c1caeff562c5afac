"""The trainer learns, resumes to the bit, and refuses what it cannot do."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from augment.frequencies import EfficientTrain
from distill.accuracy import accuracy_and_loss, normalise
from distill.compression import pack, unpack
from distill.config import RecoverConfig, TrainConfig, ViewConfig
from distill.labels import label_epoch, online, replay
from distill.networks import build
from distill.training import Trainer
from distill.views import Views, apply_views, draw_views

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def bars(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes a person can tell: bright on the left or on the right, with noise."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 128, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    for place, label in enumerate(labels.tolist()):
        images[place, :, :, 8 * label : 8 * label + 8] += 100
    return images, labels


def trainer(config: TrainConfig) -> Trainer:
    data = bars()
    return Trainer(build("convnet2_w8", 2, 16, seed=3), data, config, seed=4, validation=data, **STATISTICS)


def test_it_learns_what_can_be_learnt() -> None:
    one = trainer(TrainConfig(epochs=4, batch_size=16, learning_rate=0.05, views=ViewConfig(flip=False)))
    rows = list(one.run())
    assert rows[-1]["val_top1"] == 1.0
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_resumed_after_any_epoch_ends_with_the_same_bits(optimizer: str, ema: float) -> None:
    config = TrainConfig(
        epochs=4,
        batch_size=24,
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=0.01,
        ema=ema,
        views=ViewConfig(crop="resized", mix="cutmix"),
    )
    whole = trainer(config)
    states = [copy.deepcopy(whole.state()) for _ in whole.run()]
    for state in states[:-1]:
        resumed = trainer(config)
        resumed.load_state(state)
        list(resumed.run())
        assert resumed.history == whole.history
        for name, tensor in whole.final.state_dict().items():
            assert torch.equal(tensor, resumed.final.state_dict()[name]), name


def test_low_frequencies_first_are_learnt_from_and_resume_with_the_same_bits() -> None:
    config = TrainConfig(epochs=5, batch_size=16, learning_rate=0.05, views=ViewConfig(flip=False))
    curriculum, sides = EfficientTrain(size=16, epochs=5), list[int]()

    def cropped(pixels: torch.Tensor, epoch: int, places: slice) -> torch.Tensor:
        sides.append(curriculum(pixels, epoch).shape[-1])
        return curriculum(pixels, epoch)

    def begun() -> Trainer:
        return Trainer(
            build("resnet20_w2", 2, 16, 3),
            bars(),
            config,
            seed=4,
            validation=bars(),
            batch_operation=cropped,
            **STATISTICS,
        )

    whole = begun()
    rows = list(whole.run())
    assert sides == [12] * 12 + [14] * 4 + [16] * 5  # four batches an epoch, and the last one is looked at again
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    first = begun()
    rows_again = [next(first.run()) for _ in range(3)]
    second = begun()
    second.load_state(copy.deepcopy(first.state()))
    assert rows_again + list(second.run()) == rows


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    list(trainer(TrainConfig(epochs=1, batch_size=16, views=ViewConfig(mix="mixup"))).run())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ema", [0.9, 0.999, 0.9999])
def test_a_short_averaged_run_knows_what_the_trained_network_knows(ema: float) -> None:
    """As published, without averaged statistics and a warm-up, eighteen steps left it at chance from 0.999 on."""
    one = trainer(TrainConfig(epochs=6, batch_size=24, learning_rate=0.05, ema=ema, views=ViewConfig(crop="none")))
    assert list(one.run())[-1]["val_top1"] == 1.0


def test_the_average_is_that_of_weights_and_statistics_alike() -> None:
    one = trainer(TrainConfig(epochs=1, batch_size=16, ema=0.99))
    expected = {name: value.clone() for name, value in one.model.state_dict().items()}
    inner = one._update_average

    def update() -> None:
        inner()
        kept = min(0.99, (1 + one.steps) / (10 + one.steps))
        for name, value in one.model.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value if value.is_floating_point() else value.clone()

    one._update_average = update  # type: ignore[method-assign]
    list(one.run())
    for name, value in one.final.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_averaged_weights_are_the_ones_kept() -> None:
    one = trainer(TrainConfig(epochs=1, batch_size=16, ema=0.5))
    list(one.run())
    assert one.final is not one.model
    top1, _ = accuracy_and_loss(one.final, *bars(), **STATISTICS)
    assert one.history[-1]["val_top1"] == top1


def test_images_that_are_not_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Trainer(nn.Identity(), (torch.zeros(2, 3, 4, 4), torch.zeros(2)), TrainConfig(), seed=0, **STATISTICS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(learning_rate=0), "learning_rate"),
        (lambda: TrainConfig(ema=1.0), "ema"),
        (lambda: ViewConfig(scale=(0.5, 0.2)), "scale"),
        (lambda: RecoverConfig(milestone=2), "milestone"),
        (lambda: RecoverConfig(mode="published"), "reference"),  # type: ignore[arg-type]
        (lambda: TrainConfig(schedule="linear"), "half_cosine"),  # type: ignore[arg-type]
        (lambda: TrainConfig(optimizer="adam"), "adamw"),  # type: ignore[arg-type]
        (lambda: ViewConfig(mix="cutmx"), "cutmix"),  # type: ignore[arg-type]
        (lambda: build("convnet3_w8", 0, 32), "class"),
        (lambda: build("convnt3_w128", 10, 32), "convnet3_w128"),
        (lambda: pack(torch.zeros(2, 4), "top_k", 4), "top_k"),
        (lambda: pack(torch.zeros(1, 40_000), "top_k", 4), "16-bit"),
    ],
)
def test_a_wrong_value_is_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, same, other = (build("resnet20", 10, 32, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_small_images_get_a_stem_that_keeps_their_resolution() -> None:
    small, large = build("resnet18", 10, 32), build("resnet18", 10, 224)
    assert tuple(small.conv1.weight.shape) == (64, 3, 3, 3)  # type: ignore[union-attr]
    assert tuple(large.conv1.weight.shape) == (64, 3, 7, 7)  # type: ignore[union-attr]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in small.modules()) == 20


def test_a_convnet_can_normalise_each_image_alone() -> None:
    student = build("convnet3_w8_in", 10, 32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in student.modules())
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(student.train()(images)[:2], student.eval()(images[:2]), atol=1e-5)


def soft_student(views: ViewConfig, seed: int, **labels: object) -> Trainer:
    images, classes = bars(20)
    config = TrainConfig(epochs=5, batch_size=8, learning_rate=0.05, views=views, evaluate_every=5)
    return Trainer(build("convnet2_w8", 2, 16, seed=3), (images, classes), config, seed=seed, **STATISTICS, **labels)  # type: ignore[arg-type]


def stored_labels(teacher: nn.Module, views: ViewConfig, epochs: int) -> dict[int, tuple[Views, torch.Tensor]]:
    images = bars(20)[0]
    return {
        epoch: label_epoch(teacher, images, views, seed=7, epoch=epoch, batch_size=8, **STATISTICS)
        for epoch in range(epochs)
    }


def test_two_epochs_of_labels_serve_five_epochs_of_training() -> None:
    views, teacher = ViewConfig(crop="resized", mix="mixup"), build("convnet2_w8", 2, 16, seed=1).eval()
    finals = []
    for soft, kept in (
        (replay(stored_labels(teacher, views, 2)), 2),
        (online(teacher), 2),
        (online(teacher), 5),
    ):
        student = soft_student(views, 7, soft_labels=soft, view_epochs=kept)
        list(student.run())
        finals.append(student.final.state_dict()["classifier.weight"])
    assert torch.equal(finals[0], finals[1])
    assert not torch.equal(finals[1], finals[2])


@pytest.mark.parametrize("change", ["seed", "crop", "flip", "mix", "batch"])
def test_labels_of_other_views_are_refused(change: str) -> None:
    views, teacher = ViewConfig(crop="resized", mix="cutmix"), build("convnet2_w8", 2, 16, seed=1).eval()
    soft = replay(stored_labels(teacher, views, 5))
    other = {
        "crop": replace(views, scale=(0.5, 1.0)),
        "flip": replace(views, flip=False),
        "mix": replace(views, mix_alpha=0.5),
    }.get(change, views)
    student = soft_student(other, 8 if change == "seed" else 7, soft_labels=soft)
    if change == "batch":
        student.config = replace(student.config, batch_size=10)
    with pytest.raises(ValueError, match="other views"):
        list(student.run())


def test_a_teacher_in_train_mode_does_not_label() -> None:
    teacher = build("convnet2_w8", 2, 16, seed=1)
    with pytest.raises(AssertionError, match="train mode"):
        online(teacher)


def batches_of(network: str, count: int, batch_size: int) -> list[int]:
    """The batches that a network sees in one epoch."""
    model, seen = build(network, 2, 16, seed=3), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    one = Trainer(model, bars(count), TrainConfig(epochs=1, batch_size=batch_size), seed=4, **STATISTICS)
    list(one.run())
    assert one.steps == len(seen)
    return seen


@pytest.mark.parametrize(
    ("network", "count", "batch_size", "seen"),
    [
        ("convnet2_w8", 9, 8, [9]),
        ("convnet2_w8", 9, 4, [4, 5]),
        ("convnet2_w8", 3, 1, [1, 1, 1]),
        ("convnet2_w8", 1, 8, [1]),
        ("convnet2_w8", 10, 4, [4, 4, 2]),
        ("convnet2_w8_in", 9, 4, [4, 4, 1]),
    ],
)
def test_every_sample_is_trained_on_and_a_lone_one_only_where_no_statistics_need_company(
    network: str, count: int, batch_size: int, seen: list[int]
) -> None:
    assert batches_of(network, count, batch_size) == seen


def test_a_lone_last_sample_joins_the_batch_before_it() -> None:
    images, labels = bars(17)
    config = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-9, views=ViewConfig(crop="none", flip=False))
    one = Trainer(build("convnet2_w8", 2, 16, seed=3), (images, labels), config, seed=4, **STATISTICS)
    loss = next(one.run())["train_loss"]
    seen = draw_views(17, 16, config.views, seed=4, epoch=0, batch_size=16).order
    batch = normalise(images[seen].float() / 255, **STATISTICS)
    expected = nn.functional.cross_entropy(build("convnet2_w8", 2, 16, seed=3).train()(batch), labels[seen])
    assert loss == pytest.approx(expected.item(), abs=1e-5)


def test_views_without_chance_are_the_images() -> None:
    images = bars(8)[0]
    views = draw_views(8, 16, ViewConfig(crop="none", flip=False), seed=1, epoch=0, batch_size=8)
    assert torch.allclose(apply_views(images, views), images[views.order].float() / 255, atol=1e-6)


def test_views_do_not_depend_on_how_they_are_applied() -> None:
    images = bars(12)[0]
    views = draw_views(12, 16, ViewConfig(crop="resized", mix="cutmix"), seed=1, epoch=2, batch_size=6)
    whole = apply_views(images, views)
    parts = torch.cat([apply_views(images, views, views.slice(start, start + 3)) for start in range(0, 12, 3)])
    assert torch.allclose(whole, parts, atol=1e-6)
    again = draw_views(12, 16, ViewConfig(crop="resized", mix="cutmix"), seed=1, epoch=3, batch_size=6)
    assert not torch.equal(views.order, again.order)


def test_cutmix_shows_the_partner_inside_the_patch_only() -> None:
    images = torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (0, 255)])
    config = ViewConfig(crop="none", flip=False, mix="cutmix")
    for epoch in range(20):
        views = draw_views(2, 8, config, seed=1, epoch=epoch, batch_size=2)
        mixed = apply_views(images, views)
        for place in range(2):
            own, other = (float(images[index, 0, 0, 0]) / 255 for index in (views.order[place], views.partner[place]))
            x1, y1, x2, y2 = views.mix_box[place].tolist()
            expected = torch.full((8, 8), own)
            expected[y1:y2, x1:x2] = other
            assert torch.allclose(mixed[place, 0], expected, atol=1e-6)


@pytest.mark.parametrize("form", ["fp16", "int8", "top_k"])
def test_packed_logits_keep_the_teachers_opinion(form: str) -> None:
    logits = 3 * torch.randn(50, 20, generator=torch.Generator().manual_seed(2))
    packed = pack(logits, form, 5)  # type: ignore[arg-type]
    back = unpack(packed)
    assert torch.equal(back.argmax(1), logits.argmax(1))
    top = logits.topk(5, 1)
    tolerance = {"fp16": 1e-3, "int8": 0.02, "top_k": 3e-3}[form]
    kept = back.softmax(1).gather(1, top.indices)
    assert torch.allclose(kept, logits.softmax(1).gather(1, top.indices), atol=tolerance)
    assert packed.bytes == 50 * {"fp16": 40, "int8": 28, "top_k": 22}[form]
