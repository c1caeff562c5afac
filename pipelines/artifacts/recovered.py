"""What the stages that recover images from a teacher share: how many go together, and how an image is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipelines.artifacts.datasets import finished
from pipelines.artifacts.distilled import set_name
from pipelines.artifacts.teacher import TEACHER_FILE, Teacher, load_teacher
from pipelines.errors import UserError
from pipelines.fields import caption_of
from pipelines.images.made import synthetic_sample
from pipelines.images.params import ImageParams
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import Marker, UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.shards.sample import Sample
from pipelines.storage import canonical_json, csv_bytes

LOSSES = "losses.csv"
LOSS_COLUMNS = ("unit", "step", "loss")
#: Images in one step by side length: small images fill a machine only in company.
IMAGES_PER_STEP = {32: 1000, 64: 400}


def images_per_step(job: Job[Any], default: int) -> int:
    """Images that one step of recovery takes by the size of the teacher's; `default` where they are large."""
    size = finished(job, "squeeze").json(TEACHER_FILE)["image_size"]
    return next((count for side, count in sorted(IMAGES_PER_STEP.items()) if size <= side), default)


def slots_per_unit(job: Job[Any], wanted: int | Literal["auto"], group: int) -> int:
    """Slots that are recovered in one step, each a group of `group` images: as many as are `wanted`, or by size."""
    return wanted if wanted != "auto" else max(1, images_per_step(job, group) // group)


def classes_per_unit(job: Job[Any], slots: int) -> int:
    """Classes that are recovered in one step where each is a group of `slots` images."""
    return max(1, images_per_step(job, slots) // slots)


def require_batch_norm(job: Job[Any]) -> None:
    """Raise `UserError` for a teacher without the statistics that recovery matches."""
    from distill.statistics import matched_layers

    if not matched_layers(load_teacher(job, torch_device(job)).model):
        network = finished(job, "squeeze").json(TEACHER_FILE)["network"]
        raise UserError(
            f"{job.name} matches the statistics of batch norm, and the teacher {network} has none; set squeeze.network to one that has, "
            "such as convnet3_w128 or resnet18, then: limbeck run squeeze"
        )


@dataclass(frozen=True)
class Block:
    """Images that were recovered together: those of some slots of some classes of a set; `parents` by slot and class."""

    number: int
    slots: Sequence[int]
    classes: Sequence[int]
    parents: Sequence[Sequence[str]] | None


def write_recovered(
    output: UnitOutput,
    job: Job[Any],
    teacher: Teacher,
    block: Block,
    images: np.ndarray[Any, Any],
    losses: Sequence[tuple[int, float]],
    image: ImageParams,
    caption: str | None,
) -> None:
    """Write a unit's images (slots, classes, H, W, 3) uint8, and its losses by step; the last one is its summary."""
    with output.shard() as shard:
        for row, slot in enumerate(block.slots):
            for column, label in enumerate(block.classes):
                parent = block.parents[row][column] if block.parents is not None else None
                place = block.number, slot
                shard.keep(_sample(images[row, column], place, label, teacher, parent, job, image, caption))
    rows = [{"unit": output.unit.name, "step": step, "loss": loss} for step, loss in losses]
    output.write(f"losses/{output.unit.name}.csv", csv_bytes(rows, LOSS_COLUMNS))
    output.summary = {"loss": losses[-1][1]}


def _sample(
    pixels: np.ndarray[Any, Any],
    place: tuple[int, int],
    label: int,
    teacher: Teacher,
    parent: str | None,
    job: Job[Any],
    image: ImageParams,
    template: str | None,
) -> Sample:
    """Make the sample of the image (H, W, 3) at a (set, slot); `parent` is the real image that it started from."""
    number, slot = place
    at = {"slot": slot} | ({"set": number} if number else {})
    row = {
        "source": f"set {number} slot {slot}" if number else f"slot {slot}",
        "parents": [parent] if parent else [],
        "op": job.stage,
        "params": canonical_json(at).decode(),
        "model_id": teacher.network,
    }
    key = slot_key(set_name(job.stage, number), label, slot)
    described = at | ({"parent": parent} if parent else {})
    name = teacher.classes[label]
    caption = None if template is None else caption_of(template, name)
    return synthetic_sample(key, pixels, image, (label, name), row, described, caption=caption)


def write_losses(job: Job[Any], markers: Sequence[Marker]) -> None:
    """Join the losses of all units into one table."""
    committed = Committed(job, markers)
    tables = [committed.read(f"losses/{marker.name}.csv").decode() for marker in markers]
    body = "".join(table.split("\n", 1)[1] for table in tables)
    job.output.write_bytes(LOSSES, f"{','.join(LOSS_COLUMNS)}\n{body}".encode())
