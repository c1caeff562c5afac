"""The charts of condensed sets: a ranking for each number of images per class, and the students over their epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from pipelines.evaluation.distilled.claims import called
from pipelines.evaluation.distilled.rows import FULL_ARM, LABELS, Arm, Results
from pipelines.report.series import Rows, last_value, mean_and_range
from pipelines.report.svg import Dot, Figure, Series, dot_chart, line_chart
from pipelines.report.words import percent

#: A colour for each kind of images that is no condensed set.
COLOURS = {"random": "random", "start": "start", "real": "full"}
#: Those of measured sets, and of sets that are controls, in the order of the rows.
MEASURED_COLOURS = ("distilled", "second", "third", "other")
CONTROL_COLOURS = ("control0", "control1", "control2", "control3", "control4", "control5")


def colours_of(arms: Iterable[Arm]) -> dict[str, str]:
    """The colour of every set of images by its key: one whatever its labels."""
    colours: dict[str, str] = {}
    places = {True: 0, False: 0}
    for arm in arms:
        if not arm.is_distilled:
            colours[arm.key] = COLOURS[arm.images_of]
        elif arm.key not in colours:
            palette = MEASURED_COLOURS if arm.is_measured else CONTROL_COLOURS
            colours[arm.key] = palette[places[arm.is_measured] % len(palette)]
            places[arm.is_measured] += 1
    return colours


def accuracy_figures(results: Results) -> list[Figure]:
    """A figure for each number of images per class: all sets on one axis by kind of labels, the best above."""
    colours = colours_of(results.arms)
    figures = []
    for ipc, arms in results.by_ipc.items():
        rows: list[Dot] = []
        for labels in results.labels:
            own = sorted((arm for arm in arms.values() if arm.labels == labels), key=lambda arm: -(arm.mean or 0.0))
            rows += (
                [Dot(f"{labels} labels"), *(_dot(arm, colours[arm.key], called(arm, results)) for arm in own)]
                if own
                else []
            )
        spread = any(arm.std for arm in arms.values())
        note = "controls hollow" + ("; whiskers: ± one standard deviation" if spread else "")
        figures.append(dot_chart(f"IPC {ipc}, last epoch", rows, "test accuracy, %", note))
    return [figure for figure in figures if figure is not None]


def _dot(arm: Arm, colour: str, name: str) -> Dot:
    if arm.mean is None:
        return Dot(f"{name}: not measured")
    spread = 100 * arm.std if arm.std is not None else None
    return Dot(name, 100 * arm.mean, spread, colour, not arm.is_measured, percent(arm.mean, unit=False))


def student_figures(curves: Rows, results: Results) -> list[Figure]:
    """Test accuracy of the main student, a figure per IPC and kind of labels: mean over students, shaded from worst to best."""
    groups: defaultdict[tuple[str, str], defaultdict[str, list[Mapping[str, str]]]]
    groups = defaultdict(lambda: defaultdict(list))
    for row in curves:
        name, ipc = str(row.get("arm") or ""), str(row.get("ipc") or "").removeprefix("ipc_")
        if row.get("network") in (None, "", results.student):
            groups[ipc, name.rpartition("_")[2]][name].append(row)
    arms = {arm.name: arm for arm in results.arms}
    colours = colours_of(results.arms)
    figures = []
    for ipc, labels in sorted(groups, key=_place):
        series = [
            _line(arm, rows, colours[arm.key], called(arm, results))
            for name, arm in arms.items()
            if (rows := groups[ipc, labels].get(name))
        ]
        where = f"IPC {ipc}, {labels} labels" if ipc.isdecimal() else "full set"
        figures.append(line_chart(f"Students, {where}: test accuracy, %", series, "epoch", log=False))
    return [figure for figure in figures if figure is not None]


def _place(group: tuple[str, str]) -> tuple[bool, int, int]:
    ipc, labels = group
    number = int(ipc) if ipc.isdecimal() else 0
    return (not ipc.isdecimal(), number, LABELS.index(labels) if labels in LABELS else len(LABELS))


def _line(arm: Arm, rows: Rows, colour: str, name: str) -> Series:
    mean, band = mean_and_range(rows, "epoch", "test_top1", 100)
    students = len({(row.get("set"), row.get("seed")) for row in rows})
    dashed = not arm.is_measured and arm.name != FULL_ARM
    # Bands of many sets lie over one another and hide the lines: those of what is measured are drawn.
    return Series(name, mean, colour, dashed, band if students > 1 and not dashed else (), last_value(mean))
