"""Siamese views: one of six kinds a view, the same in any batch, and only where no label is stored for a view."""

from __future__ import annotations

import pytest
import torch

from distill.config import TrainConfig, ViewConfig
from distill.errors import DistillError
from distill.labels import label_epoch
from distill.networks import build
from distill.siamese import SiameseViews
from distill.training import Trainer
from pipelines.artifacts.labels import RelabelParams

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.25, 0.2)
VIEWS = ViewConfig(crop="none", flip=False, siamese=True)


def images(count: int = 48) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_view_follows_from_seed_epoch_and_place_and_not_from_its_batch() -> None:
    pixels, views = images(), SiameseViews(MEAN, STD, seed=3)
    whole = views(pixels, 1, slice(0, 48))
    parts = [views(pixels[start : start + 7], 1, slice(start, min(start + 7, 48))) for start in range(0, 48, 7)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(views(pixels, 2, slice(0, 48)), whole)
    assert not torch.equal(SiameseViews(MEAN, STD, seed=4)(pixels, 1, slice(0, 48)), whole)


def test_views_are_of_all_six_kinds() -> None:
    pixels = images(1).expand(300, -1, -1, -1)
    seen = SiameseViews(MEAN, STD, seed=0)(pixels, 0, slice(0, 300))
    own = pixels[0]
    flipped = sum(torch.equal(view, own.flip(2)) for view in seen)
    untouched = sum(torch.equal(view, own) for view in seen)  # a flip that was not taken, a shift by nothing
    fill = sum(MEAN) / 3
    cut = sum(bool((view == fill).all(0).sum() >= 16) for view in seen)
    black = sum(bool((view == 0).all(0).any()) for view in seen)
    assert 10 < flipped < 45
    assert 10 < untouched < 50
    assert 25 < cut < 80
    assert black > 50  # shifted, scaled, rotated
    assert 300 - flipped - untouched - cut - black > 20  # colours


def trainer(views: ViewConfig) -> Trainer:
    data = (images() * 255).to(torch.uint8), torch.arange(48) % 2
    config = TrainConfig(epochs=4, batch_size=16, learning_rate=0.05, views=views)
    return Trainer(build("convnet2_w8_in", 2, 16, seed=1), data, config, mean=MEAN, std=STD, seed=5)


def test_a_student_of_siamese_views_goes_on_where_it_stopped() -> None:
    whole, half, rest = trainer(VIEWS), trainer(VIEWS), trainer(VIEWS)
    losses = [row["train_loss"] for row in whole.run()]
    running = half.run()
    next(running), next(running)
    rest.load_state(half.state())
    assert [row["train_loss"] for row in rest.run()] == losses[2:]
    assert losses != [row["train_loss"] for row in trainer(ViewConfig(crop="none", flip=False)).run()]


def test_stored_labels_refuse_siamese_views() -> None:
    teacher = build("convnet2_w8_in", 2, 16, seed=1).eval()
    with pytest.raises(DistillError, match=r"views.siamese: labels that are stored"):
        label_epoch(
            teacher, (images() * 255).to(torch.uint8), VIEWS, seed=0, epoch=0, batch_size=16, mean=MEAN, std=STD
        )
    with pytest.raises(ValueError, match="siamese views cannot be stored"):
        RelabelParams(views=VIEWS)
