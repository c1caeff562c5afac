"""From the CSV files of the stages to figures: the teacher's training, the recovery of the images, the students."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pipelines.report.results import ARMS, FULL_ARM, Arm, Results
from pipelines.report.svg import Band, Dot, Figure, Point, Series, dot_chart, line_chart
from pipelines.report.words import listed, number, percent

Rows = Sequence[Mapping[str, str]]
#: Colour says where the images come from; a dashed line or a hollow dot says hard labels.
COLOURS = {"distilled": "distilled", "random real": "random", "all real": "full"}


def _points(rows: Rows, x: str, y: str, scale: float = 1.0) -> list[Point]:
    found = ((number(row.get(x)), number(row.get(y))) for row in rows)
    return [(a, b * scale) for a, b in found if a is not None and b is not None]


def _summary(rows: Rows, x: str, y: str, scale: float = 1.0) -> tuple[list[Point], list[Band]]:
    """Mean of y at every x, and its lowest and highest value there."""
    at: defaultdict[float, list[float]] = defaultdict(list)
    for place, value in _points(rows, x, y, scale):
        at[place].append(value)
    places = sorted(at)
    return [(p, statistics.fmean(at[p])) for p in places], [(p, min(at[p]), max(at[p])) for p in places]


def teacher_figures(history: Rows) -> list[Figure]:
    """Loss and validation accuracy of the teacher over epochs."""
    accuracy = _points(history, "epoch", "val_top1", 100)
    train, held_out = _points(history, "epoch", "train_loss"), _points(history, "epoch", "val_loss")
    figures = [
        line_chart(
            "Teacher: accuracy on validation images, %",
            [Series("validation", accuracy, "other", value=_last(accuracy))],
            "epoch",
        ),
        line_chart(
            "Teacher: loss",
            [Series("training", train, "other", dashed=True), Series("validation", held_out, "other")],
            "epoch",
            note=_lost(history, ("train_loss", "val_loss")),
        ),
    ]
    return [figure for figure in figures if figure is not None]


def recover_figures(losses: Rows) -> list[Figure]:
    """The loss of the distilled images over steps: mean and range over units."""
    mean, band = _summary(losses, "step", "loss")
    units = len({row.get("unit") for row in losses})
    note = f"mean of {units} units, shaded from the lowest to the highest" if units > 1 else ""
    note = "; ".join(filter(None, [note, _lost(losses, ("loss",))]))
    name = "mean loss" if units > 1 else "loss"
    figure = line_chart(
        "Distilled images: loss while they are made", [Series(name, mean, "distilled", band=band)], "step", note
    )
    return [figure] if figure is not None else []


def student_figures(curves: Rows) -> list[Figure]:
    """Test accuracy of the students, a figure per IPC: mean over seeds, shaded from the worst to the best seed."""
    groups: defaultdict[str, defaultdict[str, list[Mapping[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in curves:
        groups[str(row.get("ipc") or "").removeprefix("ipc_")][str(row.get("arm") or "")].append(row)
    figures = []
    for ipc in sorted(groups, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)):
        arms = groups[ipc]
        series = []
        for arm in sorted(arms, key=lambda name: list(ARMS).index(name) if name in ARMS else len(ARMS)):
            images, labels = ARMS.get(arm, ("all real", "hard"))
            mean, band = _summary(arms[arm], "epoch", "test_top1", 100)
            seeds = len({row.get("seed") for row in arms[arm]})
            name = f"{images}, {labels} labels" if arm in ARMS or arm == FULL_ARM else arm.replace("_", " ")
            dashed = labels == "hard" and arm in ARMS
            series.append(Series(name, mean, COLOURS[images], dashed, band if seeds > 1 else (), _last(mean)))
        where = f"IPC {ipc}" if ipc.isdecimal() else "full set"
        figures.append(line_chart(f"Students, {where}: test accuracy, %", series, "epoch", log=False))
    return [figure for figure in figures if figure is not None]


def accuracy_figure(results: Results) -> Figure | None:
    """All arms on one axis."""
    rows: list[Dot] = []
    for ipc, arms in results.by_ipc.items():
        rows += [Dot(f"IPC {ipc}"), *(_dot(arm, f"{arm.images_from}, {arm.labels}") for arm in arms.values())]
    whole = [_dot(results.full, "all real, hard")] if results.full is not None else []
    if results.teacher_accuracy is not None:
        text = percent(results.teacher_accuracy, unit=False)
        whole.append(Dot("teacher", 100 * results.teacher_accuracy, None, "other", text=text))
    rows = [row for row in [*rows, *([Dot("Full set"), *whole] if whole else [])] if row is not None]
    spread = any(arm.std for arm in results.arms)
    note = "soft labels filled, hard labels hollow" + (
        "; whiskers: ± one standard deviation over seeds" if spread else ""
    )
    return dot_chart("Test accuracy at the last epoch, %", rows, "test accuracy, %", note)


def _dot(arm: Arm, label: str) -> Dot:
    if arm.mean is None:
        return Dot(f"{label}: not measured")
    spread = 100 * arm.std if arm.std is not None else None
    hollow = arm.labels == "hard"
    return Dot(label, 100 * arm.mean, spread, COLOURS[arm.images_from], hollow, percent(arm.mean, unit=False))


def _last(line: Sequence[Point]) -> str:
    return f"{line[-1][1]:.1f}" if line else ""


def _lost(rows: Rows, columns: Iterable[str]) -> str:
    """A sentence about values that are not finite numbers: a run that diverged must not look like a short one."""
    counts = {name: sum(name in row and number(row[name]) is None for row in rows) for name in columns}
    broken = [f"{count} of {name}" for name, count in counts.items() if count]
    return f"values that are not finite numbers are not drawn: {listed(broken)}" if broken else ""
