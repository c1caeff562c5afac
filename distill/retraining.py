"""Training a classifier anew on features that stay as they are: the second stage of cRT (Kang et al. 2020)."""

from __future__ import annotations

import torch
from torch import nn

from distill.errors import DistillError
from distill.networks import head_names


def freeze_features(model: nn.Module, fresh: nn.Module) -> nn.Module:
    """Freeze all of `model` but what turns features into logits, which begins as that of `fresh`, a network of the same name.

    Frozen layers stay in eval mode while the trainer trains the rest (`distill.training`). Returns the model.
    """
    heads = head_names(model)
    if not heads:
        raise DistillError(
            f"{type(model).__name__} does not say which of its layers is the classifier; choose another network"
        )
    model.requires_grad_(False)
    for name in heads:
        head = model.get_submodule(name)
        head.load_state_dict(fresh.get_submodule(name).state_dict())
        head.requires_grad_(True)
    return model


def to_train_mode(model: nn.Module) -> None:
    """Put `model` to train mode, all but its frozen parts: those with weights of which none is trained."""
    model.train()
    for module in model.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()


def class_counts(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Count the images of each class (C,) int64."""
    return torch.bincount(labels.cpu(), minlength=classes)
