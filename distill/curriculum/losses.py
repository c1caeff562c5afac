"""The terms that a curriculum adds to the loss of recovery: a student to be made wrong, and the real images to stay near."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distill.cda import ExtraLoss
from distill.curriculum.config import CurriculumConfig

#: Keeps the logarithm finite where the student is certain.
TINY = 1e-12


def adversarial_loss(
    student: torch.Tensor,
    targets: torch.Tensor,
    recognised: torch.Tensor,
    *,
    groups: int = 1,
    epsilon: float = 0.0,
    constant: bool = False,
) -> torch.Tensor:
    """Compute -mean log(1 - p_y + 1e-12) (groups,) of a student's logits (groups * B, C), p their softmax: small where it is wrong.

    `targets` (groups * B,) are the classes y, `recognised` (groups * B,) bool the images that the teacher names right: others add
    nothing, though the mean is over all B, or with `constant` -log(1 - 1/C) without a gradient, as published. `epsilon` spreads
    that share of the target over all classes.
    """
    classes = student.shape[1]
    if constant:
        student = student * recognised[:, None]
    wrong = torch.log(1 - student.softmax(1) + TINY)
    goal = F.one_hot(targets, classes).to(wrong) * (1 - epsilon) + epsilon / classes
    losses = -(goal * wrong).sum(1)
    if not constant:
        losses = torch.where(recognised, losses, torch.zeros_like(losses))
    return losses.unflatten(0, (groups, -1)).mean(1)


def anchor_loss(views: torch.Tensor, start: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Compute the mean squared difference (groups,) of normalised views (groups * B, 3, S, S) from those of where they began."""
    return (views - start).square().unflatten(0, (groups, -1)).flatten(1).mean(1)


def curriculum_loss(
    student: nn.Module | None, targets: torch.Tensor, groups: int, config: CurriculumConfig, *, constant: bool
) -> ExtraLoss:
    """Build what a curriculum adds to recovery; `student` frozen in eval mode, None in the first; `targets` (B,) classes of a group."""
    labels = targets.repeat(groups)

    def extra(views: torch.Tensor, logits: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        loss = config.anchor * anchor_loss(views, start, groups)
        if student is None:
            return loss
        answers = student(views).to(views.dtype)
        recognised = logits.detach().argmax(1) == labels
        against = adversarial_loss(
            answers, labels, recognised, groups=groups, epsilon=config.epsilon, constant=constant
        )
        return loss + config.adversary * against

    return extra
