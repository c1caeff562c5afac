"""The tables behind the accuracies of condensed sets: every comparison, accuracies over the epochs, best epochs and bytes."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.evaluation.distilled.claims import called
from pipelines.evaluation.distilled.rows import Arm, Margin, Results
from pipelines.evaluation.distilled.table import (
    GENERATOR,
    STUDENTS,
    by_set,
    decided,
    margin_words,
    named_row,
    nested,
)
from pipelines.evaluation.outputs import interval, verdict_of
from pipelines.report.blocks import GroupedTable, NamedRow
from pipelines.report.words import grouped, human_bytes, percent, share

#: Columns of the comparisons with the best control.
MARGIN_HEAD = ("best control", "difference, 95 % interval", "verdict", "students")


def margins_table(results: Results) -> GroupedTable | None:
    """Every measured set against the best of its controls: the difference with its own interval, and how many students stand behind it."""
    groups: dict[str, list[NamedRow]] = {}
    for student in results.by_student:
        for margin in results.margins(student):
            where = f"IPC {margin.ipc}" + (f", {student}" if results.others else "")
            groups.setdefault(where, []).append(_margin_row(margin, results))
    if not groups:
        return None
    note = (
        "Differences are in percentage points, in pairs of seeds where both have as many sets, with an interval of their own "
        "(Student's t). The verdict holds the comparisons of one student, IPC and kind of labels together (Holm; to beat all controls is "
        "one claim of a set), so an interval may leave out zero without a win."
    )
    return GroupedTable(
        "Against the best control",
        "measured",
        MARGIN_HEAD,
        list(groups.items()),
        note,
        ("best control", "verdict", "students"),
    )


def _margin_row(margin: Margin, results: Results) -> NamedRow:
    judged = margin.comparison.judged
    cells = (
        called(margin.control, results),
        interval({**judged, "gap": margin.comparison.gap}),
        verdict_of(judged),
        counted(judged),
    )
    return NamedRow(f"{called(margin.arm, results)}, {margin.arm.labels}", cells, True)


def counted(judged: Mapping[str, object]) -> str:
    """`3 pairs`, `6 pairs on 3 sets`, `3 on 3 sets against 5 on 1`."""
    if judged.get("paired") is False:
        sides = [(judged.get(f"{side}seeds"), judged.get(f"{side}products")) for side in ("", "control_")]
        return " against ".join(f"{students} on {sets}" for students, sets in sides)
    pairs, sets = judged["seeds"], judged["products"]
    text = f"{pairs} pair{'' if pairs == 1 else 's'}"
    return text if sets in (None, pairs) else f"{text} on {sets} set{'' if sets == 1 else 's'}"


def controls_table(results: Results) -> GroupedTable | None:
    """Every measured set against each of its controls; None where none has more than one."""
    compared: dict[tuple[str, str], dict[str, str]] = {}
    for ipc, arms in results.by_ipc.items():
        for arm in (arm for labels in results.labels for arm in arms.values() if arm.labels == labels):
            for control in results.controls(results.student, ipc, arm):
                title = "its start" if control.images_of == "start" else called(control, results)
                words = margin_words(results.comparisons[results.student, ipc, arm.name, control.name])
                place = f"IPC {ipc}, {arm.labels} labels", called(arm, results)
                compared.setdefault(place, {})[title] = words
    head = list(dict.fromkeys(title for row in compared.values() for title in row))
    if len(head) < 2:
        return None
    groups: dict[str, list[NamedRow]] = {}
    for (group, name), row in compared.items():
        cells = [row.get(title, "") for title in head]
        groups.setdefault(group, []).append(NamedRow(name, cells, True, strong=decided(cells)))
    return GroupedTable(
        "Against every control, percentage points", "measured", head, list(groups.items()), "", tuple(head)
    )


#: Columns of what has to be stored, and of the best epoch.
STORED_HEAD = (
    *("label kind", "best epoch, %", STUDENTS, "images"),
    *("image bytes", "label bytes", "teacher", "together", "of full set"),
)
STORED_NOTE = (
    "The best epoch was chosen by the test score itself and is optimistic: quote the last. Together is what has to be stored to train "
    "on a set: images, labels, and with online labels the teacher."
)


def stored_table(results: Results) -> GroupedTable:
    """The best epoch of every arm, and its bytes one by one."""
    groups = [(f"IPC {ipc}", list(arms.values())) for ipc, arms in results.by_ipc.items()]
    groups += [("Full set", [results.full])] if results.full is not None else []
    sized = any(arm.generator_bytes for arm in results.arms)
    return GroupedTable(
        "Best epochs, and what has to be stored",
        "trained on",
        (*STORED_HEAD, *([GENERATOR] if sized else [])),
        [(group, [_stored_row(arm, results, sized) for arm in arms]) for group, arms in groups],
        STORED_NOTE,
        ("label kind",),
    )


def _stored_row(arm: Arm, results: Results, sized: bool) -> NamedRow:
    full = results.full.bytes if results.full is not None else None
    cells = [
        *(arm.label_kind or arm.labels, percent(arm.best, False), nested(arm), grouped(arm.images)),
        *(human_bytes(arm.image_bytes), human_bytes(arm.label_bytes)),
        human_bytes(arm.teacher_bytes) if arm.teacher_bytes else "",
        *(human_bytes(arm.bytes), share(arm.bytes, full)),
    ]
    cells += [human_bytes(arm.bytes_with_generator) if arm.generator_bytes else ""] if sized else []
    return NamedRow(f"{called(arm, results)}, {arm.labels}", cells, arm.is_measured)


def epochs_table(results: Results) -> GroupedTable | None:
    """Accuracy after some epochs, a column for each kind of labels and number of epochs; None where nothing says it."""
    marks = {
        labels: sorted({epoch for arm in results.arms if arm.labels == labels for epoch in arm.at_epochs})
        for labels in results.labels
    }
    head = [f"{labels}, {epoch}" for labels, epochs in marks.items() for epoch in epochs]
    if not head:
        return None
    groups = []
    for ipc, arms in results.by_ipc.items():
        rows = []
        for same in by_set(arms.values()):
            cells = [
                percent(same[labels].at_epochs.get(epoch), False) if labels in same else ""
                for labels, epochs in marks.items()
                for epoch in epochs
            ]
            rows.append(named_row(same, results, cells))
        groups.append((f"IPC {ipc}", rows))
    note = "With a teacher's labels all sets come near one another in the end; what a set is worth shows in how soon."
    return GroupedTable("Accuracy after so many epochs, %", "trained on", head, groups, note)
