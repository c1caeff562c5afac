"""The table of stored labels in several forms: what each takes, what its students reach, and whether the teacher takes less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.distilled.claims import called
from pipelines.evaluation.distilled.rows import Arm, Results
from pipelines.report.blocks import GroupedTable, NamedRow
from pipelines.report.reading import inner
from pipelines.report.words import UNKNOWN, human_bytes, number, percent, points, signed

HEAD = ("bytes", "accuracy, %", "against all stored")
NOTE = (
    "The bytes of a form are those of the Arrow files that relabel would write in it. Differences in percentage points of the shown means "
    "of the same sets and seeds; they are not judged."
)


def formats_table(form: Mapping[str, Any], results: Results) -> GroupedTable | None:
    """Every measured set whose labels were stored in several forms, from `results.json`; None where none was."""
    groups: dict[str, list[NamedRow]] = {}
    for ipc, arms in results.by_ipc.items():
        rows = inner(form, f"ipc_{ipc}")
        for arm in (arm for arm in arms.values() if arm.labels == "soft" and arm.is_measured):
            others = [inner(rows, name) for name in rows if name.startswith(f"{arm.name}_")]
            if others:
                online = arms.get(f"{arm.key}_online")
                title = f"IPC {ipc}, {called(arm, results)}"
                groups[title] = [_row(one, arm) for one in (inner(rows, arm.name), *others)]
                groups[title] += _of_teacher(results, arm, online)
    if not groups:
        return None
    return GroupedTable(
        "Forms of stored labels", "labels", HEAD, list(groups.items()), f"{NOTE} {_advice(results)}".strip()
    )


def _row(row: Mapping[str, Any], whole: Arm) -> NamedRow:
    mean = number(row.get("last_mean"))
    cells = (human_bytes(number(row.get("label_bytes"))), percent(mean, False), _difference(mean, whole))
    return NamedRow(str(row.get("label_format") or UNKNOWN), cells)


def _of_teacher(results: Results, whole: Arm, online: Arm | None) -> list[NamedRow]:
    """The teacher in place of stored labels, where its bytes are known."""
    size = number(results.protocol.get("teacher_bytes"))
    if size is None:
        return []
    mean = None if online is None else online.mean
    cells = (human_bytes(size), UNKNOWN if mean is None else percent(mean, False), _difference(mean, whole))
    return [NamedRow("the teacher, asked as students train", cells)]


def _difference(mean: float | None, whole: Arm) -> str:
    return "" if mean is None or whole.mean is None else signed(points(mean, whole.mean))


def _advice(results: Results) -> str:
    """That the teacher takes less than the labels that it gives, where it does."""
    size = number(results.protocol.get("teacher_bytes"))
    larger = [
        arm for arm in results.arms if arm.labels == "soft" and arm.is_measured and (arm.label_bytes or 0) > (size or 0)
    ]
    if not size or not larger:
        return ""
    named = ", ".join(dict.fromkeys(f"{called(arm, results)} with {human_bytes(arm.label_bytes)}" for arm in larger))
    return f"The teacher takes {human_bytes(size)}, fewer than the stored labels of {named}: ship it in their place."
