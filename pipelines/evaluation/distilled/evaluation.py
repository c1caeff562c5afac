"""`evaluate@distilled`: students on condensed sets, on what these started from, on as many random real images, on the full set.

One unit is one student: (network, arm, IPC, set, seed). Soft arms see the same views with the same kind of labels from the same
teacher, so that the images are all that differs; every student of a set has a start, an order and random images of its own. Accuracy
is that of the last epoch on the test set, and those after some epochs before it: with a teacher's labels all sets come near one another
in the end. The best epoch is shown beside them, never quoted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipelines.artifacts.datasets import commonest_share, dataset_digest, finished, open_part, stage_digest
from pipelines.artifacts.distilled import DEFAULT_SOURCES, source_slug
from pipelines.artifacts.teacher import TEACHER_FILE, TEACHER_WEIGHTS, require_classes
from pipelines.artifacts.trainable import require_trainable, smallest_batch
from pipelines.evaluation.distilled.accuracies import Beside, lines, numbers, table
from pipelines.evaluation.distilled.arms import FULL, Arm, Compared, MeasureTeacher, TrainStudent, facts_of
from pipelines.evaluation.distilled.params import DistilledParams
from pipelines.evaluation.distilled.worker import STUDENT_COLUMNS, DistilledStudents, Student
from pipelines.evaluation.protocol import Evaluation, Measured
from pipelines.runtime.committed import Committed
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.storage import canonical_json

#: Accuracy and loss of every student over its epochs.
STUDENTS = "students.csv"


class DistilledEvaluation(Evaluation[DistilledParams]):
    """Students that show what condensed sets are worth."""

    name = "distilled"
    summary = "students on distilled sets, on as many real images, and on all"
    upstream = ("split", "squeeze", *DEFAULT_SOURCES, "relabel")
    curves = "Test accuracy of the students"
    code = ("pipelines.evaluation.distilled.worker",)
    reduces = ("pipelines.evaluation.distilled.accuracies",)

    def inputs(self, params: DistilledParams) -> Sequence[str]:
        labels = [f"relabel@{source_slug(source)}" for source in params.sources] if params.soft_arms else []
        return ("split", "squeeze", *params.sources, *params.controls, *labels)

    def plan(self, job: Job[DistilledParams]) -> Plan:
        """The teacher, and a student for each network, arm, IPC, set and seed."""
        params, compared, used = job.params, Compared(job), _Inputs(job)
        compared.require_label_forms()
        units, students = [MeasureTeacher(used.of_teacher()).unit("teacher")], []
        for arm in compared.arms():
            for ipc in compared.subsets(arm):
                config, at_epochs = asdict(compared.config(arm, ipc)), compared.at_epochs(arm, ipc)
                for number in compared.numbers(arm):
                    inputs = used.of(arm, ipc, number, compared)
                    students += [
                        TrainStudent(arm, ipc, seed, number, network, config, at_epochs, inputs)
                        for network in params.networks
                        for seed in range(params.seeds)
                    ]
        return Plan([*units, *(student.unit(_unit_name(student)) for student in students)])

    def check(self, job: Job[DistilledParams]) -> None:
        """Raise `UserError` for sets in another order of classes, and for students that cannot be built or trained on some batch."""
        facts, compared = finished(job, "squeeze").json(TEACHER_FILE), Compared(job)
        for sets in compared.sets.values():
            require_classes(sets.dataset.classes, facts["classes"], sets.dataset.storage.url)
        classes = len(facts["classes"])
        trainings = [
            (compared.images(arm, ipc), compared.config(arm, ipc).batch_size)
            for arm in compared.arms()
            for ipc in compared.subsets(arm)
        ]
        batch = smallest_batch(trainings)
        for network in job.params.networks:
            require_trainable(network, classes, facts["image_size"], "evaluate.distilled.networks", batch)

    def open(self, job: Job[DistilledParams]) -> DistilledStudents:
        return DistilledStudents(job)

    def run(self, unit: Unit, worker: DistilledStudents, output: UnitOutput) -> None:
        if unit.kind == MeasureTeacher.kind:
            worker.test_teacher(output)
        else:
            worker.train_student(unit, output)

    def subject(self, unit: Unit, job: Job[DistilledParams]) -> str:
        if unit.kind == MeasureTeacher.kind:
            return "the teacher of squeeze"
        student = TrainStudent.from_json(unit.payload)
        return f"evaluate.distilled.{student.arm.section} of the student {student.network}"

    def metrics(self, job: Job[DistilledParams], plan: Plan, markers: Sequence[Marker]) -> Measured:
        """The teacher, the protocol, every arm's accuracies and bytes by IPC, and who is told apart."""
        students = [Student.of(marker.summary) for marker in markers if marker.kind == TrainStudent.kind]
        teacher = next(marker.summary["test_top1"] for marker in markers if marker.kind == MeasureTeacher.kind)
        network = finished(job, "squeeze").json(TEACHER_FILE)["network"]
        form = table(students, len(open_part(job, "split", "test")), _beside(job))
        results = {"teacher": {"network": network, "test_top1": teacher}, "protocol": _protocol(job), **form}
        curves = _curves(job, markers)
        job.output.write_bytes(STUDENTS, curves)
        few = {"teacher": teacher, **numbers(results)}
        return Measured(few, results, job.params.seeds, lines(curves, job.params.networks[0]), {"teacher": teacher})


class _Inputs:
    """What decides a student beside its recipe, by content: of an arm what it depends on, so that the rest may change."""

    def __init__(self, job: Job[DistilledParams]) -> None:
        self._job = job
        self._held = {part: dataset_digest(open_part(job, "split", part)) for part in ("train", "test")}
        self._teacher = stage_digest(job, "squeeze")

    def of_teacher(self) -> dict[str, Any]:
        return self._held | {"teacher": self._teacher}

    def of(self, arm: Arm, ipc: int, number: int, compared: Compared) -> dict[str, Any]:
        used: dict[str, Any] = dict(self._held)
        if arm.images == "source":
            sets = compared.sets[arm.source]
            sets.keys(ipc, number)  # a set that is too small is said before any work
            used["distilled"] = dataset_digest(sets.dataset)
        if arm.images == "start":
            parents = compared.sets[arm.source].parents(ipc, number)
            used["start"] = hashlib.sha256(canonical_json(parents)).hexdigest()
        if arm.labels == "soft":
            assert compared.labelling is not None
            used["labels"] = (
                stage_digest(self._job, "relabel", source_slug(arm.source))
                if compared.stored(arm)
                else facts_of(compared.labelling)
            )
        if arm.labels != "hard":
            used["teacher"] = self._teacher
        return used


def _unit_name(student: TrainStudent) -> str:
    """What a student's unit and its curve are called."""
    ipc = "full" if student.ipc == FULL else f"ipc{student.ipc:03d}"
    return f"{student.arm.name}-{ipc}-set{student.number}-seed{student.seed}-{student.network}"


def _beside(job: Job[DistilledParams]) -> Beside:
    """What the table says beside what students came to; a source that names no generator's bytes has none."""
    params, generators = job.params, {}
    for source in (*params.sources, *params.controls):
        stage, _, item = source.partition("@")
        generators[source] = int(finished(job, stage, item).facts.get("generator_bytes", 0))
    teacher = finished(job, "squeeze").size(TEACHER_WEIGHTS)
    return Beside(params.networks, params.controls, teacher, generators, Compared(job).label_formats)


def _curves(job: Job[DistilledParams], markers: Sequence[Marker]) -> bytes:
    """The curves of every student in one table, as CSV."""
    committed = Committed(job, markers)
    tables = [committed.read(f"curves/{m.name}.csv").decode() for m in markers if m.kind == TrainStudent.kind]
    body = "".join(one.split("\n", 1)[1] for one in tables)
    return (",".join(STUDENT_COLUMNS) + "\n" + body).encode()


def _protocol(job: Job[DistilledParams]) -> dict[str, Any]:
    """What held for all students. `without_start` are sources that say of no image what it started from."""
    params, compared, test = job.params, Compared(job), open_part(job, "split", "test")
    protocol: dict[str, Any] = {
        "network": params.networks[0],
        "networks": list(params.networks),
        "budget": params.budget,
        "seeds": params.seeds,
        "distillation_seeds": min(compared.sets[source].count for source in params.sources),
        "test_images": len(test),
        "teacher_bytes": finished(job, "squeeze").size(TEACHER_WEIGHTS),
        "chance": commonest_share(test),
    }
    if (labelling := compared.labelling) is not None:
        protocol |= {"epochs": params.soft.epochs, "temperature": params.soft.temperature}
        protocol |= {"batch_size": labelling.batch_size, "label_format": labelling.format}
    if any(name.startswith("start_") for name in params.arms) and compared.without_start:
        protocol["without_start"] = compared.without_start
    return protocol


EVALUATION = DistilledEvaluation()
