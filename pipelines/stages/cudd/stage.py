"""`cudd`: a teacher and students in turn -> distilled images, by curricula of batch-norm matching (CUDD, Ma et al., 2025).

Units come in three waves for each curriculum: the real images that it begins at are chosen, its slots are recovered, and, unless it is
the last, a student is trained on all slots so far with the teacher's answers. What a unit makes follows from its set, its curriculum,
its slots and its classes, so that the bytes do not depend on the number of workers; another curriculum leaves those before it as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

from pipelines.artifacts.datasets import dataset_digest, finished, open_part, stage_digest
from pipelines.artifacts.distilled import keys_by_class
from pipelines.artifacts.recovered import require_batch_norm, slots_per_unit, write_losses
from pipelines.artifacts.teacher import TEACHER_FILE, require_classes
from pipelines.artifacts.trainable import common_side, require_trainable, smallest_batch
from pipelines.errors import UserError
from pipelines.runtime.code import WRITERS
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.cudd.params import CuddParams
from pipelines.stages.cudd.payloads import (
    PAYLOADS,
    Choose,
    Recover,
    TrainStudent,
    choice_name,
    images_name,
    student_name,
)
from pipelines.storage import csv_bytes

#: How many images of each curriculum were chosen for which reason.
CHOICES = "choices.csv"
CHOICE_COLUMNS = ("set", "curriculum", "images", "recognised", "hard", "any")
#: Waves of a curriculum.
WAVES = 3


class Cudd(Stage[CuddParams]):
    """Recovers images from a teacher, curriculum by curriculum."""

    name = "cudd"
    version = 1
    summary = "teacher and its students in turn -> distilled images (CUDD)"
    adds = "the images distilled in curricula"
    titles: ClassVar[Mapping[str, str]] = {"": "CUDD"}
    optional = True
    extras = ("distill",)
    product = "distilled"
    Params = CuddParams
    upstream = ("split", "squeeze")
    code = ("augment", "distill", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True

    def plan(self, job: Job[CuddParams]) -> Plan:
        params, train = job.params, open_part(job, "split", "train")
        for name, keys in zip(train.classes, keys_by_class(train), strict=True):
            if len(keys) < params.ipc:
                raise UserError(
                    f"class {name} has {len(keys)} different training image{'' if len(keys) == 1 else 's'}, fewer than the {params.ipc} "
                    "that cudd.ipc begins at; lower cudd.ipc and cudd.curricula, then: limbeck run cudd"
                )
        inputs = {"squeeze": stage_digest(job, "squeeze"), "train": dataset_digest(train)}
        units: list[Unit] = []
        for number in range(params.seeds):
            units += self._units_of_set(job, number, len(train.classes), inputs)
        return Plan(units, facts={"classes": train.classes, "ipc": params.ipc, "seeds": params.seeds})

    def _units_of_set(self, job: Job[CuddParams], number: int, classes: int, inputs: dict[str, str]) -> list[Unit]:
        """Units of all curricula, wave after wave."""
        params = job.params
        chunks = [
            tuple(range(start, min(start + params.class_chunk, classes)))
            for start in range(0, classes, params.class_chunk)
        ]
        block = slots_per_unit(job, params.slots_per_unit, len(chunks[0]))
        network = params.student.network or finished(job, "squeeze").json(TEACHER_FILE)["network"]
        units: list[Unit] = []
        images: list[str] = []
        student, before = "", dict.fromkeys(chunks, "")
        for curriculum, end in enumerate(accumulate(params.curricula)):
            wave, first = WAVES * curriculum, end - params.curricula[curriculum]
            for chunk in chunks:
                choice = Choose(number, curriculum, chunk, first, end - first, before[chunk], student, inputs)
                units.append(choice.unit(choice_name(number, curriculum, chunk[0]), wave))
                before[chunk] = choice.digest
            for start in range(first, end, block):
                slots = tuple(range(start, min(start + block, end)))
                for chunk in chunks:
                    recover = Recover(number, curriculum, slots, chunk, before[chunk], student, inputs)
                    units.append(recover.unit(images_name(number, len(images)), wave + 1))
                    images.append(recover.digest)
            if end < params.ipc:
                training = params.student.training
                train = TrainStudent(number, curriculum, end, network, training, tuple(images), student, inputs)
                units.append(train.unit(student_name(number, curriculum), wave + 2))
                student = train.digest
        return units

    def check(self, job: Job[CuddParams]) -> None:
        require_batch_norm(job)
        params, train, facts = job.params, open_part(job, "split", "train"), finished(job, "squeeze").json(TEACHER_FILE)
        require_classes(train.classes, facts["classes"], train.storage.url)
        side = common_side([train])
        if side != facts["image_size"]:
            raise UserError(
                f"the images of {train.storage.url} have {side} px, and the teacher of {finished(job, 'squeeze').storage.url} takes "
                f"{facts['image_size']} ({TEACHER_FILE}); train it on these: limbeck run squeeze"
            )
        sizes = [count * len(train.classes) for count in accumulate(params.curricula)][:-1]
        batch = smallest_batch((size, params.student.training.batch_size) for size in sizes)
        if sizes:
            network = params.student.network or facts["network"]
            require_trainable(network, len(train.classes), side, "cudd.student.network", batch)

    def open(self, job: Job[CuddParams]) -> Any:
        from pipelines.stages.cudd.worker import Distiller

        return Distiller(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[CuddParams]) -> None:
        getattr(worker, unit.kind)(PAYLOADS[unit.kind].from_json(unit.payload), output)

    def subject(self, unit: Unit, job: Job[CuddParams]) -> str:
        return {TrainStudent.kind: "cudd.student", Recover.kind: "cudd.recover"}.get(
            unit.kind, "the teacher of squeeze"
        )

    def finish(self, job: Job[CuddParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        write_losses(job, [marker for marker in markers if marker.kind == Recover.kind])
        totals: dict[tuple[int, int], dict[str, int]] = {}
        for one in (marker.summary for marker in markers if marker.kind == Choose.kind):
            total = totals.setdefault((one["set"], one["curriculum"]), dict.fromkeys(CHOICE_COLUMNS[2:], 0))
            for reason in total:
                total[reason] += one[reason]
        rows = [{"set": number, "curriculum": curriculum} | total for (number, curriculum), total in totals.items()]
        job.output.write_bytes(CHOICES, csv_bytes(rows, CHOICE_COLUMNS))
        sets = f" of each of {plan.facts['seeds']} sets" if plan.facts["seeds"] > 1 else ""
        extra = {"name": "cudd", "description": f"images distilled in curricula, {plan.facts['ipc']} per class{sets}"}
        return publish_datasets(job.output, markers, plan.facts["classes"], extra)
