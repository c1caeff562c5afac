"""Losses of classifiers: hard labels, hard labels of classes that have very unequal numbers of images, and soft labels.

Long tails (`docs/specs/long_tails.md`, losses): with n_y images of class y and pi_y its share, balanced softmax (Ren et al. 2020) is the
cross-entropy of logits + log n, the logit-adjusted loss (Menon et al. 2021) that of logits + tau log pi. Both add to what a network
answers in training only; its logits are taken as they are when it is tested. Adjusting afterwards (same paper) takes tau log pi off
the answers of a network that was trained with plain cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from distill.config import LossName
from distill.errors import DistillError


def kl_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float, t_squared: bool = False) -> torch.Tensor:
    """Compute KL(teacher || student) of softmaxes at `temperature`, mean over the batch; logits (B, C).

    SRe2L and CDA leave out the factor T^2 of Hinton et al. 2015, except on Tiny-ImageNet.
    """
    loss = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return loss * temperature**2 if t_squared else loss


def mse_gt_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weight: float = 0.025
) -> torch.Tensor:
    """Compute EDC's loss: MSE of logits (B, C) plus `weight` times cross-entropy with the true labels (B,)."""
    return F.mse_loss(student, teacher) + weight * F.cross_entropy(student, labels)


def log_shares(counts: Sequence[int] | torch.Tensor) -> torch.Tensor:
    """Compute the log of each class's share (C,) float32 of the images; `DistillError` for a class without any."""
    images = torch.as_tensor(counts, dtype=torch.float64)
    if (empty := (images < 1).nonzero().flatten()).numel():
        raise DistillError(
            f"class {int(empty[0])} has no training image, and its share has no logarithm; leave the class out, or set loss to "
            "cross_entropy"
        )
    return (images.log() - images.sum().log()).float()


def shift_of(loss: LossName, tau: float, counts: Sequence[int] | torch.Tensor) -> torch.Tensor | None:
    """Return what a loss adds to logits (C,) float32 before the cross-entropy, None for nothing.

    Balanced softmax adds log n: log pi differs from it by a constant, of which no softmax depends.
    """
    if loss == "cross_entropy":
        return None
    return log_shares(counts) * (tau if loss == "logit_adjusted" else 1.0)


class AdjustedLogits(nn.Module):
    """A network whose logits are lowered by tau log pi: post-hoc logit adjustment (Menon et al. 2021)."""

    def __init__(self, model: nn.Module, counts: Sequence[int] | torch.Tensor, tau: float) -> None:
        super().__init__()
        self.model = model
        self.shift: torch.Tensor
        self.register_buffer("shift", tau * log_shares(counts))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)
        return logits - self.shift.to(logits)
