"""`evaluate@depth`: the nearest mean of a few images, against the mean of one. A product that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pipelines.evaluation.depth.params import DepthParams  # type: ignore[import-not-found]

from pipelines.artifacts.datasets import dataset_digest, open_part
from pipelines.evaluation.protocol import Evaluation, Measured
from pipelines.evaluation.verdicts import compare, settle
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.units import Marker, Unit, UnitOutput


class Depth(Evaluation[DepthParams]):
    """Means of images."""

    name = "depth"
    summary = "nearest means"
    upstream = ("split",)

    def plan(self, job: Job[DepthParams]) -> Plan:
        inputs = {part: dataset_digest(open_part(job, "split", part)) for part in ("train", "test")}
        arms = {"few": job.params.images, "one": 1}
        return Plan(
            [
                Unit(f"{arm}-seed{seed}", {"arm": arm, "images": images, "seed": seed, "inputs": inputs})
                for arm, images in arms.items()
                for seed in range(job.params.seeds)
            ]
        )

    def open(self, job: Job[DepthParams]) -> tuple[ImageArrays, ImageArrays]:
        train, test = (load_arrays(open_part(job, "split", part)) for part in ("train", "test"))
        return train, test

    def run(self, unit: Unit, worker: tuple[ImageArrays, ImageArrays], output: UnitOutput) -> None:
        train, test = worker
        rng = np.random.Generator(np.random.PCG64(unit.payload["seed"]))
        means = []
        for label in range(int(train.labels.max()) + 1):
            chosen = rng.permutation(np.flatnonzero(train.labels == label))[: unit.payload["images"]]
            means.append(train.images[chosen].astype(np.float64).mean(0))
        distances = [((test.images - mean) ** 2).sum((1, 2, 3)) for mean in means]
        right = np.argmin(distances, 0) == test.labels
        output.summary = {"arm": unit.payload["arm"], "seed": unit.payload["seed"], "test": float(right.mean())}

    def metrics(self, job: Job[DepthParams], plan: Plan, markers: Sequence[Marker]) -> Measured:
        by_arm: dict[str, dict[int, Any]] = {}
        for one in (marker.summary for marker in markers):
            by_arm.setdefault(one["arm"], {})[one["seed"]] = one["test"]
        judged = settle([compare(by_arm["few"], by_arm["one"])])
        results = {"arms": by_arm, "comparisons": judged}
        return Measured({"difference": judged[0]["gap"]}, results, job.params.seeds)


EVALUATION = Depth()
