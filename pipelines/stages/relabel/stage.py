"""`relabel`: distilled images + teacher -> soft labels for every epoch of a student's training (FKD).

An item is a source of condensed sets. A unit is a block of epochs of one subset (the first n slots of every class). The labels of a
subset are its own, since images are mixed within it. More epochs leave the blocks that are full as they are. Bytes are reported:
labels are part of a distilled set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.artifacts.datasets import METRICS_FILE, dataset_digest, stage_digest
from pipelines.artifacts.distilled import DEFAULT_SOURCES, CondensedSets, source_of, source_slug
from pipelines.artifacts.labels import RelabelParams, label_epochs, labels_of
from pipelines.artifacts.teacher import Teacher, load_teacher, require_classes
from pipelines.errors import UserError
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.typed import Payload
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.storage import pretty_json


@dataclass(frozen=True)
class LabelEpochs(Payload):
    """Label epochs from the first of `epochs` to before the second. `number` says which of the source's sets, `inputs` are digests."""

    ipc: int
    number: int
    epochs: tuple[int, int]
    inputs: dict[str, str]


class Relabel(Stage[RelabelParams]):
    """Stores what the teacher says of every view."""

    name = "relabel"
    version = 3
    summary = "distilled images + teacher -> soft labels per view (Arrow)"
    adds = "the size of the soft labels"
    extras = ("distill",)
    Params = RelabelParams
    upstream = ("squeeze", *DEFAULT_SOURCES)
    code = ("augment", "distill", "pipelines.artifacts", "pipelines.images", "pipelines.loaders")
    workers = "actors"
    computes = True

    def items(self, params: RelabelParams) -> tuple[str, ...]:
        return tuple(source_slug(source) for source in params.sources)

    def inputs(self, job: Job[RelabelParams]) -> Sequence[str]:
        return ("squeeze", _source(job))

    def plan(self, job: Job[RelabelParams]) -> Plan:
        sets, params = CondensedSets(job, _source(job)), job.params
        inputs = {job.item: dataset_digest(sets.dataset), "squeeze": stage_digest(job, "squeeze")}
        where, classes = sets.dataset.storage.url, sets.dataset.classes
        subsets = sorted({sets.ipc if ipc == "all" else ipc for ipc in params.ipc})
        if subsets[-1] > sets.ipc:
            raise UserError(
                f"relabel.ipc asks for {subsets[-1]} images per class, {where} has {sets.ipc}; lower it, say all, or raise "
                f"{sets.source.partition('@')[0]}.ipc"
            )
        if params.format == "top_k" and params.top_k >= len(classes):
            raise UserError(
                f"relabel.top_k keeps fewer than all {len(classes)} classes of {where}, got {params.top_k}; lower it, or set "
                "relabel.format to fp16"
            )
        units = []
        for ipc, number in ((ipc, number) for ipc in subsets for number in range(sets.count)):
            for first in range(0, params.epochs, params.epochs_per_unit):
                epochs = (first, min(first + params.epochs_per_unit, params.epochs))
                name = f"{labels_of(ipc, number)}/relabel-{first // params.epochs_per_unit:06d}"
                units.append(LabelEpochs(ipc, number, epochs, inputs).unit(name))
        return Plan(units, facts={"classes": classes, "ipc": subsets})

    def open(self, job: Job[RelabelParams]) -> tuple[Teacher, CondensedSets]:
        teacher, sets = load_teacher(job, torch_device(job)), CondensedSets(job, _source(job))
        require_classes(sets.dataset.classes, teacher.classes, sets.dataset.storage.url)
        return teacher, sets

    def run(
        self, unit: Unit, worker: tuple[Teacher, CondensedSets], output: UnitOutput, job: Job[RelabelParams]
    ) -> None:
        params, payload, (teacher, sets) = job.params, LabelEpochs.from_json(unit.payload), worker
        ipc, epochs = payload.ipc, range(*payload.epochs)
        subset = sets.load(ipc, payload.number)
        with output.file(f"labels/{unit.name}.arrow") as path:
            size = label_epochs(path, epochs, subset, ipc, teacher, params, job, output.tick)
        output.summary = {"bytes": size, "samples": len(subset), "ipc": ipc, "set": payload.number}

    def finish(self, job: Job[RelabelParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        metrics = {}
        for ipc in plan.facts["ipc"]:
            blocks = [marker.summary for marker in markers if marker.summary["ipc"] == ipc]
            metrics[f"ipc_{ipc}"] = {
                "bytes": sum(one["bytes"] for one in blocks if one["set"] == 0),
                "epochs": job.params.epochs,
                "samples": blocks[0]["samples"],
                "format": job.params.format,
            }
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        return metrics


def _source(job: Job[RelabelParams]) -> str:
    """The source of a job, whose item is its slug."""
    return source_of(job.item, job.params.sources)
