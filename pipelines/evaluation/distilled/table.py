"""The tables of condensed sets and their controls: accuracy and margins at a glance, and the same with other students."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from distill.errors import DistillError
from distill.names import ConvNetName, read_name
from pipelines.evaluation.distilled.claims import called
from pipelines.evaluation.distilled.rows import Arm, Comparison, Results
from pipelines.report.blocks import GroupedTable, NamedRow
from pipelines.report.words import UNKNOWN, human_bytes, listed, percent, signed

#: What a cell says of a margin, after its points.
MARGINS = {"win": "wins", "loss": "loses", "level": "open", "unproved": "one seed"}
BEST = "best control"
MARGIN = "margin"
STUDENTS = "sets × students"
IMAGES, GENERATOR = "image bytes", "with generator"
#: Columns that a terminal has no room for beside three kinds of labels; the report has them.
LEFT_OUT = (STUDENTS, IMAGES, GENERATOR)
NOTE = (
    "± is one standard deviation. The margin of a measured set (bold) is over its best control with the same labels, in percentage "
    "points of the shown figures: wins and loses are told apart where all of one IPC and kind of labels are held to 95 % together, open "
    "is not. "
    "Bytes are those stored: of the images, and of their labels below."
)
GENERATOR_NOTE = "With generator are the images and what made them."
ONLINE_NOTE = "Of online labels the teacher is stored."


def accuracy_table(results: Results) -> GroupedTable:
    """Every set by images per class, its labels in columns: accuracy, and the margin of measured sets over their best control."""
    labels = results.labels
    sized = any(arm.generator_bytes for arm in results.arms)
    head = [name for kind in labels for name in (f"{kind}, %", MARGIN)]
    head += [STUDENTS, IMAGES, *([GENERATOR] if sized else [])]
    groups = []
    for ipc, arms in results.by_ipc.items():
        cells = _Cells(results, results.student, ipc)
        rows = []
        for same in by_set(arms.values()):
            pairs = [cell for kind in labels for cell in (cells.accuracy(same.get(kind)), cells.margin(same.get(kind)))]
            rows.append(named_row(same, results, [*pairs, *_sizes(same, sized)]))
        rows.append(_of_labels(arms.values(), labels, len(head)))
        groups.append((f"IPC {ipc}", rows))
    if whole := _whole(results, len(head), sized):
        groups.append(("Full set", whole))
    return GroupedTable(
        f"Accuracy on the test set{f', students {named(results, results.student)}' if results.student else ''}",
        "trained on",
        head,
        groups,
        " ".join([NOTE, *([ONLINE_NOTE] if "online" in labels else []), *([GENERATOR_NOTE] if sized else [])]),
        (MARGIN,),
        LEFT_OUT if len(labels) > 2 else (STUDENTS, GENERATOR),
    )


def by_set(arms: Iterable[Arm]) -> list[dict[str, Arm]]:
    """The arms of each set of images by their labels, in the order of the rows."""
    sets: dict[str, dict[str, Arm]] = {}
    for arm in arms:
        sets.setdefault(arm.key, {})[arm.labels] = arm
    return list(sets.values())


def named_row(same: Mapping[str, Arm], results: Results, cells: Sequence[str]) -> NamedRow:
    first = next(iter(same.values()))
    return NamedRow(called(first, results), tuple(cells), first.is_measured, strong=decided(cells))


def decided(cells: Sequence[str]) -> list[int]:
    """The places of cells that say who wins or loses."""
    return [place for place, text in enumerate(cells) if text.endswith((MARGINS["win"], MARGINS["loss"]))]


class _Cells:
    """The cells of one student and number of images per class."""

    def __init__(self, results: Results, student: str, ipc: int) -> None:
        margins = [margin for margin in results.margins(student) if margin.ipc == ipc]
        self._margins = {margin.arm.name: margin for margin in margins}
        self._best = {margin.control.name for margin in margins}

    def accuracy(self, arm: Arm | None) -> str:
        return "" if arm is None else with_spread(arm)

    def margin(self, arm: Arm | None) -> str:
        """Of a measured set its points and outcome; the best control is called so."""
        if arm is None:
            return ""
        margin = self._margins.get(arm.name)
        return (BEST if arm.name in self._best else "") if margin is None else margin_words(margin.comparison)


def margin_words(comparison: Comparison) -> str:
    """`+5.2 wins`, `−0.3 open`."""
    outcome = "unproved" if comparison.unproved else comparison.outcome
    return f"{signed(comparison.gap)} {MARGINS[outcome]}"


def with_spread(arm: Arm) -> str:
    """`84.1 ± 0.3`: the mean of the last epoch and one standard deviation, where there are several students."""
    mean = percent(arm.mean, False)
    return f"{mean} ± {percent(arm.std, False)}" if arm.std is not None and (arm.students or 1) > 1 else mean


def nested(arm: Arm) -> str:
    """`3 × 5`: sets and students of each; where these do not divide, `4 on 3`."""
    if not arm.students:
        return UNKNOWN
    if not arm.sets:
        return str(arm.students)
    each, left = divmod(arm.students, arm.sets)
    return f"{arm.students} on {arm.sets}" if left else f"{arm.sets} × {each}"


def _sizes(same: Mapping[str, Arm], sized: bool) -> list[str]:
    """Sets and students, bytes of the images, and with their generator; where labels of several kinds differ in them, all are said."""
    arms = list(same.values())
    sizes = [human_bytes(arm.image_bytes) for arm in arms]
    made = [human_bytes((arm.image_bytes or 0) + arm.generator_bytes) if arm.generator_bytes else "" for arm in arms]
    columns = [[nested(arm) for arm in arms], sizes[:1], *([made[:1]] if sized else [])]
    return [", ".join(dict.fromkeys(filter(None, column))) for column in columns]


def _of_labels(arms: Iterable[Arm], labels: Sequence[str], width: int) -> NamedRow:
    """What labels of each kind take at this number of images; a row in italics below the sets."""
    by_labels: dict[str, Arm] = {}
    for arm in arms:
        by_labels.setdefault(arm.labels, arm)
    cells = [cell for kind in labels for cell in (label_size(by_labels.get(kind)), "")]
    return NamedRow("label bytes", (*cells, *[""] * (width - len(cells))), difference=True)


def label_size(arm: Arm | None) -> str:
    """Bytes of the labels of an arm, or of the teacher that gives them as the student trains."""
    return "" if arm is None else human_bytes(arm.teacher_bytes or arm.label_bytes)


def _whole(results: Results, width: int, sized: bool) -> list[NamedRow]:
    rows = []
    first = results.labels.index("hard") if "hard" in results.labels else 0
    before = [""] * (2 * first)
    if results.full is not None:
        cells = [*before, with_spread(results.full)]
        cells += [""] * (2 * len(results.labels) - len(cells)) + _sizes({"hard": results.full}, sized)
        rows.append(NamedRow("all real", tuple(cells)))
    if results.teacher_accuracy is not None:
        cells = [*before, percent(results.teacher_accuracy, False)]
        rows.append(NamedRow("teacher", tuple(cells + [""] * (width - len(cells)))))
    return rows


def students_table(results: Results) -> GroupedTable | None:
    """What the margins of measured sets are with every student, a column each; None where there is one student."""
    if not results.others:
        return None
    students = list(results.by_student)
    groups: dict[str, list[NamedRow]] = {}
    for ipc, arms in results.by_ipc.items():
        cells = [_Cells(results, student, ipc) for student in students]
        for arm in arms.values():
            if arm.is_measured:
                same = [results.by_student[student].get(ipc, {}).get(arm.name) for student in students]
                texts = [f"{one.accuracy(arm)} {one.margin(arm)}".strip() for one, arm in zip(cells, same, strict=True)]
                row = NamedRow(f"{called(arm, results)}, {arm.labels}", texts, True, strong=decided(texts))
                groups.setdefault(f"IPC {ipc}", []).append(row)
    note = f"Each with its margin over the best control with this student. Norms: {listed([named(results, one) for one in students])}."
    return GroupedTable(
        "Measured sets with every student", "trained on", students, list(groups.items()), note, students
    )


def named(results: Results, student: str) -> str:
    """The name of a student and the norm of its layers, as its rows say it or its name does."""
    arms = (arm for by_name in results.by_student[student].values() for arm in by_name.values())
    norm = next((arm.norm for arm in arms if arm.norm), "")
    return f"{student} ({norm})" if norm else with_norm(student)


def with_norm(network: str) -> str:
    """The name of a network, and its norm where the name is one of ours."""
    try:
        ours = read_name(network)
    except DistillError:
        ours = None
    if isinstance(ours, ConvNetName):
        return f"{network} ({'instance' if ours.instance_norm else 'batch'})"
    return network
