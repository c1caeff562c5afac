"""`toy`: the first training images of every class, darkened: a source of condensed sets that is no one's idea of a good one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pipelines.stages.toy.params import ToyParams  # type: ignore[import-not-found]

from pipelines.artifacts.datasets import dataset_digest, open_part
from pipelines.artifacts.distilled import set_name
from pipelines.images.made import synthetic_sample
from pipelines.images.params import ImageParams
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.storage import canonical_json


class Toy(Stage[ToyParams]):
    """Darkens images."""

    name = "toy"
    version = 1
    summary = "train -> darkened images"
    adds = "darkened images"
    product = "distilled"
    Params = ToyParams
    upstream = ("split",)

    def plan(self, job: Job[ToyParams]) -> Plan:
        train = open_part(job, "split", "train")
        return Plan([Unit("toy-000000", {"train": dataset_digest(train)})], facts={"classes": train.classes})

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[ToyParams]) -> None:
        train = open_part(job, "split", "train")
        rows = train.rows(["key", "label"]).to_pylist()
        with output.shard() as shard:
            for label, name in enumerate(train.classes):
                keys = [row["key"] for row in rows if row["label"] == label][: job.params.ipc]
                images = (load_arrays(train, keys).images * job.params.shade).astype(np.uint8)
                for slot, (parent, image) in enumerate(zip(keys, images, strict=True)):
                    row = {"op": "toy", "parents": [parent], "params": canonical_json({"slot": slot}).decode()}
                    key = slot_key(set_name("toy", 0), label, slot)
                    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
                    shard.keep(synthetic_sample(key, pixels, ImageParams(format="png"), (label, name), row))

    def finish(self, job: Job[ToyParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        return publish_datasets(job.output, markers, plan.facts["classes"], {"name": "toy"})
