"""What the report shows of `evaluate@discl`: arms by groups of classes, what each gains over its baseline, and under which protocol.

Reads `results.json` only; what is not there or not a number becomes a dash. Comparisons were computed with the numbers; nothing is
compared here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.discl.arms import ARMS, OURS
from pipelines.evaluation.discl.table import ALL, CONTROLS, FEW, ONCE
from pipelines.evaluation.outputs import interval, results_of, verdict_of
from pipelines.report.blocks import Block, Charts, Definitions, Folded, GroupedTable, NamedRow, Sentences, Table
from pipelines.report.reading import Outputs, inner, inner_list
from pipelines.report.section import Options, Section
from pipelines.report.svg import Dot, Figure, dot_chart
from pipelines.report.words import UNKNOWN, grouped, listed, number, one_line, percent
from synth.discl.groups import GROUPS

HEAD = (
    "few, %",
    "all, %",
    "few: gain",
    "verdict",
    "many, %",
    "medium, %",
    "all: gain",
    "all: verdict",
    "seeds",
    "synthetic shown",
    "chosen",
)
WORDS = ("verdict", "all: verdict", "chosen")
#: Columns that a terminal of 80 characters has no room for; the report has them.
LEFT_OUT = HEAD[4:]
NOTE = (
    "± is one standard deviation over seeds. A gain is over the arm's own baseline (balanced softmax for BS + DisCL, cross-entropy for "
    "the others), in percentage points and pairs of seeds, with its own 95 % interval (Student's t); a verdict holds all gains of its "
    "column to 95 % together (Holm). All arms take the same steps and see as many images."
)
OUTSIDE = "outside data"


def section(outputs: Outputs, options: Options) -> Section | None:
    """The students; None while they are not measured."""
    form = results_of(outputs, "discl")
    if not inner(form, "arms"):
        return None
    table, said = arms_table(form), Sentences(sentences(form))
    figures = charts(form)
    blocks: list[Block] = [table, *([said] if said.texts else []), *([Charts(figures)] if figures else [])]
    folded: dict[str, list[Block | None]] = {
        "DisCL against its controls": [controls_table(form)],
        "Accuracy per class": [classes_table(form)],
        "Protocol": [Definitions("Protocol", protocol(form))],
    }
    shown = {title: [block for block in own if block is not None] for title, own in folded.items()}
    blocks += [Folded(title, own) for title, own in shown.items() if own]
    title = "DisCL: what its curriculum is worth on a long tail"
    return Section("discl-worth", title, 22, headline(form), blocks, [table, said], form)


def arms_table(form: Mapping[str, Any]) -> GroupedTable:
    """The arms by where their images are from; those of generators that have seen more than the long tail are marked so."""
    groups: dict[str, list[NamedRow]] = {}
    for arm, one in _arms(form).items():
        groups.setdefault(_group_of(arm, one), []).append(
            NamedRow(_title(arm, one), _cells(form, arm, one), arm in OURS)
        )
    title = "Students of the long tail, test accuracy by classes with many, medium and few images"
    return GroupedTable(title, "arm", HEAD, list(groups.items()), NOTE, WORDS, LEFT_OUT)


def _group_of(arm: str, one: Mapping[str, Any]) -> str:
    if one.get("outside_data"):
        return f"With synthetic images ({OUTSIDE})"
    if number(one.get("synthetic")):
        return "With images of a generator of the long tail alone"
    return "For reference" if arm == "full_real" else "Real images only"


def _cells(form: Mapping[str, Any], arm: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    few, everything = (_comparison(form, question, arm) for question in (FEW, ALL))
    accuracy = {group: _accuracy(one, group) for group in (*GROUPS, "all")}
    shown = number(inner(one, "shown").get("synthetic"))
    chosen = [one for one in inner_list(one, "chosen") if isinstance(one, Mapping)]
    return (
        accuracy["few"],
        accuracy["all"],
        interval(few) if few else "",
        verdict_of(few) if few else "",
        accuracy["many"],
        accuracy["medium"],
        interval(everything) if everything else "",
        verdict_of(everything) if everything else "",
        grouped(number(one.get("seeds"))),
        grouped(shown) if shown else "",
        "; ".join(f"{one_line(inner(own, 'what'))} ({one_line(own.get('seeds'))})" for own in chosen),
    )


def _accuracy(one: Mapping[str, Any], group: str) -> str:
    mean, std, seeds = (
        number(inner(one, "mean").get(group)),
        number(inner(one, "std").get(group)),
        number(one.get("seeds")),
    )
    return percent(mean, False) + (f" ± {percent(std, False)}" if std is not None and (seeds or 1) > 1 else "")


def headline(form: Mapping[str, Any]) -> str:
    """One sentence: what DisCL gains on classes with few images over its baselines, with intervals."""
    parts = []
    for arm in OURS:
        if one := _comparison(form, FEW, arm):
            told = {"win": "", "loss": "", "unproved": ", with one seed: chance is not ruled out"}
            words = told.get(str(one.get("outcome")), ", not told apart")
            parts.append(f"{interval(one)} points over {_title(str(one.get('against')), {})}{words}")
    if not parts:
        return "DisCL is not compared with its baselines."
    # Most of a gain over cross-entropy is that of balanced classes: what synthetic images add is beyond the tail as often without them.
    for one in _compared(form):
        if (one.get("question"), one.get("against")) == (CONTROLS, "tail_repeated"):
            level = ", not told apart" if one.get("outcome") == "level" else ""
            parts.append(f"{interval(one)} over the tail repeated as often without synthetic images{level}")
    return f"On classes with few images DisCL gains {listed(parts)}."


def sentences(form: Mapping[str, Any]) -> list[str]:
    """What a reader must know about the numbers."""
    told, arms = [words for arm in OURS if (words := against_controls(form, arm))], _arms(form)
    reasons = dict.fromkeys(str(one["outside_data"]) for one in arms.values() if one.get("outside_data"))
    told += [f"Rows with {OUTSIDE} have images of {reason}." for reason in reasons]
    if any(number(one.get("synthetic")) for one in arms.values()):
        told.append(f"There is {ONCE}: chance in making them is in no interval.")
    note = str(inner(form, "protocol").get("note") or "").strip()
    return [*told, note] if note else told


def against_controls(form: Mapping[str, Any], arm: str) -> str:
    """Which controls an arm of DisCL is ahead of on classes with few images; empty where it is compared with none."""
    compared = [one for one in _compared(form) if (one.get("question"), one.get("arm")) == (CONTROLS, arm)]
    by_outcome: dict[str, list[str]] = {}
    for one in compared:
        by_outcome.setdefault(str(one.get("outcome")), []).append(_title(str(one.get("against")), {}))
    words = {"win": "beats", "loss": "loses to", "level": "is not told apart from", "unproved": "has one seed beside"}
    parts = [f"{words[outcome]} {listed(by_outcome[outcome])}" for outcome in words if outcome in by_outcome]
    return f"On classes with few images {_title(arm, {})} {listed(parts)}." if parts else ""


def charts(form: Mapping[str, Any]) -> list[Figure]:
    """A chart of classes with few images and one of all classes: the arms on one axis, the best above."""
    figures = []
    for group, title in (("few", "Classes with few images"), ("all", "All classes")):
        rows = []
        for arm, one in _arms(form).items():
            mean, std = number(inner(one, "mean").get(group)), number(inner(one, "std").get(group))
            if mean is not None:
                colour = "distilled" if arm in OURS else "full" if arm == "full_real" else "control0"
                spread = None if std is None else 100 * std
                rows.append(Dot(_title(arm, one), 100 * mean, spread, colour, arm not in OURS, percent(mean, False)))
        rows.sort(key=lambda row: -(row.value or 0.0))
        figures.append(dot_chart(title, rows, "test accuracy, %", "whiskers: ± one standard deviation"))
    return [figure for figure in figures if figure is not None]


def controls_table(form: Mapping[str, Any]) -> Table | None:
    """What DisCL has on classes with few images over each of its controls."""
    rows = [
        [_title(str(one.get("arm")), {}), _title(str(one.get("against")), {}), interval(one), verdict_of(one)]
        for one in _compared(form)
        if one.get("question") == CONTROLS
    ]
    if not rows:
        return None
    note = "Percentage points with a 95 % interval each; verdicts hold all of them to 95 % together (Holm)."
    return Table("On classes with few images", ("arm", "over", "difference", "verdict"), rows, None, note)


def classes_table(form: Mapping[str, Any]) -> Table | None:
    """Accuracy of each class by arm, with its group and its number of training images."""
    classes, counts, groups = (inner_list(form, name) for name in ("classes", "counts", "groups"))
    arms = {
        _title(arm, one): _shares(one)
        for arm, one in _arms(form).items()
        if len(inner_list(one, "right")) == len(inner_list(one, "of")) == len(classes)
    }
    if not arms or not len(classes) == len(counts) == len(groups):
        return None
    rows = [
        [str(name), str(groups[place]), grouped(number(counts[place])), *(shares[place] for shares in arms.values())]
        for place, name in enumerate(classes)
    ]
    return Table("Test accuracy per class, %", ("class", "group", "training images", *arms), rows)


def _shares(one: Mapping[str, Any]) -> list[str]:
    shares = []
    for right, of in zip(inner_list(one, "right"), inner_list(one, "of"), strict=True):
        first, second = number(right), number(of)
        shares.append(UNKNOWN if first is None or not second else percent(first / second, False))
    return shares


def protocol(form: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What held for every row, as name and value."""
    shown = {name: value for name, value in inner(form, "protocol").items() if name != "note" and value is not None}
    return [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for name, value in shown.items()
    ]


def _arms(form: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The arms of the results in the order of tables."""
    arms = inner(form, "arms")
    ordered = [arm for arm in ARMS if arm in arms] + [arm for arm in arms if arm not in ARMS]
    return {arm: arms[arm] for arm in ordered if isinstance(arms[arm], Mapping)}


def _title(arm: str, one: Mapping[str, Any]) -> str:
    title = one.get("title")
    return str(title) if title else ARMS[arm].title if arm in ARMS else arm  # type: ignore[index]


def _compared(form: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [one for one in inner_list(form, "comparisons") if isinstance(one, Mapping)]


def _comparison(form: Mapping[str, Any], question: str, arm: str) -> Mapping[str, Any]:
    own = (one for one in _compared(form) if (one.get("question"), one.get("arm")) == (question, arm))
    return next(own, {})
