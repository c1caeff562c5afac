"""`cda`: a teacher -> distilled images, by batch-norm matching under a crop curriculum (SRe2L, CDA).

A unit is a block of IPC slots for a chunk of classes: every slot of the block is one group of images, one per class,
recovered in the same step as the other groups but with statistics, crops and noise of its own. Blocks are fixed by the
plan, so the bytes do not depend on the number of workers; a larger IPC leaves those that are full as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pipelines.artifacts.datasets import dataset_digest, open_part, stage_digest
from pipelines.artifacts.distilled import set_name, shuffled_keys
from pipelines.artifacts.recovered import Block, require_batch_norm, slots_per_unit, write_losses, write_recovered
from pipelines.artifacts.teacher import Teacher, load_teacher, require_classes
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.cda.params import CdaParams

#: Real images to start from: keys by class, by the number of the set.
Starts = dict[int, list[list[str]]]


class Cda(Stage[CdaParams]):
    """Recovers images from a teacher."""

    name = "cda"
    version = 2
    summary = "teacher -> distilled images (SRe2L, CDA)"
    adds = "the distilled images"
    titles: ClassVar[Mapping[str, str]] = {"": "CDA"}
    extras = ("distill",)
    product = "distilled"
    Params = CdaParams
    upstream = ("split", "squeeze")
    code = ("augment", "distill", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True

    def plan(self, job: Job[CdaParams]) -> Plan:
        train = open_part(job, "split", "train")
        params, classes = job.params, train.classes
        inputs = {"squeeze": stage_digest(job, "squeeze"), "train": dataset_digest(train)}
        block = slots_per_unit(job, params.slots_per_unit, min(len(classes), params.class_chunk))
        units: list[Unit] = []
        for number in range(params.seeds):
            before = len(units)
            for first in range(0, params.ipc, block):
                slots = list(range(first, min(first + block, params.ipc)))
                for start in range(0, len(classes), params.class_chunk):
                    chunk = list(range(start, min(start + params.class_chunk, len(classes))))
                    payload = {"set": number, "slots": slots, "classes": chunk, "inputs": inputs}
                    units.append(Unit(f"{set_name('cda', number)}-{len(units) - before:06d}", payload))
        return Plan(units, facts={"classes": classes, "ipc": params.ipc, "seeds": params.seeds})

    def check(self, job: Job[CdaParams]) -> None:
        require_batch_norm(job)

    def open(self, job: Job[CdaParams]) -> tuple[Teacher, Starts | None]:
        teacher = load_teacher(job, torch_device(job))
        train = open_part(job, "split", "train")
        require_classes(train.classes, teacher.classes, train.storage.url)
        if job.params.init != "real":
            return teacher, None
        pools = shuffled_keys(train, job.seed("", "init"))
        if empty := [name for name, keys in zip(train.classes, pools, strict=True) if not keys]:
            raise UserError(
                f"class {empty[0]} has no training image to start from; set cda.init to noise, or mend the data"
            )
        return teacher, {0: pools}

    def run(self, unit: Unit, worker: tuple[Teacher, Starts | None], output: UnitOutput, job: Job[CdaParams]) -> None:
        import torch

        from distill.cda import recover

        teacher, starts = worker
        device = torch_device(job)
        number, slots, classes = unit.payload["set"], unit.payload["slots"], unit.payload["classes"]
        of_set = f"set {number} " if number else ""

        def watch(step: int, loss: float | None) -> None:
            output.tick(step, job.params.recover.iterations, "" if loss is None else f"loss {loss:.3f}")

        init, parents = None, None
        if starts is not None:  # one real image per class and slot, none twice while there are enough
            if number not in starts:
                starts[number] = shuffled_keys(open_part(job, "split", "train"), job.seed(of_set.strip(), "init"))
            pools = starts[number]
            parents = [[pools[label][slot % len(pools[label])] for label in classes] for slot in slots]
            real = load_arrays(open_part(job, "split", "train"), [key for row in parents for key in row])
            init = torch.from_numpy(real.images).to(device)
            init = init.reshape(len(slots), len(classes), *init.shape[1:])
        result = recover(
            teacher.model,
            torch.tensor(classes, device=device),
            job.params.recover,
            seeds=[job.seed(f"{of_set}slot {slot} classes {classes[0]}-{classes[-1]}", "recover") for slot in slots],
            mean=teacher.mean,
            std=teacher.std,
            image_size=teacher.image_size,
            init=init,
            on_progress=watch,
        )
        images = result.images.cpu().numpy().transpose(0, 1, 3, 4, 2)
        block = Block(number, slots, classes, parents)
        stored = job.params.image, job.params.caption
        write_recovered(output, job, teacher, block, images, result.losses, *stored)

    def subject(self, unit: Unit, job: Job[CdaParams]) -> str:
        return "cda.recover"

    def finish(self, job: Job[CdaParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        write_losses(job, markers)
        sets = f" of each of {plan.facts['seeds']} sets" if plan.facts["seeds"] > 1 else ""
        extra = {"name": "cda", "description": f"distilled images, {plan.facts['ipc']} per class{sets}"}
        return publish_datasets(job.output, markers, plan.facts["classes"], extra)
