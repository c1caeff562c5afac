"""A network's accuracy, loss and confusion on whole sets of images. In eval mode, in batches, without randomness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from augment.values import require_spread
from distill.errors import DistillError, DivergedError
from distill.soundness import fault_of

BATCH = 512


@torch.no_grad()
def accuracy_and_loss(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[float, float]:
    """Test `model` on uint8 images (N, 3, H, W); returns (top-1 accuracy in [0, 1], mean cross-entropy).

    Puts the model to eval mode and its mode back. `DistillError` for no image; `DivergedError` where the network's answers are not
    finite numbers: their accuracy would be that of class 0.
    """
    if len(images) == 0:
        raise DistillError("there is no image to evaluate on")
    was_training = model.training
    model.eval()
    right, loss = 0, 0.0
    for logits, target in _answers(model, images, labels, mean, std):
        right += int((logits.argmax(1) == target).sum())
        loss += float(F.cross_entropy(logits, target, reduction="sum"))
    model.train(was_training)
    if not math.isfinite(loss):
        raise DivergedError(
            f"the network's answers to images are not finite numbers ({fault_of(model) or 'they overflow'})"
        )
    return right / len(images), loss / len(images)


@torch.no_grad()
def confusion(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Count (C, C) int64 on the CPU: images of class row that `model`, in eval mode, takes for class column."""
    assert not model.training, "a network in train mode answers by its batch"
    counts = torch.zeros(0)
    for logits, target in _answers(model, images, labels, mean, std):
        classes = logits.shape[1]
        pairs = torch.bincount(target * classes + logits.argmax(1), minlength=classes**2)
        counts = pairs if not len(counts) else counts + pairs
    return counts.reshape(classes, classes).cpu()


@torch.no_grad()
def predicted_classes(
    model: nn.Module, images: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Compute which class `model`, in eval mode, takes each uint8 image (N, 3, H, W) for: (N,) int64 on the CPU.

    `DivergedError` where the network's answers are not finite numbers.
    """
    assert not model.training, "a network in train mode answers by its batch"
    logits = [answer for answer, _ in _answers(model, images, torch.empty(len(images)), mean, std)]
    answers = torch.cat(logits) if logits else torch.empty(0, 1)
    if not bool(answers.isfinite().all()):
        raise DivergedError(
            f"the network's answers to images are not finite numbers ({fault_of(model) or 'they overflow'})"
        )
    return answers.argmax(1).cpu()


def _answers(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(images), BATCH):
        batch = normalise(images[start : start + BATCH].float() / 255, mean, std)
        yield model(batch), labels[start : start + BATCH]


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise images (B, C, H, W) float in [0, 1] to (images - mean) / std per channel, channels last in memory."""
    require_spread(mean, std)
    shape = (1, len(mean), 1, 1)
    shift = torch.tensor(mean, dtype=images.dtype, device=images.device).reshape(shape)
    scale = torch.tensor(std, dtype=images.dtype, device=images.device).reshape(shape)
    return ((images - shift) / scale).contiguous(memory_format=torch.channels_last)
