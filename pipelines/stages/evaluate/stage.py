"""`evaluate`: what the products are worth. Every accuracy is measured next to its controls, with seeds, on the test split.

Two parts, each on its own or both: students of distilled sets (`evaluation/distilled`) and classifiers of DataDream's images
(`evaluation/datadream`). One unit is one trained network; the parts share nothing but the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pipelines.artifacts.datasets import METRICS_FILE, open_part
from pipelines.evaluation.datadream import evaluation as datadream
from pipelines.evaluation.distilled import evaluation as distilled
from pipelines.evaluation.params import EvaluateParams
from pipelines.evaluation.verdicts import settle
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.storage import pretty_json


class Worker:
    """What a worker keeps between units; a part is opened when its first unit comes."""

    def __init__(self, job: Job[EvaluateParams]) -> None:
        self._job = job

    @cached_property
    def distilled(self) -> distilled.DistilledStudents:
        return distilled.DistilledStudents(self._job)

    @cached_property
    def datadream(self) -> datadream.DreamClassifiers:
        return datadream.DreamClassifiers(self._job)


class Evaluate(Stage[EvaluateParams]):
    """Trains and tests students."""

    name = "evaluate"
    version = 2
    summary = "products and their controls -> accuracies with seeds and bytes"
    adds = "the accuracies beside their controls, the one thing that shows whether the images pay"
    extras = ("distill",)
    Params = EvaluateParams
    upstream = ("split", "squeeze", "cda", "relabel", "generator", "datadream")
    workers = "actors"
    computes = True

    def needs(self, job: Job[EvaluateParams]) -> tuple[str, ...]:
        distilled = ("squeeze", "cda", "relabel") if job.params.distillation else ()
        dreams = ("generator", "datadream") if job.params.datadream is not None else ()
        return ("split", *distilled, *dreams)

    def plan(self, job: Job[EvaluateParams]) -> Plan:
        params = job.params
        units = distilled.units(job) if params.distillation else []
        facts: dict[str, Any] = {"classes": open_part(job, "split", "train").classes}
        if params.datadream is not None:
            units += datadream.units(job, params.datadream)
            facts["datadream"] = datadream.stored(job, params.datadream)
        return Plan(units, facts=facts)

    def identity_params(self, job: Job[EvaluateParams]) -> dict[str, Any]:
        """A student's payload holds its own recipe, so adding an arm or a seed keeps the others."""
        return {"seed": job.run.seed, "threads": job.run.threads}

    def check(self, job: Job[EvaluateParams]) -> None:
        torch_device(job)
        if job.params.distillation:
            distilled.check(job)
        if job.params.datadream is not None:
            datadream.check(job, job.params.datadream)

    def open(self, job: Job[EvaluateParams]) -> Worker:
        return Worker(job)

    def run(self, unit: Unit, worker: Worker, output: UnitOutput, job: Job[EvaluateParams]) -> None:
        part = worker.datadream if datadream.owns(unit.name) else worker.distilled
        part.run(unit, output)

    def subject(self, unit: Unit, job: Job[EvaluateParams]) -> str:
        return (datadream if datadream.owns(unit.name) else distilled).subject(unit, job)

    def finish(self, job: Job[EvaluateParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        dreams = [marker for marker in markers if datadream.owns(marker.name)]
        students = [marker for marker in markers if not datadream.owns(marker.name)]
        metrics: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        # All comparisons of a report are judged together.
        told = distilled.comparisons(job, students) if job.params.distillation else []
        asked = job.params.datadream
        dreamt = [] if asked is None else datadream.comparisons(job, asked, dreams)
        judged = settle([*told, *dreamt])
        if job.params.distillation:
            metrics |= distilled.metrics(job, students, judged[: len(told)])
            job.output.write_bytes(distilled.CURVES, distilled.curves(job, students))
            facts["teacher"] = metrics["teacher"]["test_top1"]
        if job.params.datadream is not None:
            metrics["datadream"] = datadream.metrics(job, job.params.datadream, plan, dreams, judged[len(told) :])
            facts["datadream"] = {"classifiers": len(dreams)}
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        return facts
