"""From single students to the table of distilled sets: accuracies and bytes by arm, and who is told apart. Arithmetic only."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.evaluation.distilled.arms import FULL, LABEL_KINDS, Arm
from pipelines.evaluation.distilled.worker import Student
from pipelines.evaluation.verdicts import Comparison, compare, settle

#: The controls of a condensed set, by the key of their comparisons in the results: as many random real images, and what it began from.
CONTROLS = {"comparisons": "random", "against_start": "start"}


def table(students: Sequence[Student], test_images: int | None = None) -> dict[str, Any]:
    """Every arm's accuracies and bytes by IPC, and the comparisons, settled together: a list for each of `CONTROLS`."""
    form: dict[str, Any] = {}
    for ipc in sorted({one.ipc for one in students}):
        here = [one for one in students if one.ipc == ipc]
        arms = dict.fromkeys(one.arm for one in here)
        form["full" if ipc == FULL else f"ipc_{ipc}"] = {
            arm.name: _summary([one for one in here if one.arm == arm]) for arm in arms
        }
    judged = settle(_comparisons(students, test_images))
    return form | {key: [one for one in judged if one["control"] == images] for key, images in CONTROLS.items()}


def numbers(form: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers of a table: accuracies by IPC and arm, and the differences that were judged, in percentage points."""
    groups = {name: arms for name, arms in form.items() if name == "full" or name.startswith("ipc_")}
    accuracy = {name: {arm: one["last_mean"] for arm, one in arms.items()} for name, arms in groups.items()}
    difference: dict[str, Any] = {}
    for one in (one for key in CONTROLS for one in form[key]):
        difference.setdefault(f"ipc_{one['ipc']}", {})[f"{one['arm']}-{one['against']}"] = one["gap"]
    return {"accuracy": accuracy, "difference": difference}


def lines(curves: bytes) -> list[dict[str, Any]]:
    """A line an arm, from the CSV of all students: the mean accuracy of its seeds over the epochs."""
    values: dict[tuple[str, int], list[float]] = {}
    for row in csv.DictReader(io.StringIO(curves.decode())):
        where = "full set" if row["ipc"] == "full" else f"IPC {row['ipc']}"
        values.setdefault((f"{row['arm']}, {where}", int(row["epoch"])), []).append(float(row["test_top1"]))
    return [
        {"line": line, "epoch": epoch, "test_top1": statistics.fmean(same), "seeds": len(same)}
        for (line, epoch), same in values.items()
    ]


def _comparisons(students: Iterable[Student], test_images: int | None) -> list[Comparison]:
    """Every condensed set against its controls, by IPC and labels, in pairs of seeds; to be settled together."""
    accuracies: dict[tuple[int, Arm], dict[int, float]] = {}
    sets: dict[str, dict[int, int]] = {}
    for one in students:
        sets.setdefault(one.arm.source, {})[one.seed] = one.number
        accuracies.setdefault((one.ipc, one.arm), {})[one.seed] = one.last
    pairs = []
    for (ipc, arm), ours in sorted(accuracies.items(), key=lambda item: (item[0][0], item[0][1].name)):
        if arm.images != "source":
            continue
        for control in (replace(arm, images="random", source=""), replace(arm, images="start")):
            if (ipc, control) in accuracies:
                named = {"ipc": ipc, "source": arm.source, "labels": arm.labels, "arm": arm.name}
                named |= {"against": control.name, "control": control.images}
                # Students of one set tell about this set, not about the method that made it.
                pairs.append(named | compare(ours, accuracies[ipc, control], sets[arm.source], test_images))
    return pairs


def _summary(students: Sequence[Student]) -> dict[str, Any]:
    """One row of the table; a mean of bytes where seeds differ."""
    by_seed = sorted(students, key=lambda one: one.seed)
    last, first = [one.last for one in by_seed], by_seed[0]
    return {
        "source": first.arm.source,
        "images_from": first.arm.images,
        "labels": first.arm.labels,
        "label_kind": LABEL_KINDS[first.arm.labels],
        "network": first.network,
        "norm": first.norm,
        "last_mean": statistics.fmean(last),
        "last_std": statistics.stdev(last) if len(last) > 1 else 0.0,
        "best_mean": statistics.fmean(one.best for one in by_seed),
        "last": last,
        "seeds": len(last),
        "sets": len({one.seed if first.arm.images == "random" else one.number for one in by_seed}),
        "images": first.images,
        "image_bytes": round(statistics.fmean(one.image_bytes for one in by_seed)),
        "label_bytes": round(statistics.fmean(one.label_bytes for one in by_seed)),
    }
