"""Which real images of a class a curriculum begins at: those that the teacher knows and the student does not."""

from __future__ import annotations

from typing import Literal

import torch

#: Why an image was chosen: the teacher names it right (and a student, where there is one, wrong); both are wrong; whatever is left.
Reason = Literal["recognised", "hard", "any"]


def choose_start(
    teacher: torch.Tensor, student: torch.Tensor | None, label: int, count: int, *, label_0: bool = False
) -> list[tuple[int, Reason]]:
    """Choose `count` of n images of class `label`, in their order, which is random; returns their places and why each was chosen.

    `teacher` and `student` (n,) are the classes that the networks name; without a student the teacher's answer decides. If too few
    are recognised, those that both networks name wrong come next, and then any (CUDD's `initialize.py`). With `label_0` wrong is
    among these what is not class 0, as published. Fewer are returned where n is less than `count`.
    """
    recognised = teacher == label if student is None else (teacher == label) & (student != label)
    tiers: list[tuple[Reason, torch.Tensor]] = [("recognised", recognised)]
    if student is not None:
        wrong_of = 0 if label_0 else label
        tiers.append(("hard", (teacher != wrong_of) & (student != wrong_of)))
    tiers.append(("any", torch.ones_like(recognised)))
    chosen: dict[int, Reason] = {}
    for reason, of_tier in tiers:
        for place in of_tier.nonzero()[:, 0].tolist():
            if len(chosen) == count:
                break
            chosen.setdefault(place, reason)
    return list(chosen.items())
