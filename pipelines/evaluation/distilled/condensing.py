"""`limbeck condense`: the sets of a finished `evaluate@distilled` that fit a budget -> the one to ship, as a dataset with its labels.

It runs as a stage does, and is none of the pipeline's: what there is to choose from is what a run measured. Units of the first wave are
the students of `evaluate@distilled` with the validation split in place of the test split, those of the second write what is chosen by
their accuracies. The test split decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from pipelines.artifacts.datasets import dataset_digest, open_part
from pipelines.config import PLAN_ONLY, Section
from pipelines.evaluation.distilled.arms import Arm, TrainStudent
from pipelines.evaluation.distilled.candidates import Candidates, measured_run
from pipelines.evaluation.distilled.choice import Candidate, Measured, choose, within
from pipelines.evaluation.distilled.evaluation import DistilledEvaluation
from pipelines.evaluation.distilled.params import DistilledParams
from pipelines.evaluation.distilled.worker import DistilledStudents, Student
from pipelines.evaluation.protocol import RESULTS_FILE
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.typed import Payload
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.storage import pretty_json

NAME, PART = "condense", "val"
CHOICE_FILE, CARD_FILE = "choice.json", "card.md"
#: The unit that writes what is chosen, and so its shard.
SHIPPED_UNIT = "condensed-000000"


class CondenseParams(Section):
    """What `limbeck condense` is asked for."""

    effect = PLAN_ONLY  # a payload holds its student's own recipe, and what is shipped names all of them

    budget: int = Field(1, ge=1, description="bytes of images, labels and, where labels need it, the teacher")
    within: float = Field(
        1.0, ge=0, description="points on the validation split that a cheaper set may be behind the best"
    )


@dataclass(frozen=True)
class Ship(Payload):
    """Choose among candidates by the students of each, and write the chosen one. `students` are their units' names, candidate by
    candidate, `made_of` what they are made of, `bytes` what is shipped of each."""

    kind: ClassVar[str] = "ship"

    budget: int
    within: float
    bytes: tuple[int, ...]
    students: tuple[tuple[str, ...], ...]
    made_of: tuple[dict[str, Any], ...]


class Condense(Stage[CondenseParams]):
    """Chooses a condensed set on the validation split, and writes it."""

    name = NAME
    version = 1
    summary = "finished sets + a budget of bytes -> the set to ship, chosen on the validation split"
    extras = ("distill",)
    product = "distilled"
    Params = CondenseParams
    code = (
        *("augment", "distill", "pipelines.artifacts", "pipelines.evaluation", "pipelines.images", "pipelines.loaders"),
        *("pipelines.evaluation.distilled.worker", "pipelines.evaluation.distilled.shipping", *WRITERS),
    )
    workers = "actors"
    computes = True

    def inputs(self, job: Job[CondenseParams]) -> Sequence[str]:
        own, _ = measured_run(job.data, job.inputs)
        return (*DistilledEvaluation().inputs(own.params), "evaluate@distilled")

    def plan(self, job: Job[CondenseParams]) -> Plan:
        """The students of every candidate that fits, on each of its sets, with the main network; then what is shipped."""
        own, candidates = candidates_of(job)
        fitting = within(candidates.all(), job.params.budget)
        split = {PART: dataset_digest(open_part(job, "split", PART))}
        by_candidate: dict[tuple[Arm, int], list[Unit]] = {(one.arm, one.ipc): [] for one in fitting}
        for unit in DistilledEvaluation().plan(own).units:
            if unit.kind != TrainStudent.kind:
                continue
            student = TrainStudent.from_json(unit.payload)
            place = student.arm, student.ipc
            if student.network == own.params.networks[0] and place in by_candidate:
                inputs = {name: digest for name, digest in student.inputs.items() if name != "test"} | split
                by_candidate[place].append(Unit(unit.name, unit.payload | {"inputs": inputs}, 0, unit.kind))
        students = [unit for units in by_candidate.values() for unit in units]
        ship = Ship(
            job.params.budget,
            job.params.within,
            tuple(one.bytes for one in fitting),
            tuple(tuple(unit.name for unit in units) for units in by_candidate.values()),
            tuple(unit.payload for unit in students),
        )
        facts = {"classes": open_part(job, "split", "train").classes}
        return Plan([*students, ship.unit(SHIPPED_UNIT, 1)], facts=facts)

    def check(self, job: Job[CondenseParams]) -> None:
        torch_device(job)
        DistilledEvaluation().check(measured_run(job.data, job.inputs)[0])

    def open(self, job: Job[CondenseParams]) -> DistilledStudents:
        return DistilledStudents(measured_run(job.data, job.inputs)[0], PART)

    def run(self, unit: Unit, worker: DistilledStudents, output: UnitOutput, job: Job[CondenseParams]) -> None:
        if unit.kind == TrainStudent.kind:
            worker.train_student(unit, output)
            return
        from pipelines.evaluation.distilled.shipping import ship

        payload = Ship.from_json(unit.payload)
        own, candidates = candidates_of(job)
        fitting = within(candidates.all(), payload.budget)
        images = len(open_part(job, "split", PART))
        choice = choose(accuracies(fitting, payload.students, output.storage), images, payload.within)
        ship(choice, candidates, own, worker, output)

    def subject(self, unit: Unit, job: Job[CondenseParams]) -> str:
        if unit.kind != TrainStudent.kind:
            return "what is shipped"
        student = TrainStudent.from_json(unit.payload)
        return f"evaluate.distilled.{student.arm.section} of the student {student.network}"

    def finish(self, job: Job[CondenseParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        shipped = next(marker for marker in markers if marker.kind == Ship.kind)
        choice = shipped.summary["choice"]
        job.output.write_bytes(CHOICE_FILE, pretty_json(choice))
        job.output.write_bytes(CARD_FILE, shipped.summary["card"].encode())
        extra = {"name": "condensed", "description": f"{choice['chosen']}, chosen within {job.params.budget} bytes"}
        facts = publish_datasets(job.output, [shipped], plan.facts["classes"], extra)
        return facts | {"chosen": choice["chosen"], "shipped_bytes": shipped.summary["bytes"]}


def candidates_of(job: Job[CondenseParams]) -> tuple[Job[DistilledParams], Candidates]:
    """The run that measured, and what it offers."""
    own, output = measured_run(job.data, job.inputs)
    return own, Candidates(own, output.json(RESULTS_FILE))


def accuracies(candidates: Sequence[Candidate], students: Sequence[Sequence[str]], storage: Any) -> list[Measured]:
    """What the students of each candidate reached, from their markers."""
    from pipelines.runtime.ledger import all_markers

    summaries: Mapping[str, dict[str, Any]] = {marker.name: marker.summary for marker in all_markers(storage)}
    measured = []
    for candidate, names in zip(candidates, students, strict=True):
        by_set: dict[int, dict[int, float]] = {}
        for one in (Student.of(summaries[name]) for name in names):
            by_set.setdefault(one.number, {})[one.seed] = one.last
        measured.append(Measured(candidate, by_set))
    return measured
