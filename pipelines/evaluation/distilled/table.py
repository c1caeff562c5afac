"""The accuracy table of distilled sets and their controls, the protocol of each kind of arm, and the charts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from distill.errors import DistillError
from distill.names import ConvNetName, read_name
from pipelines.evaluation.distilled.results import (
    CONTROLS,
    FULL_ARM,
    LABELS,
    Arm,
    Comparison,
    Results,
    called,
    in_order,
    named_arm,
)
from pipelines.evaluation.outputs import interval, verdict_of
from pipelines.report.blocks import GroupedTable, NamedRow, Row, Table
from pipelines.report.reading import inner
from pipelines.report.series import Rows, last_value, mean_and_range
from pipelines.report.svg import Dot, Figure, Series, dot_chart, line_chart
from pipelines.report.words import UNKNOWN, grouped, human_bytes, one_line, percent, share

#: Columns of the accuracy table, after the source of the images.
HEAD = (
    "labels",
    "last epoch, %",
    "verdict",
    "best, %",
    "seeds",
    "label kind",
    "student (norm)",
    "images",
    "image bytes",
    "label bytes",
    "together",
    "of full set",
)
WORDS = ("labels", "label kind", "student (norm)", "verdict")
#: Columns that a terminal of 80 characters has no room for; the report has them.
LEFT_OUT = ("label kind", "student (norm)", "best, %", "seeds", "images", "image bytes", "label bytes", "of full set")
#: What the rows of the differences are called, by the control.
DIFFERENCES = {"random": "difference, 95 % interval", "start": "difference to its start"}
NOTE = (
    "± is one standard deviation over seeds. A difference is to as many random real images, or to the real images that the set started "
    "from, with the same labels, in percentage points and in pairs of seeds, with its own 95 % interval (Student's t). The verdict "
    "holds all comparisons of the table to 95 % together (Holm), so an interval may leave out zero without a win. The best is that "
    "of any epoch, chosen by the test score itself and optimistic: quote the last. Bytes are images and labels as stored."
)
#: Colour says where the images come from; a dashed line or a hollow dot says hard labels.
COLOURS = {"random": "random", "start": "start", "real": "full"}
DISTILLED_COLOURS = ("distilled", "second", "third")


def accuracy_table(results: Results) -> GroupedTable:
    """Every arm by images per class, and below each kind of labels the difference between a distilled set and its control."""
    full_bytes = results.full.bytes if results.full is not None else None
    groups: list[tuple[str, list[NamedRow]]] = []
    for ipc, arms in results.by_ipc.items():
        rows: list[NamedRow] = []
        for labels in LABELS:
            of_kind = [arm for arm in arms.values() if arm.labels == labels]
            rows += [
                NamedRow(called(arm, results), _cells(arm, results, full_bytes), arm.is_distilled) for arm in of_kind
            ]
            for arm in of_kind:
                compared = {images: results.comparisons.get((ipc, arm.name, images)) for images in CONTROLS.values()}
                rows += [_difference(arm, images, one, results) for images, one in compared.items() if one is not None]
        groups.append((f"IPC {ipc}", rows))
    whole: list[NamedRow] = []
    if results.full is not None:
        whole.append(NamedRow("all real", _cells(results.full, results, full_bytes)))
    if results.teacher_accuracy is not None:
        cells = {
            "student (norm)": with_norm(results.teacher_network),
            "last epoch, %": percent(results.teacher_accuracy, False),
        }
        whole.append(NamedRow("teacher", tuple(cells.get(name, "") for name in HEAD)))
    if whole:
        groups.append(("Full set", whole))
    return GroupedTable(
        "Accuracy on the test set, and what has to be stored for it", "images", HEAD, groups, NOTE, WORDS, LEFT_OUT
    )


def _difference(arm: Arm, images: str, comparison: Comparison, results: Results) -> NamedRow:
    """The row below a set and its control; the gap is that of the shown figures."""
    cells = {
        "labels": arm.labels,
        "last epoch, %": interval({**comparison.judged, "gap": comparison.gap}),
        "verdict": verdict_of(comparison.judged),
        "seeds": _pairs(comparison),
    }
    name = DIFFERENCES[images] if len(results.sources) < 2 else f"{arm.images_from}: {DIFFERENCES[images]}"
    return NamedRow(name, tuple(cells.get(column, "") for column in HEAD), difference=True)


def _pairs(comparison: Comparison) -> str:
    seeds = comparison.judged["seeds"]
    return f"{seeds} pair{'s' if seeds > 1 else ''}" if comparison.judged["products"] is not None else str(seeds)


def _cells(arm: Arm, results: Results, full_bytes: float | None) -> Row:
    mean = percent(arm.mean, False)
    if arm.std is not None and (arm.seeds or 1) > 1:
        mean += f" ± {percent(arm.std, False)}"
    seeds = str(arm.seeds) if arm.seeds else UNKNOWN
    if arm.sets is not None and (arm.seeds or 1) > 1 and arm.name != FULL_ARM:
        seeds += f" on {arm.sets} set{'s' if arm.sets > 1 else ''}"
    return (
        arm.labels,
        mean,
        "",
        percent(arm.best, False),
        seeds,
        arm.label_kind or arm.labels,
        _student(arm, results),
        grouped(arm.images),
        human_bytes(arm.image_bytes),
        human_bytes(arm.label_bytes),
        human_bytes(arm.bytes),
        share(arm.bytes, full_bytes),
    )


def _student(arm: Arm, results: Results) -> str:
    network = arm.student or one_line(results.protocol.get("network"))
    return f"{network} ({arm.norm})" if arm.norm else with_norm(network)


def with_norm(network: str) -> str:
    """The name of a network, and its norm where the name is one of ours."""
    try:
        ours = read_name(network)
    except DistillError:
        ours = None
    if isinstance(ours, ConvNetName):
        return f"{network} ({'instance' if ours.instance_norm else 'batch'})"
    return network


#: What a protocol says of every kind of arm: title, and where it stands in a training's parameters.
_PROTOCOL = {
    "epochs": "epochs",
    "batch size": "batch_size",
    "optimiser": "optimizer",
    "learning rate": "learning_rate",
    "weight decay": "weight_decay",
    "temperature": "temperature",
    "views": "views",
}


def protocol_table(params: Mapping[str, Any], labelling: Mapping[str, Any], results: Results) -> Table | None:
    """How the students of each kind of arm are trained: `params` are those of the evaluation, `labelling` of relabel.

    Soft arms see the views and batches that were labelled. None where the parameters are not there.
    """
    soft, hard, full = (inner(params, name) for name in ("soft", "hard", "full"))
    if not (soft and hard and full):
        return None
    soft = soft | {name: labelling[name] for name in ("batch_size", "views") if name in labelling}
    columns = {"soft labels": soft, "hard labels": hard, "full set": full}
    rows = []
    for title, field in _PROTOCOL.items():
        cells = [_setting(training, field) for training in columns.values()]
        if field == "temperature":
            cells[1:] = [UNKNOWN, UNKNOWN]
        rows.append([title, *cells])
    protocol = results.protocol
    facts = {"student (norm)": with_norm(one_line(protocol.get("network")))}
    named = [name for name in ("seeds", "distillation_seeds", "test_images") if name in protocol]
    facts |= {name.replace("_", " "): one_line(protocol[name]) for name in named}
    note = "; ".join(f"{name} {value}" for name, value in facts.items()) + ", the same for every row."
    return Table("Protocol", ("", *columns), rows, (), note)


def _setting(training: Mapping[str, Any], field: str) -> str:
    value = training.get(field)
    if field == "views" and isinstance(value, Mapping):
        crop = f"crop {one_line(value.get('crop'))}" + (
            f" by {value.get('padding')}" if value.get("crop") == "pad" else ""
        )
        mix = value.get("mix")
        return ", ".join(
            filter(None, [crop, "flip" if value.get("flip") else "", str(mix) if mix not in (None, "none") else ""])
        )
    return one_line(value)


def student_figures(curves: Rows) -> list[Figure]:
    """Test accuracy of the students, a figure per IPC: mean over seeds, shaded from the worst to the best seed."""
    groups: defaultdict[str, defaultdict[str, list[Mapping[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in curves:
        groups[str(row.get("ipc") or "").removeprefix("ipc_")][str(row.get("arm") or "")].append(row)
    figures = []
    for ipc in sorted(groups, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)):
        arms = in_order(arm for name in groups[ipc] if (arm := named_arm(name)) is not None)
        colours = colours_of(arms)
        series = []
        for arm in arms:
            rows = groups[ipc][arm.name]
            mean, band = mean_and_range(rows, "epoch", "test_top1", 100)
            seeds = len({row.get("seed") for row in rows})
            name = f"{arm.images_from}, {arm.labels} labels"
            dashed = arm.labels == "hard" and arm.name != FULL_ARM
            series.append(Series(name, mean, colours[arm.name], dashed, band if seeds > 1 else (), last_value(mean)))
        where = f"IPC {ipc}" if ipc.isdecimal() else "full set"
        figures.append(line_chart(f"Students, {where}: test accuracy, %", series, "epoch", log=False))
    return [figure for figure in figures if figure is not None]


def colours_of(arms: Iterable[Arm]) -> dict[str, str]:
    """The colour of every arm by its name: one for its images, whatever its labels."""
    arms = list(arms)
    sources = sorted({arm.source for arm in arms if arm.is_distilled})
    own = {source: DISTILLED_COLOURS[place % len(DISTILLED_COLOURS)] for place, source in enumerate(sources)}
    return {arm.name: own[arm.source] if arm.is_distilled else COLOURS[arm.images_of] for arm in arms}


def accuracy_figure(results: Results) -> Figure | None:
    """All arms on one axis."""
    colours = colours_of(results.arms)
    rows: list[Dot] = []
    for ipc, arms in results.by_ipc.items():
        rows += [Dot(f"IPC {ipc}"), *(_dot(arm, colours[arm.name], called(arm, results)) for arm in arms.values())]
    whole = [_dot(results.full, colours[FULL_ARM], "all real")] if results.full is not None else []
    if results.teacher_accuracy is not None:
        text = percent(results.teacher_accuracy, unit=False)
        whole.append(Dot("teacher", 100 * results.teacher_accuracy, None, "other", text=text))
    rows += [Dot("Full set"), *whole] if whole else []
    spread = any(arm.std for arm in results.arms)
    note = "soft labels filled, hard labels hollow" + (
        "; whiskers: ± one standard deviation over seeds" if spread else ""
    )
    return dot_chart("Test accuracy at the last epoch, %", rows, "test accuracy, %", note)


def _dot(arm: Arm, colour: str, name: str) -> Dot:
    label = f"{name}, {arm.labels}"
    if arm.mean is None:
        return Dot(f"{label}: not measured")
    spread = 100 * arm.std if arm.std is not None else None
    return Dot(label, 100 * arm.mean, spread, colour, arm.labels == "hard", percent(arm.mean, unit=False))
