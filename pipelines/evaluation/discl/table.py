"""From single students to the table of `evaluate@discl`, and what its numbers say in words. Arithmetic only.

Three questions, each held to 95 % together (`pipelines.evaluation.verdicts`): what every arm gains on classes with few images over
its own baseline, what on all, and what DisCL has on classes with few images over each of its controls.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.discl.arms import ARMS, CONTROLS_OF, ArmName
from pipelines.evaluation.discl.student import Student
from pipelines.evaluation.verdicts import Comparison, compare, how_sure, settle
from synth.discl.groups import GROUPS, Group

#: What comparisons answer.
FEW, ALL, CONTROLS = "few", "all", "controls"
#: Chance that is in no interval, since its cause was made once.
ONCE = "one long tail and one set of synthetic images"


def table(students: Sequence[Student], groups: Sequence[Group], outside: Mapping[str, str]) -> dict[str, Any]:
    """Every arm: mean and standard deviation of its accuracies by group, and what its students were shown."""
    return {"arms": {arm: _summary(same, groups, outside.get(arm, "")) for arm, same in _by_arm(students).items()}}


def _by_arm(students: Sequence[Student]) -> dict[ArmName, list[Student]]:
    arms: dict[ArmName, list[Student]] = {}
    for arm in ARMS:
        if own := [student for student in students if student.arm == arm]:
            arms[arm] = sorted(own, key=lambda student: student.seed)
    return arms


def _summary(students: Sequence[Student], groups: Sequence[Group], outside: str) -> dict[str, Any]:
    first, accuracies = students[0], [student.accuracy(groups) for student in students]
    shares = {group: [one[group] for one in accuracies] for group in (*GROUPS, "all") if group in accuracies[0]}
    chosen = [tuple(sorted(student.chosen.named.items())) for student in students]
    levels = Counter[str]()
    for student in students:
        levels.update(student.levels)
    return {
        "title": ARMS[first.arm].title,
        "baseline": ARMS[first.arm].baseline,
        "mean": {group: statistics.fmean(values) for group, values in shares.items()},
        "std": {group: statistics.stdev(values) if len(values) > 1 else 0.0 for group, values in shares.items()},
        "seeds": len(students),
        "steps": first.steps,
        "validation": statistics.fmean(max(student.validation) for student in students),
        "chosen": [{"what": dict(what), "seeds": count} for what, count in Counter(chosen).items()]
        if len(first.candidates) > 1
        else [],
        "shown": {
            "real": round(statistics.fmean(student.real for student in students)),
            "synthetic": round(statistics.fmean(sum(student.levels.values()) for student in students)),
            "levels": {level: round(levels[level] / len(students)) for level in sorted(levels, key=int)},
        },
        "synthetic": first.synthetic,
        "outside_data": outside,
        "right": [statistics.fmean(student.right[label] for student in students) for label in range(len(groups))],
        "of": list(first.of),
    }


def comparisons(students: Sequence[Student], groups: Sequence[Group]) -> list[Comparison]:
    """All comparisons, those of one question settled together, each with its sentence."""
    arms = _by_arm(students)
    pairs: dict[str, list[Comparison]] = {FEW: [], ALL: [], CONTROLS: []}
    for arm in arms:
        baseline = ARMS[arm].baseline
        if baseline in arms:
            pairs[FEW] += _compared(FEW, arms[arm], arms[baseline], "few", groups)
            pairs[ALL] += _compared(ALL, arms[arm], arms[baseline], "all", groups)
    for arm, controls in CONTROLS_OF.items():
        for control in controls:
            if arm in arms and control in arms:
                pairs[CONTROLS] += _compared(CONTROLS, arms[arm], arms[control], "few", groups)
    settled = [one for question in pairs.values() for one in settle(question)]
    return [one | {"sentence": sentence(one)} for one in settled]


def _compared(
    question: str, ours: Sequence[Student], control: Sequence[Student], group: str, groups: Sequence[Group]
) -> list[Comparison]:
    """The paired difference; none where the group has no test images."""
    sides = [{student.seed: student.accuracy(groups) for student in side} for side in (ours, control)]
    if any(group not in accuracy for side in sides for accuracy in side.values()):
        return []
    of = ours[0].of
    images = sum(count for count, own in zip(of, groups, strict=True) if group in ("all", own))
    first, second = ({seed: accuracy[group] for seed, accuracy in side.items()} for side in sides)
    named: Comparison = {"question": question, "arm": ours[0].arm, "against": control[0].arm, "group": group}
    return [named | compare(first, second, dict.fromkeys(first, 0), images)]


def sentence(judged: Mapping[str, Any]) -> str:
    """A comparison in words that follow from its numbers."""
    ours, control = (ARMS[judged[side]].title for side in ("arm", "against"))
    where = "classes with few images" if judged["group"] == "few" else "all classes"
    size, sure = f"{abs(judged['gap']):.1f} points", how_sure(judged)
    if judged["outcome"] in ("win", "loss"):
        verb = "gains" if judged["outcome"] == "win" else "loses"
        return f"On {where} {ours} {verb} {size} over {control}, {sure} ({ONCE})."
    if judged["gap"] == 0:
        return f"On {where} {ours} is level with {control} over {judged['seeds']} paired seeds."
    return f"On {where} {ours} is {size} {'ahead of' if judged['gap'] > 0 else 'behind'} {control}, {sure}."


def numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers of a table: accuracies by arm and group, and gains over baselines in percentage points."""
    gains: dict[str, dict[str, float]] = {}
    for one in results["comparisons"]:
        if one["question"] != CONTROLS:
            gains.setdefault(one["arm"], {})[one["group"]] = one["gap"]
    return {"accuracy": {arm: form["mean"] for arm, form in results["arms"].items()}, "gain": gains}
