"""Soft labels: the teacher's logits for every view of every image, stored and replayed to any student (FKD), or given as it trains;
or one for each image, whatever its views (the convention at low resolution, `docs/specs/matching.md`).

Views come from `distill.views`, so a label belongs to the pixels that the student sees, to the bit. Files are the affair
of `pipelines.loaders.soft_labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from distill.accuracy import BATCH, normalise
from distill.config import ViewConfig
from distill.errors import DistillError, DivergedError
from distill.training import SoftLabels
from distill.views import Views, apply_views, draw_views


@torch.no_grad()
def label_epoch(
    teacher: nn.Module,
    images: torch.Tensor,
    config: ViewConfig,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Views, torch.Tensor]:
    """Draw one epoch's views of `images` (N, 3, S, S) uint8 and compute the teacher's logits (N, C) float32 for them, by position.

    `DivergedError` where a logit is not finite.
    """
    if config.siamese:
        raise DistillError(
            "views.siamese: labels that are stored belong to crops, flips and mixes; siamese views are for hard, online and fixed labels"
        )
    assert not teacher.training, "in train mode the labels would depend on the batch and change the teacher"
    views = draw_views(len(images), images.shape[-1], config, seed, epoch, batch_size)
    logits = []
    for start in range(0, len(views), batch_size):
        chunk = views.slice(start, min(start + batch_size, len(views)))
        logits.append(teacher(normalise(apply_views(images, views, chunk), mean, std)).float())
    labels = torch.cat(logits)
    if not bool(labels.isfinite().all()):
        raise DivergedError(
            f"the teacher's answers of epoch {epoch} are not finite numbers: the teacher is broken; train it again with a lower "
            "learning rate"
        )
    return views, labels


def replay(tables: Mapping[int, tuple[Views, torch.Tensor]]) -> SoftLabels:
    """Turn stored labels into what the trainer takes; give it `view_epochs=len(tables)`.

    Raises `DistillError` when the student's views are not the ones that were labelled.
    """

    def of(epoch: int, views: Views, _batch: torch.Tensor, where: slice) -> torch.Tensor:
        labelled, logits = tables[epoch]
        start, stop, _ = where.indices(len(views))
        if not labelled.slice(start, stop).same_as(views.slice(start, stop)):
            raise DistillError(
                "the stored labels belong to other views: seed, batch size and views must be those of relabel"
            )
        return logits[where]

    return of


@torch.no_grad()
def label_images(
    teacher: nn.Module, images: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Compute the teacher's logits (N, C) float32 for `images` (N, 3, S, S) uint8 as they are; `DivergedError` for no finite number."""
    assert not teacher.training, "in train mode the labels would depend on the batch and change the teacher"
    logits = [
        teacher(normalise(images[start : start + BATCH].float() / 255, mean, std)).float()
        for start in range(0, len(images), BATCH)
    ]
    labels = torch.cat(logits)
    if not bool(labels.isfinite().all()):
        raise DivergedError("the teacher's answers are not finite numbers: the teacher is broken; train it again")
    return labels


def fixed(logits: torch.Tensor) -> SoftLabels:
    """Give every view of image i the logits i of (N, C). A view that mixes images has no such label: train without `views.mix`."""

    def of(_epoch: int, views: Views, _batch: torch.Tensor, where: slice) -> torch.Tensor:
        return logits[views.order[where].to(logits.device)]

    return of


def online(teacher: nn.Module) -> SoftLabels:
    """Ask `teacher`, frozen and in eval mode, while a student trains: it gets exactly the batch of views that the student gets.

    The protocol of RDED and D3HR, and that of SRe2L on CIFAR and Tiny-ImageNet. No label is stored; the teacher has to be there.
    """
    assert not teacher.training, "in train mode the labels would depend on the batch and change the teacher"

    @torch.no_grad()
    def of(_epoch: int, _views: Views, batch: torch.Tensor, _where: slice) -> torch.Tensor:
        logits: torch.Tensor = teacher(batch)
        return logits.float()

    return of
