"""`relabel`: distilled images + teacher -> soft labels for every epoch of a student's training (FKD).

A unit is a block of epochs of one subset (the first n slots of every class). The labels of a subset are its own, since
images are mixed within it. Bytes are reported: labels are part of a distilled set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.artifacts.datasets import METRICS_FILE, dataset_digest, open_part, stage_digest
from pipelines.artifacts.distilled import distilled_sets, images_per_class, load_distilled
from pipelines.artifacts.labels import RelabelParams, label_epochs, labels_of
from pipelines.artifacts.teacher import Teacher, load_teacher, require_classes
from pipelines.errors import UserError
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.storage import pretty_json


class Relabel(Stage[RelabelParams]):
    """Stores what the teacher says of every view."""

    name = "relabel"
    version = 2
    summary = "distilled images + teacher -> soft labels per view (Arrow)"
    adds = "the size of the soft labels"
    extras = ("distill",)
    Params = RelabelParams
    upstream = ("squeeze", "cda")
    code = ("augment", "distill", "pipelines.artifacts", "pipelines.images", "pipelines.loaders")
    workers = "actors"
    computes = True

    def plan(self, job: Job[RelabelParams]) -> Plan:
        distilled, params = open_part(job, "cda"), job.params
        inputs = {"cda": dataset_digest(distilled), "squeeze": stage_digest(job, "squeeze")}
        units = []
        have, sets = images_per_class(job, distilled), distilled_sets(job)
        subsets = sorted({have if ipc == "all" else ipc for ipc in params.ipc})
        if subsets[-1] > have:
            raise UserError(
                f"relabel.ipc asks for {subsets[-1]} images per class, {distilled.storage.url} has {have}; lower it, say "
                f"all, or raise cda.ipc"
            )
        classes = len(distilled.classes)
        if params.format == "top_k" and params.top_k >= classes:
            raise UserError(
                f"relabel.top_k keeps fewer than all {classes} classes of {distilled.storage.url}, got {params.top_k}; lower it, or set "
                "relabel.format to fp16"
            )
        for ipc, number in ((ipc, number) for ipc in subsets for number in range(sets)):
            for first in range(0, params.epochs, params.epochs_per_unit):
                epochs = [first, min(first + params.epochs_per_unit, params.epochs)]
                payload = {"ipc": ipc, "set": number, "epochs": epochs, "inputs": inputs}
                units.append(Unit(f"{labels_of(ipc, number)}/relabel-{first // params.epochs_per_unit:06d}", payload))
        return Plan(units, facts={"classes": distilled.classes, "ipc": subsets})

    def open(self, job: Job[RelabelParams]) -> Teacher:
        return load_teacher(job, torch_device(job))

    def run(self, unit: Unit, worker: Teacher, output: UnitOutput, job: Job[RelabelParams]) -> None:
        params, ipc = job.params, unit.payload["ipc"]
        require_classes(open_part(job, "cda").classes, worker.classes, job.input("cda").url)
        subset = load_distilled(job, ipc, unit.payload["set"])
        with output.file(f"labels/{unit.name}.arrow") as path:
            size = label_epochs(path, range(*unit.payload["epochs"]), subset, ipc, worker, params, job, output.tick)
        output.summary = {"bytes": size, "samples": len(subset), "ipc": ipc, "set": unit.payload["set"]}

    def finish(self, job: Job[RelabelParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        metrics = {}
        for ipc in plan.facts["ipc"]:
            mine = [marker.summary for marker in markers if marker.summary["ipc"] == ipc]
            metrics[f"ipc_{ipc}"] = {
                "bytes": sum(one["bytes"] for one in mine if one["set"] == 0),
                "epochs": job.params.epochs,
                "samples": mine[0]["samples"],
                "format": job.params.format,
            }
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        return metrics

    def identity_params(self, job: Job[RelabelParams]) -> dict[str, Any]:
        """Without what only shapes the plan: more epochs or subsets add units and keep those that are done."""
        whole = super().identity_params(job)
        for name in ("ipc", "epochs", "epochs_per_unit"):
            whole["own"].pop(name)
        return whole
