"""`cda`: a teacher -> distilled images, by batch-norm matching under a crop curriculum (SRe2L, CDA).

A unit is a block of IPC slots for a chunk of classes: every slot of the block is one group of images, one per class,
recovered in the same step as the other groups but with statistics, crops and noise of its own. Blocks are fixed by the
plan, so the bytes do not depend on the number of workers; a larger IPC leaves those that are full as they are. With
`statistics: class` a group is a block of slots of one class (LPLD).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.artifacts.datasets import dataset_digest, open_part, stage_digest
from pipelines.artifacts.distilled import keys_by_class, set_name, shuffled_keys
from pipelines.artifacts.recovered import (
    Block,
    classes_per_unit,
    require_batch_norm,
    slots_per_unit,
    write_losses,
    write_recovered,
)
from pipelines.artifacts.teacher import Teacher, load_teacher, require_classes
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.cda.params import CdaParams

if TYPE_CHECKING:
    from distill.statistics import Goal

#: Images of a class that LPLD recovers together at most.
LPLD_BATCH = 100
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
        slots_together, classes_together = self._together(job, len(classes))
        units: list[Unit] = []
        for number in range(params.seeds):
            before = len(units)
            for first in range(0, params.ipc, slots_together):
                slots = list(range(first, min(first + slots_together, params.ipc)))
                for start in range(0, len(classes), classes_together):
                    chunk = list(range(start, min(start + classes_together, len(classes))))
                    payload = {"set": number, "slots": slots, "classes": chunk, "inputs": inputs}
                    units.append(Unit(f"{set_name('cda', number)}-{len(units) - before:06d}", payload))
        return Plan(units, facts={"classes": classes, "ipc": params.ipc, "seeds": params.seeds})

    def _together(self, job: Job[CdaParams], classes: int) -> tuple[int, int]:
        """Slots and classes of one unit."""
        params, chunk = job.params, min(classes, job.params.class_chunk)
        if params.statistics == "all":
            return slots_per_unit(job, params.slots_per_unit, chunk), params.class_chunk
        slots = min(params.ipc, LPLD_BATCH if params.slots_per_unit == "auto" else params.slots_per_unit)
        return slots, min(chunk, classes_per_unit(job, slots))

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
        device, params = torch_device(job), job.params
        number, slots, classes = unit.payload["set"], unit.payload["slots"], unit.payload["classes"]
        of_set, by_class = f"set {number} " if number else "", params.statistics == "class"

        def watch(step: int, loss: float | None) -> None:
            output.tick(step, params.recover.iterations, "" if loss is None else f"loss {loss:.3f}")

        init, parents = None, None
        if starts is not None:  # one real image per class and slot, none twice while there are enough
            if number not in starts:
                starts[number] = shuffled_keys(open_part(job, "split", "train"), job.seed(of_set.strip(), "init"))
            pools = starts[number]
            parents = [[pools[label][slot % len(pools[label])] for label in classes] for slot in slots]
            real = load_arrays(open_part(job, "split", "train"), [key for row in parents for key in row])
            init = torch.from_numpy(real.images).to(device)
            init = init.reshape(len(slots), len(classes), *init.shape[1:])
        targets = torch.tensor(classes, device=device)
        if by_class:  # a group is the slots of a class, and not the classes of a slot
            targets, init = targets[:, None].expand(-1, len(slots)), None if init is None else init.transpose(0, 1)
            keys = [f"{of_set}class {label} slots {slots[0]}-{slots[-1]}" for label in classes]
        else:
            keys = [f"{of_set}slot {slot} classes {classes[0]}-{classes[-1]}" for slot in slots]
        result = recover(
            teacher.model,
            targets,
            params.recover,
            seeds=[job.seed(key, "recover") for key in keys],
            mean=teacher.mean,
            std=teacher.std,
            image_size=teacher.image_size,
            init=init,
            goals=_class_goals(teacher, classes, job) if by_class else None,
            on_progress=watch,
        )
        images = result.images.transpose(0, 1) if by_class else result.images
        pixels = images.cpu().numpy().transpose(0, 1, 3, 4, 2)
        block = Block(number, slots, classes, parents)
        write_recovered(output, job, teacher, block, pixels, result.losses, params.image, params.caption)

    def subject(self, unit: Unit, job: Job[CdaParams]) -> str:
        return "cda.recover"

    def finish(self, job: Job[CdaParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        write_losses(job, markers)
        sets = f" of each of {plan.facts['seeds']} sets" if plan.facts["seeds"] > 1 else ""
        extra = {"name": "cda", "description": f"distilled images, {plan.facts['ipc']} per class{sets}"}
        return publish_datasets(job.output, markers, plan.facts["classes"], extra)


def _class_goals(teacher: Teacher, classes: Sequence[int], job: Job[CdaParams]) -> list[Goal]:
    """Statistics of the real images of each class, by layer: means and variances (classes, C)."""
    import torch

    from distill.statistics import class_statistics

    train, goals = open_part(job, "split", "train"), []
    keys = keys_by_class(train)
    for label in classes:
        images = torch.from_numpy(load_arrays(train, keys[label]).images).to(torch_device(job))
        goals.append(class_statistics(teacher.model, images, mean=teacher.mean, std=teacher.std))
    means_and_variances = (zip(*of_layer, strict=True) for of_layer in zip(*goals, strict=True))
    return [(torch.stack(means), torch.stack(variances)) for means, variances in means_and_variances]
