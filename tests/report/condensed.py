"""results.json of an `evaluate@distilled` with many condensed sets, students and kinds of labels, from accuracies made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.distilled.accuracies import Beside, table
from pipelines.evaluation.distilled.arms import FULL, Arm, Labels
from pipelines.evaluation.distilled.worker import Student
from tests.report.folders import NOTE

#: Source that is measured -> how many points it is better than random images at IPC 1.
MEASURED = {"cda": -4.0, "d3hr@improved": 12.0, "d3hr@reference": 6.0}
CONTROLS = {
    "coreset@random": 0.0,
    "coreset@herding": 3.0,
    "coreset@medoids": 6.0,
    "coreset@rded": 5.0,
    "samples@plain": 2.0,
    "samples@modes": 4.0,
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
#: Those that have one set, whatever others have.
ONCE = ("cda", "coreset@herding")
#: Student -> its norm, and its accuracies over those of the first.
STUDENTS = {
    "convnet3_w32_in": ("instance", 1.0),
    "convnet4_w48_in": ("instance", 1.02),
    "convnet3_w32": ("batch", 0.85),
}
#: Kind of labels -> random images' accuracy at IPC 1.
LABELS: dict[Labels, float] = {"hard": 0.45, "online": 0.56, "soft": 0.55}
GENERATOR, TEACHER = 36_800_000, 46_000
#: Points of spread of sets, and of students of one.
SET_SPREAD, STUDENT_SPREAD = 0.2, 0.4


def condensed(
    ipcs: Sequence[int] = (1, 10, 50),
    labels: Sequence[Labels] = tuple(LABELS),
    students: Sequence[str] = tuple(STUDENTS),
    measured: Sequence[str] = tuple(MEASURED),
    controls: Sequence[str] = tuple(CONTROLS),
    sets: int = 5,
    seeds: int = 3,
) -> dict[str, Any]:
    """The table as `evaluate` puts it together; the first of `students` is the main one."""
    arms = [
        (Arm("source", kind, source), (MEASURED | CONTROLS)[source])
        for source in (*measured, *controls)
        for kind in labels
    ]
    arms += [(Arm("random", kind), 0.0) for kind in labels]
    arms += [(Arm("start", kind, "cda"), 1.0) for kind in labels if "cda" in measured]
    trained = [
        one
        for network in students
        for ipc in ipcs
        for arm, better in arms
        for one in _students(arm, better, ipc, network, 1 if arm.source in ONCE else sets, seeds)
    ]
    trained += _students(Arm("real", "hard"), 0.0, FULL, students[0], 1, 3)
    generators = {source: GENERATOR for source in (*measured, *controls) if source.startswith(("d3hr", "samples"))}
    protocol = {"network": students[0], "networks": list(students), "note": NOTE, "test_images": 2000, "chance": 0.1}
    teacher = {"network": "resnet18_stem3", "test_top1": 0.912}
    form = table(trained, 2000, Beside(students, controls, TEACHER, generators))
    return {"teacher": teacher, "protocol": protocol, **form}


def _students(arm: Arm, better: float, ipc: int, network: str, sets: int, seeds: int) -> Iterator[Student]:
    norm, factor = STUDENTS[network]
    luck = np.random.default_rng([sum(map(ord, arm.name + network)), ipc])
    images = 10 * ipc or 9000
    mean = 95 - (100 - 100 * LABELS[arm.labels] * factor) * (images / 10) ** -0.3
    mean += better * (images / 10) ** -0.4 * (1 if arm.labels == "hard" else 0.5)
    sizes = images, 600 * images, 1200 * images if arm.labels == "soft" else images
    for number in range(sets):
        of_set = luck.normal(mean, SET_SPREAD)
        for seed in range(seeds):
            last = round(float(luck.normal(of_set, STUDENT_SPREAD)) / 100, 4)
            early = {str(epoch): last * (1 - 1 / (1 + epoch / 8)) for epoch in (10, 30, 100)}
            yield Student(arm, ipc, seed, number, network, norm, last, last + 0.006, *sizes, early)
