"""A complete results.json of `evaluate@distilled`: two students, three kinds of labels, distillation seeds, two controls, bytes.

Accuracies are made up, and put together by the code that puts measured ones together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from pipelines.evaluation.distilled.accuracies import Beside, table
from pipelines.evaluation.distilled.arms import Arm, ImagesFrom, Labels
from pipelines.evaluation.distilled.worker import Student

NETWORKS = {"convnet3_w32_in": "instance", "convnet4_w48_in": "instance", "convnet3_w32": "batch"}
EPOCHS, SEEDS, SETS = ("10", "30", "100"), 3, 2
#: Accuracy of the main student at IPC 1 with hard labels, by images and source; and what other labels, students and more images add.
LEVELS: dict[tuple[ImagesFrom, str], float] = {
    ("source", "d3hr"): 0.70,
    ("source", "samples@plain"): 0.62,
    ("start", "d3hr"): 0.50,
    ("source", "coreset@medoids"): 0.66,
    ("random", ""): 0.49,
}
GAINS = {"soft": 0.04, "online": 0.05, "hard": 0.0}
CONTROLS = ("coreset@medoids",)


def complete() -> dict[str, Any]:
    """Sources `d3hr` (two sets) and `samples@plain`, the control `coreset@medoids`, IPC 1 and 10, all images."""
    generators = {"d3hr": 2_700_000_000, "samples@plain": 2_700_000_000}
    form = table(list(_students()), 2000, Beside([*NETWORKS], CONTROLS, 131_072, generators))
    protocol = {
        "network": next(iter(NETWORKS)),
        "networks": [*NETWORKS],
        "epochs": 100,
        "seeds": SEEDS,
        "distillation_seeds": 1,
        "temperature": 20.0,
        "test_images": 2000,
        "chance": 0.1,
        "batch_size": 20,
        "label_format": "fp16",
        "note": "",
    }
    return {"teacher": {"network": "convnet3_w32", "test_top1": 0.883}, "protocol": protocol, **form}


def _students() -> Iterator[Student]:
    luck = random.Random(1)
    for place, (network, norm) in enumerate(NETWORKS.items()):
        for ipc, more in ((1, 0.0), (10, 0.14)):
            for (images, source), level in LEVELS.items():
                for labels in GAINS:
                    mean = level + GAINS[labels] + more - 0.02 * place
                    for number in range(SETS if source in ("d3hr", "") else 1):
                        of_set = luck.gauss(mean, 0.01)
                        for seed in range(SEEDS):
                            last = round(2000 * luck.gauss(of_set, 0.005)) / 2000
                            yield _student(Arm(images, labels, source), ipc, seed, number, (network, norm), last)
        for seed in range(SEEDS):
            yield _student(Arm("real", "hard"), 0, seed, 0, (network, norm), 0.88 + 0.001 * seed)


def _student(arm: Arm, ipc: int, seed: int, number: int, student: tuple[str, str], last: float) -> Student:
    images = 10 * ipc or 9000
    label_bytes: dict[Labels, int] = {"soft": 2400 * images, "online": 0, "fixed": 20 * images, "hard": images}
    early = {epoch: last - gap for epoch, gap in zip(EPOCHS, (0.2, 0.1, 0.0), strict=True)}
    sizes = (images, 700 * images, label_bytes[arm.labels])
    return Student(arm, ipc, seed, number, *student, last, last + 0.004, *sizes, early)
