"""Classes of a long-tailed set by their number of training images, and accuracy by group (Liu et al. 2019).

Many is above 100 images, medium 20 to 100, few below 20; the limits are parameters, for small sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from synth.errors import SynthError

Group = Literal["many", "medium", "few"]
GROUPS: tuple[Group, ...] = ("many", "medium", "few")
#: A row of a table whose groups do not add up to its "all" within so many percentage points holds an error.
TOLERANCE = 0.3


def groups_of(counts: Sequence[int], many: int = 100, few: int = 20) -> tuple[Group, ...]:
    """Return the group of each class: more than `many` training images, fewer than `few`, or medium, limits included."""
    if not 0 <= few <= many + 1:
        raise SynthError(f"the limits of groups take 0 <= few <= many + 1, got few {few} and many {many}")
    return tuple("many" if count > many else "few" if count < few else "medium" for count in counts)


def group_sizes(groups: Sequence[Group]) -> dict[Group, int]:
    """Count the classes of each group."""
    return {group: sum(other == group for other in groups) for group in GROUPS}


def group_accuracy(correct: np.ndarray, labels: np.ndarray, groups: Sequence[Group]) -> dict[str, float]:
    """Return the share of right answers in each group that has test images, and in `all`.

    `correct` (n,) bool and `labels` (n,) int are of the test images; `groups` of the classes.
    """
    if not len(correct):
        raise SynthError("there is no test image to take an accuracy of")
    of_image = np.asarray(groups)[labels]
    shares = {group: float(correct[of_image == group].mean()) for group in GROUPS if (of_image == group).any()}
    return shares | {"all": float(correct.mean())}


def weighted_mean(by_group: Mapping[Group, float], sizes: Mapping[Group, int]) -> float:
    """Return the mean over classes of accuracies by group: what "all" is on a test set with as many images of every class."""
    total = sum(sizes[group] for group in by_group)
    if not total:
        raise SynthError("groups without a class have no mean")
    return sum(by_group[group] * sizes[group] for group in by_group) / total


def adds_up(by_group: Mapping[Group, float], sizes: Mapping[Group, int], everything: float) -> bool:
    """Say whether a row of a table in percent can be right: its groups' mean is within `TOLERANCE` of its "all"."""
    return abs(weighted_mean(by_group, sizes) - everything) <= TOLERANCE
