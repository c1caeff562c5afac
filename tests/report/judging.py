"""Tables made by hand, judged as `evaluate` judges those that it measured."""

from __future__ import annotations

import math
from typing import Any

from pipelines.evaluation.distilled.accuracies import COMPARISONS, table
from pipelines.evaluation.distilled.arms import Arm
from pipelines.evaluation.distilled.results import named_arm
from pipelines.evaluation.distilled.worker import Student

#: Three seeds of a set, and of a control: deviations of 1 that have nothing in common, so that both add to the differences'.
SET, CONTROL = (-1.0, 0.0, 1.0), (1 / math.sqrt(3), -2 / math.sqrt(3), 1 / math.sqrt(3))


def judged(form: dict[str, Any]) -> dict[str, Any]:
    """The form with the comparisons of its arms; of an arm without accuracies by seed there are some of its mean and deviation."""
    protocol = form.get("protocol", {})
    students = [
        student
        for group, arms in form.items()
        if group.startswith("ipc_") and isinstance(arms, dict)
        for name, one in arms.items()
        if isinstance(one, dict)
        for student in _students(int(group.removeprefix("ipc_")), name, one, arms, protocol.get("network", ""))
    ]
    whole = table(students, protocol.get("test_images"))
    return form | {key: whole[key] for key in COMPARISONS}


def _students(ipc: int, name: str, form: dict[str, Any], arms: dict[str, Any], network: str) -> list[Student]:
    named = named_arm(name)
    if named is None or not math.isfinite(form["last_mean"]):
        return []
    arm = Arm(named.images_of, named.labels, named.source)  # type: ignore[arg-type]
    seeds = len(form["seeds"]) if isinstance(form["seeds"], list) else form["seeds"]
    pattern = (SET if arm.images == "source" else CONTROL) if seeds == 3 else [0.0] * seeds
    last = form.get("last") or [form["last_mean"] + form["last_std"] * one for one in pattern]
    # Random images are drawn for each student of a distilled set.
    row = arms.get(next(iter(_distilled(arms, arm.labels)), ""), form) if arm.images == "random" else form
    per_set = len(last) // row.get("sets", len(last))
    return [
        Student(arm, ipc, place % per_set, place // per_set, network, "batch", value, value, 1, 1, 1)
        for place, value in enumerate(last)
    ]


def _distilled(arms: dict[str, Any], labels: str) -> list[str]:
    """The names of distilled sets with labels of a kind."""
    named = [one for name in arms if (one := named_arm(name)) is not None]
    return [one.name for one in named if one.is_distilled and one.labels == labels]
