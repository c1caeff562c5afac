"""`augment`: one dataset -> datasets of views, each with the parameters that were drawn for it.

For trainers that cannot augment, and to look at what a policy does. Every set of views is a dataset of its own. A unit reads
a range of rows of one input shard and writes one shard. A view follows from its parent's key, the seed and the policy,
and its sidecar row holds what was drawn, from which `worker.remake` makes it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.artifacts.datasets import METRICS_FILE, open_part
from pipelines.errors import UserError
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.seeds import hash_ranks
from pipelines.shards.account import Met
from pipelines.shards.dataset import Dataset
from pipelines.stages.augment.params import AugmentParams
from pipelines.stages.augment.worker import CARRIED, ViewMaker
from pipelines.storage import pretty_json


class Augment(Stage[AugmentParams]):
    """Makes views and writes down how."""

    name = "augment"
    version = 2
    summary = "dataset -> datasets of views, with their drawn parameters"
    adds = "views and what was drawn for them"
    optional = True
    extras = ("augment",)
    Params = AugmentParams
    upstream = ("split",)
    code = ("augment", "pipelines.artifacts", "pipelines.images", *WRITERS)
    workers = "actors"
    computes = True

    def inputs(self, job: Job[AugmentParams]) -> tuple[str, ...]:
        return (job.params.source.split("/")[0],)

    def plan(self, job: Job[AugmentParams]) -> Plan:
        params = job.params
        if not params.sets:
            raise UserError("augment.sets is empty: name a set of views, such as {standard: {policy: imagenet}}")
        dataset = open_source(job)
        rows = dataset.rows(["key", "members", *CARRIED])
        if rows.num_rows == 0:
            raise UserError(f"{dataset.storage.url} holds no kept samples")
        named = dataset.by_content(rows)
        units: list[Unit] = []
        tables: dict[str, pa.Table] = {}
        for name, views in params.sets.items():
            chosen = _chosen(rows, views.samples, job.seed(name, "samples"))
            shards = rows["shard"].to_numpy()[chosen]
            for shard in np.unique(shards):
                places = chosen[shards == shard]
                step = max(params.shard_samples // views.views, 1)
                for part, start in enumerate(range(0, len(places), step)):
                    payload = {"set": name, "params": views.model_dump(mode="json")}
                    units.append(Unit(f"{name}/augment-{shard:06d}-{part:03d}", payload))
                    tables[units[-1].name] = named.take(pa.array(places[start : start + step]))
        facts = {"classes": dataset.classes, "sets": list(params.sets), "images": rows.num_rows}
        return Plan(units, rows=tables, facts=facts)

    def open(self, job: Job[AugmentParams]) -> dict[str, ViewMaker]:
        import cv2

        cv2.setNumThreads(1)  # the threads are ours; cv2's own pool would fight them
        device, dataset = torch_device(job), open_source(job)
        return {
            name: ViewMaker(views, dataset, job.seed(name, "views"), device, job.run.threads)
            for name, views in job.params.sets.items()
        }

    def check(self, job: Job[AugmentParams]) -> None:
        torch_device(job)
        from augment.augmenter import Augmenter

        for name, views in job.params.sets.items():
            # An operation of Kornia's is known to exist only once Kornia is loaded.
            with method_errors(f"augment.sets.{name}.policy"):
                Augmenter(views.policy, backend=views.backend)

    def run(self, unit: Unit, worker: dict[str, ViewMaker], output: UnitOutput, job: Job[AugmentParams]) -> None:
        rows, name = output.rows(), unit.payload["set"]
        maker, facts = worker[name], Counter[str]()
        total = len(rows) * maker.params.views
        with output.shard(name) as shard:
            for done, view in enumerate(maker.produce(rows, facts)):
                if isinstance(view, tuple):
                    shard.reject(*view)
                else:
                    shard.keep(view)
                if done % 64 == 0:
                    output.tick(done, total, name)
        output.summary = {"set": name, "images": len(rows), "device": maker.device.type, "boxes": dict(facts)}

    def finish(self, job: Job[AugmentParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for name in plan.facts["sets"]:
            of_set = [marker for marker in markers if marker.summary["set"] == name]
            views = job.params.sets[name]
            devices = sorted({marker.summary["device"] for marker in of_set})
            extra: dict[str, Any] = {
                "name": f"augment_{name}",
                "description": f"{views.views} views of each image, by a policy",
            }
            extra |= {"policy": views.policy, "backend": views.backend, "devices": devices, "source": job.params.source}
            left = plan.facts["images"] - (views.samples or plan.facts["images"])
            met = Met(plan.facts["images"] * views.views, {"not_drawn": max(left, 0) * views.views})
            sizes = publish_datasets(job.output, of_set, plan.facts["classes"], extra, [name], {name: met})[name]
            boxes: Counter[str] = Counter()
            for marker in of_set:
                boxes.update(marker.summary["boxes"])
            images = sum(marker.summary["images"] for marker in of_set)
            facts[name] = sizes | {"images": images, "views": views.views, "boxes": dict(sorted(boxes.items()))}
        job.output.write_bytes(METRICS_FILE, pretty_json(facts))
        return facts


def open_source(job: Job[AugmentParams]) -> Dataset:
    """The dataset that is viewed."""
    stage, _, part = job.params.source.partition("/")
    return open_part(job, stage, part)


def _chosen(rows: pa.Table, samples: int | None, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places of the rows to view, in index order."""
    if samples is None or samples >= rows.num_rows:
        return np.arange(rows.num_rows)
    ranks = hash_ranks(rows["key"].to_pylist(), str(seed))
    return np.sort(np.argsort(ranks, kind="stable")[:samples])
