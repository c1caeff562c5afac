"""results.json of an `evaluate@distilled` with many condensed sets, students and kinds of labels, from numbers made by hand."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.verdicts import compare, settle
from tests.report.folders import NOTE

#: Slug of a measured set -> how many points it is better than random images.
MEASURED = {"cda": -4.0, "d3hr_improved": 12.0, "d3hr_reference": 6.0}
CONTROLS = {
    "coreset_random": 0.0,
    "coreset_herding": 3.0,
    "coreset_medoids": 6.0,
    "coreset_rded": 5.0,
    "samples_plain": 2.0,
    "samples_modes": 4.0,
}
TITLES = {
    "cda": "CDA",
    "d3hr_improved": "D3HR",
    "d3hr_reference": "D3HR as published",
    "coreset_random": "random coreset",
    "coreset_herding": "herding",
    "coreset_medoids": "k-means medoids",
    "coreset_rded": "RDED patches",
    "samples_plain": "plain samples",
    "samples_modes": "mode guidance",
}
#: Student -> its norm, and what its accuracies are of those of the first.
STUDENTS = {
    "convnet3_w32_in": ("instance", 1.0),
    "convnet4_w48_in": ("instance", 1.02),
    "convnet3_w32": ("batch", 0.85),
}
#: Kind of labels -> random images' accuracy at IPC 1.
LABELS = {"hard": 0.45, "online": 0.56, "soft": 0.55}
KINDS = {"hard": "hard", "online": "online", "soft": "stored epochs"}
GENERATOR, TEACHER = 36_800_000, 46_000


def condensed(
    ipcs: Sequence[int] = (1, 10, 50),
    labels: Sequence[str] = tuple(LABELS),
    students: Sequence[str] = tuple(STUDENTS),
    measured: Sequence[str] = tuple(MEASURED),
    controls: Sequence[str] = tuple(CONTROLS),
    sets: int = 5,
    seeds: int = 3,
) -> dict[str, Any]:
    """The table; the first of `students` is the main one. Sets but CDA's start have `sets` of themselves, herding has one."""
    quality = MEASURED | CONTROLS | {"random": 0.0, "cda_start": 1.0}
    arms = [*measured, *(["cda_start"] if "cda" in measured else []), "random", *controls]
    by_student: dict[str, dict[str, Any]] = {}
    compared: list[dict[str, Any]] = []
    for network in students:
        groups: dict[str, Any] = {}
        for ipc in ipcs:
            rows: dict[str, Any] = {}
            for kind in labels:
                for arm in arms:
                    count = 1 if arm in ("coreset_herding", "cda", "cda_start") else sets
                    rows[f"{arm}_{kind}"] = _row(arm, kind, ipc, network, quality[arm], count, seeds, arm in measured)
                for arm in measured:
                    against = [one for one in arms if one not in measured and (one != "cda_start" or arm == "cda")]
                    named = {"network": network, "ipc": ipc, "source": arm, "labels": kind, "arm": f"{arm}_{kind}"}
                    for one in against:
                        ours, theirs = rows[f"{arm}_{kind}"]["last"], rows[f"{one}_{kind}"]["last"]
                        products = {place: place // seeds for place in range(min(len(ours), len(theirs)))}
                        pair = compare(dict(enumerate(ours)), dict(enumerate(theirs)), products, 2000)
                        control = {"random": "random", "cda_start": "start"}.get(one, one)
                        compared.append(named | {"against": f"{one}_{kind}", "control": control} | pair)
            groups[f"ipc_{ipc}"] = rows
        by_student[network] = groups
    judged = settle(compared)
    main, *others = students
    lists = {"random": "comparisons", "start": "against_start"}
    full = _row("real", "hard", 900, main, 0.0, 1, 3, False) | {"role": "full", "images": 9000}
    return {
        "teacher": {"network": "resnet18_stem3", "test_top1": 0.912},
        "protocol": {"network": main, "networks": list(students), "note": NOTE, "test_images": 2000, "chance": 0.1},
        **by_student[main],
        "full": {"real_hard": full},
        "other_students": {name: by_student[name] for name in others},
        **{
            key: [one for one in judged if lists.get(one["control"], "against_controls") == key]
            for key in ("comparisons", "against_start", "against_controls")
        },
    }


def _row(
    arm: str, labels: str, ipc: int, network: str, better: float, sets: int, seeds: int, measured: bool
) -> dict[str, Any]:
    norm, factor = STUDENTS[network]
    generator = np.random.default_rng([sum(map(ord, arm + labels + network)), ipc])
    mean = 1 - (1 - LABELS[labels] * factor) * ipc**-0.3 - 0.05
    mean += better / 100 * ipc**-0.4 * (1 if labels == "hard" else 0.5)
    by_set = mean + generator.normal(0, 0.002, sets)
    last = [round(float(of_set + draw), 4) for of_set in by_set for draw in generator.normal(0, 0.004, seeds)]
    made = arm.startswith(("d3hr", "samples"))
    means = [statistics.fmean(last[place : place + seeds]) for place in range(0, len(last), seeds)]
    return {
        "source": arm,
        "role": "source" if measured else "control",
        "labels": labels,
        "label_kind": KINDS[labels],
        "network": network,
        "norm": norm,
        "last": last,
        "last_mean": statistics.fmean(last),
        "last_std": statistics.stdev(means if sets > 1 else last) if len(last) > 1 else 0.0,
        "best_mean": statistics.fmean(last) + 0.006,
        "at_epochs": {str(epoch): statistics.fmean(last) * (1 - 1 / (1 + epoch / 8)) for epoch in (10, 30, 100)},
        "seeds": seeds,
        "sets": len(last) if arm == "random" else sets,
        "images": 10 * ipc,
        "image_bytes": 600 * 10 * ipc + len(arm),
        "label_bytes": {"hard": 10 * ipc, "online": 10 * ipc, "soft": 60 * 200 * ipc}[labels],
        "teacher_bytes": TEACHER if labels == "online" else 0,
        "generator_bytes": GENERATOR if made else 0,
    }
