"""Checks that a network can be a result or a teacher: finite weights, no negative variance, the classes of the data."""

from __future__ import annotations

import torch
from torch import nn

from augment.values import not_finite

#: Images of a class that are called by another's number before that counts as its number: one or two are so by chance.
PROOF = 3


def fault_of(model: nn.Module) -> str | None:
    """Name what is wrong with the network's numbers, as the end of a sentence; None where nothing is. Waits for the device."""
    state = model.state_dict()
    if (name := not_finite(state)) is not None:
        return f"its {name} holds values that are not finite numbers"
    for name, value in state.items():
        if name.endswith("running_var") and bool((value < 0).any()):
            return f"its {name} holds a negative variance"
    return None


def class_order_fault(confusion: torch.Tensor) -> str | None:
    """Name why foreign weights do not know these classes, as the end of a sentence; None where they seem to.

    `confusion` (C, C): images of class row that were taken for class column. A network that tells the classes apart but calls them
    by other numbers has another class order; one that does no better than chance knows other classes or other pixels. Chance is the
    accuracy of the same answers given blindly, so that a sound network may be right less often than whoever names the commonest
    class.
    """
    if len(confusion) < 2:
        return None
    count, right = int(confusion.sum()), int(confusion.diagonal().sum())
    matched, left = 0, confusion.clone()
    for _ in range(len(confusion)):  # the best pairs of row and column, one after another
        place = int(left.argmax())
        row, column = divmod(place, confusion.shape[1])
        taken = int(confusion[row, column])
        matched += taken if row == column or taken >= PROOF else 0
        left[row, :] = left[:, column] = -1
    if 2 * matched >= count and 2 * right <= matched:
        return (
            f"it reaches {100 * right / count:.1f} % as it is and {100 * matched / count:.1f} % with its classes in another order, so "
            "its class order is not that of the data"
        )
    chance = float((confusion.sum(1).double() * confusion.sum(0).double()).sum()) / count**2
    spread = (count * chance * (1 - chance)) ** 0.5
    if right <= count * chance + (2 * spread if spread >= 3 else 0):
        return (
            f"it reaches {100 * right / count:.1f} %, chance accuracy for {len(confusion)} classes: its class order, or what it was "
            "trained on, is not that of the data, or mean and std are not its own"
        )
    return None
