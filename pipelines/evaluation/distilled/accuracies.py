"""From single students to the table of condensed sets: accuracies and bytes by arm, and who is told apart. Arithmetic only."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.evaluation.distilled.arms import FULL, LABEL_KINDS, Arm
from pipelines.evaluation.distilled.worker import Student
from pipelines.evaluation.verdicts import Comparison, compare_products, settle_questions

#: How labels are stored that are not stored epochs.
FIXED_FORMAT = {"fixed": "fp16"}
#: Keys of the comparisons in the results: with as many random real images, with what a set began from, with the sets of controls.
COMPARISONS = ("comparisons", "against_start", "against_controls")
#: Which of them has those with these controls; the third has all others.
_LISTS = {"random": "comparisons", "start": "against_start"}

#: Comparisons that agree in these answer one question: which sets beat their controls, here, with these labels and this student?
QUESTION = ("network", "ipc", "labels")


@dataclass(frozen=True)
class Beside:
    """What a table needs beside what its students came to.

    `networks` are the students with the main one first, `controls` the sources that stand as controls, `teacher_bytes` what arms with
    online labels ship, `generator_bytes` by source what its images were made with, and `label_formats` how stored labels are stored, by the
    name of their form.
    """

    networks: Sequence[str] = ()
    controls: Collection[str] = ()
    teacher_bytes: int = 0
    generator_bytes: Mapping[str, int] = field(default_factory=dict)
    label_formats: Mapping[str, str] = field(default_factory=dict)


def table(students: Sequence[Student], test_images: int | None = None, beside: Beside = Beside()) -> dict[str, Any]:
    """Every arm's accuracies and bytes by IPC for the main student, and for `other_students`; the comparisons of all of them, settled
    by `QUESTION`, a list for each of `COMPARISONS`; and the best control of each student, IPC and kind of labels."""
    networks = dict.fromkeys([*beside.networks, *(one.network for one in students)])
    by_network = {name: _rows([one for one in students if one.network == name], beside) for name in networks}
    main, *others = by_network.values() or [{}]
    judged = settle_questions(_comparisons(students, beside.controls, test_images), QUESTION, "arm")
    form: dict[str, Any] = main | {"other_students": dict(zip([*networks][1:], others, strict=True))}
    for key in COMPARISONS:
        form[key] = [one for one in judged if _LISTS.get(one["control"], "against_controls") == key]
    return form | {"best_control": {name: _best_controls(rows) for name, rows in by_network.items()}}


def numbers(form: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers of a table: accuracies by IPC and arm, and the differences that were judged, in percentage points."""
    main, others = form["protocol"]["network"], form["other_students"]
    return _numbers(form, form, main) | {
        "other_students": {network: _numbers(rows, form, network) for network, rows in others.items()}
    }


def _numbers(rows: Mapping[str, Any], form: Mapping[str, Any], network: str) -> dict[str, Any]:
    groups = {name: arms for name, arms in rows.items() if name == "full" or name.startswith("ipc_")}
    accuracy = {name: {arm: one["last_mean"] for arm, one in arms.items()} for name, arms in groups.items()}
    difference: dict[str, Any] = {}
    for one in (one for key in COMPARISONS for one in form[key] if one["network"] == network):
        difference.setdefault(f"ipc_{one['ipc']}", {})[f"{one['arm']}-{one['against']}"] = one["gap"]
    return {"accuracy": accuracy, "difference": difference}


def lines(curves: bytes, main: str) -> list[dict[str, Any]]:
    """A line an arm and student, from the CSV of all students: the mean accuracy of its seeds over the epochs.

    Those of the student `main` are called by their arm alone.
    """
    values: dict[tuple[str, int], list[float]] = {}
    for row in csv.DictReader(io.StringIO(curves.decode())):
        where = "full set" if row["ipc"] == "full" else f"IPC {row['ipc']}"
        which = "" if row["network"] == main else f", {row['network']}"
        values.setdefault((f"{row['arm']}, {where}{which}", int(row["epoch"])), []).append(float(row["test_top1"]))
    return [
        {"line": line, "epoch": epoch, "test_top1": statistics.fmean(same), "seeds": len(same)}
        for (line, epoch), same in values.items()
    ]


def _rows(students: Sequence[Student], beside: Beside) -> dict[str, Any]:
    """The rows of one network by IPC and arm."""
    rows: dict[str, Any] = {}
    for ipc in sorted({one.ipc for one in students}):
        here = [one for one in students if one.ipc == ipc]
        arms = dict.fromkeys(one.arm for one in here)
        rows["full" if ipc == FULL else f"ipc_{ipc}"] = {
            arm.name: _row([one for one in here if one.arm == arm], beside) for arm in arms
        }
    return rows


def _row(students: Sequence[Student], beside: Beside) -> dict[str, Any]:
    """One row of the table; a mean of bytes where students differ. The spread is that of sets, or of the students of the only one."""
    in_order = sorted(students, key=lambda one: (one.number, one.seed))
    last, first = [one.last for one in in_order], in_order[0]
    arm, by_set = first.arm, _by_set(in_order)
    # Every random student has images of its own: chance in drawing them is in its spread, as chance in distilling is in that of sets.
    own_images = arm.images == "random" or len(by_set) == 1
    spread_over = last if own_images else [statistics.fmean(one.values()) for one in by_set.values()]
    return {
        "source": arm.source,
        "images_from": arm.images,
        "role": _role(arm, beside.controls),
        "labels": arm.labels,
        "label_kind": LABEL_KINDS[arm.labels],
        "label_format": _format(arm, beside),
        "network": first.network,
        "norm": first.norm,
        "last_mean": statistics.fmean(last),
        "last_std": statistics.stdev(spread_over) if len(spread_over) > 1 else 0.0,
        "best_mean": statistics.fmean(one.best for one in in_order),
        "at_epochs": {
            epoch: statistics.fmean(one.at_epochs[epoch] for one in in_order)
            for epoch in sorted(first.at_epochs, key=int)
        },
        "epochs": first.epochs,
        "steps": first.steps,
        "last": last,
        "seeds": max(map(len, by_set.values())),
        "sets": len(last) if arm.images == "random" else len(by_set),
        "images": first.images,
        "image_bytes": round(statistics.fmean(one.image_bytes for one in in_order)),
        "label_bytes": round(statistics.fmean(one.label_bytes for one in in_order)),
        "teacher_bytes": beside.teacher_bytes if arm.labels == "online" else 0,
        "generator_bytes": beside.generator_bytes.get(arm.source, 0) if arm.images == "source" else 0,
    }


def _format(arm: Arm, beside: Beside) -> str:
    """How an arm's labels are stored; nothing of those that are class numbers or none."""
    return beside.label_formats.get(arm.form, arm.form) if arm.labels == "soft" else FIXED_FORMAT.get(arm.labels, "")


def _role(arm: Arm, controls: Collection[str]) -> str:
    """`source` for a set that is measured, `control` for what it is compared with, `full` for all images."""
    if arm.images == "real":
        return "full"
    return "source" if arm.images == "source" and arm.source not in controls else "control"


def _best_controls(rows: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The control with the highest mean, by IPC and labels."""
    best: dict[str, dict[str, str]] = {}
    for group, arms in rows.items():
        for name, row in arms.items():
            if row["role"] == "control":
                labels, here = row["labels"], best.setdefault(group, {})
                if labels not in here or row["last_mean"] > arms[here[labels]]["last_mean"]:
                    here[labels] = name
    return best


def _by_set(students: Iterable[Student]) -> dict[int, dict[int, float]]:
    """Accuracies of the last epoch by set and seed."""
    by_set: dict[int, dict[int, float]] = {}
    for one in students:
        by_set.setdefault(one.number, {})[one.seed] = one.last
    return by_set


def _comparisons(students: Sequence[Student], controls: Collection[str], test_images: int | None) -> list[Comparison]:
    """Every measured set against its controls, by network, IPC and labels; to be settled by `QUESTION`."""
    of_arm: dict[tuple[str, int, Arm], list[Student]] = {}
    for one in students:
        of_arm.setdefault((one.network, one.ipc, one.arm), []).append(one)
    accuracies = {place: _by_set(same) for place, same in of_arm.items()}
    compared: list[Comparison] = []
    for (network, ipc, arm), ours in sorted(accuracies.items(), key=lambda item: (item[0][:2], item[0][2].name)):
        if _role(arm, controls) != "source":
            continue
        against = [replace(arm, images="random", source=""), replace(arm, images="start")]
        for control in (*against, *(replace(arm, source=source) for source in controls)):
            theirs = accuracies.get((network, ipc, control))
            if theirs is None:
                continue
            if control.images == "random":  # there are draws for as many sets as any source has
                theirs = {number: theirs[number] for number in ours if number in theirs}
            named = {"network": network, "ipc": ipc, "source": arm.source, "labels": arm.labels}
            named |= {"arm": arm.name, "against": control.name}
            named |= {"control": control.source if control.images == "source" else control.images}
            compared.append(named | compare_products(ours, theirs, test_images))
    return compared
