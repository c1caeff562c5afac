"""`relabel`: distilled images + teacher -> soft labels for every epoch of a student's training (FKD).

A unit is a block of epochs of one subset (the first n slots of every class). The labels of a subset are its own, since
images are mixed within it. Bytes are reported: labels are part of a distilled set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from distill.config import ViewConfig
from pipelines.config import Section
from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays
from pipelines.loaders.soft_labels import Epoch, write_soft_labels
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.units import Marker, Tick, Unit, UnitOutput, no_tick
from pipelines.seeds import seed_for
from pipelines.stages.common import (
    METRICS_FILE,
    Teacher,
    blamed,
    dataset_digest,
    load_teacher,
    open_part,
    require_classes,
    stage_digest,
    torch_device,
)
from pipelines.stages.distilled import distilled_sets, images_per_class, load_distilled
from pipelines.storage import pretty_json


class RelabelParams(Section):
    """Parameters of `relabel`."""

    ipc: tuple[Annotated[int, Field(ge=1)] | Literal["all"], ...] = Field(
        (1, "all"), min_length=1, description="subsets to label: the first n slots of every class, or all of them"
    )
    epochs: int = Field(300, ge=1, description="epochs of labels; a longer training uses them in turn")
    batch_size: int = Field(100, ge=2, description="images are mixed within a batch of this size")
    views: ViewConfig = ViewConfig(crop="resized", mix="cutmix")
    format: Literal["fp16", "int8", "top_k"] = "fp16"
    top_k: int = Field(5, ge=1)
    epochs_per_unit: int = Field(100, ge=1)


class Relabel(Stage[RelabelParams]):
    """Stores what the teacher says of every view."""

    name = "relabel"
    version = 2
    summary = "distilled images + teacher -> soft labels per view (Arrow)"
    Params = RelabelParams
    upstream = ("squeeze", "cda")
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
        with blamed("relabel"), output.file(f"labels/{unit.name}.arrow") as path:
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


def labels_of(ipc: int, number: int) -> str:
    """The folder of a set's labels for a subset, below `labels`."""
    return f"ipc_{ipc:03d}" + (f"-s{number}" if number else "")


def label_epochs(
    path: Path,
    epochs: range,
    images: ImageArrays,
    ipc: int,
    teacher: Teacher,
    params: RelabelParams,
    job: Job[Any],
    tick: Tick = no_tick,
) -> int:
    """Write the labels of `epochs` of a set with `ipc` images per class, real or distilled; returns the file's bytes."""
    from distill.compression import pack
    from distill.labels import label_epoch

    pixels, _ = images.tensors(torch_device(job))

    def made() -> Iterator[Epoch]:
        for epoch in epochs:
            views, logits = label_epoch(
                teacher.model,
                pixels,
                params.views,
                seed=view_seed(job, ipc),
                epoch=epoch,
                batch_size=params.batch_size,
                mean=teacher.mean,
                std=teacher.std,
            )
            tick(epoch - epochs.start, len(epochs), f"{ipc} per class")
            yield epoch, views, pack(logits.cpu(), params.format, params.top_k)

    facts = {"format": params.format, "classes": len(teacher.classes), "teacher": teacher.network}
    return write_soft_labels(path, made(), images.keys, facts)


def view_seed(job: Job[Any], ipc: int) -> int:
    """The seed of a subset's views; the students of `evaluate` replay the same views."""

    return seed_for(job.run.seed, "relabel", f"ipc {ipc}", "views")
