"""Batch norm of two kinds of images: the synthetic ones have statistics, scales and shifts of their own (AdvProp, Xie et al. 2020).

Images of the two kinds never share a batch norm's batch: each batch goes through the network in two parts. Tests use the main norm,
which has seen real images only.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class SplitNorm(nn.Module):
    """A batch norm and a copy of it for images of the other kind; `auxiliary` says which of both is at work."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.main, self.other = norm, copy.deepcopy(norm)
        self.auxiliary = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = (self.other if self.auxiliary else self.main)(inputs)
        return outputs


def split_norms(model: nn.Module) -> nn.Module:
    """Replace every batch norm inside `model`, in place, by a `SplitNorm` that begins as two of it; returns the model."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SplitNorm):
                setattr(module, name, SplitNorm(child))
    return model


def logits_by_kind(model: nn.Module, images: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Compute logits (B, C) of a batch whose images of the `other` kind (B,) bool go through their own norms.

    A lone image of a kind has no statistics: it goes through the main norms, with the rest of the batch.
    """
    counts = (int((~other).sum()), int(other.sum()))
    norms = [module for module in model.modules() if isinstance(module, SplitNorm)]
    if min(counts) < 2 and not (counts[0] == 0 and counts[1] > 1):
        return _through(model, norms, images, False)
    parts = [
        _through(model, norms, images[where], kind) for kind, where in ((False, ~other), (True, other)) if where.any()
    ]
    logits = torch.cat(parts)
    places = torch.cat([(~other).nonzero().flatten(), other.nonzero().flatten()])
    return logits[places.argsort()]


def _through(model: nn.Module, norms: list[SplitNorm], images: torch.Tensor, auxiliary: bool) -> torch.Tensor:
    for norm in norms:
        norm.auxiliary = auxiliary
    try:
        logits: torch.Tensor = model(images)
    finally:
        for norm in norms:
            norm.auxiliary = False
    return logits
