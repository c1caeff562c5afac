"""`evaluate`: what the products are worth. Every accuracy is measured next to its controls, with seeds, on the test split.

One item per product that has a section in params.yaml: what is measured of it, and with which networks, is the business of its folder
in `pipelines.evaluation`. One unit is one trained network. What is told apart is the business of
`pipelines.evaluation.verdicts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.artifacts.datasets import METRICS_FILE
from pipelines.errors import UserError
from pipelines.evaluation import EVALUATIONS, get_evaluation
from pipelines.evaluation.protocol import CURVE_COLUMNS, CURVES_FILE, RESULTS_FILE, Evaluation
from pipelines.evaluation.verdicts import note_of
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Plot, Stage
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.evaluate.params import EvaluateParams, evaluate_params
from pipelines.storage import csv_bytes, pretty_json


@dataclass(frozen=True)
class Worker:
    """The evaluation of a job, and what it keeps between units."""

    evaluation: Evaluation[Any]
    kept: Any


class Evaluate(Stage[EvaluateParams]):
    """Trains and tests students."""

    name = "evaluate"
    version = 5
    summary = "products and their controls -> accuracies with seeds and bytes"
    adds = "the accuracies beside their controls, the one thing that shows whether the images pay"
    extras = ("distill",)
    Params = EvaluateParams
    code = (
        *("augment", "distill", "synth"),
        *("pipelines.artifacts", "pipelines.evaluation", "pipelines.images", "pipelines.loaders"),
    )
    workers = "actors"
    computes = True
    metrics = (METRICS_FILE,)

    def __init__(self) -> None:
        self.Params = evaluate_params()
        evaluations = [get_evaluation(name) for name in EVALUATIONS]
        self.upstream = tuple(dict.fromkeys(name for one in evaluations for name in one.upstream))
        self.reduces = ("pipelines.evaluation.verdicts", *(module for one in evaluations for module in one.reduces))

    def code_of(self, item: str) -> tuple[str, ...]:
        own = (get_evaluation(item).code or (f"{EVALUATIONS[item]}.evaluation",)) if item else ()
        return (*self.code, *own)

    def items(self, params: EvaluateParams) -> tuple[str, ...]:
        return params.asked

    def plots_of(self, item: str) -> tuple[Plot, ...]:
        title = get_evaluation(item).curves if item else ""
        return (Plot(CURVES_FILE, "epoch", "test_top1", title, ("line",)),) if title else ()

    def of_item(self, params: EvaluateParams, item: str) -> EvaluateParams:
        return params.only(item)

    def inputs(self, job: Job[EvaluateParams]) -> Sequence[str]:
        return get_evaluation(job.item).inputs(getattr(job.params, job.item)) if job.item else ()

    def reads(self, params: EvaluateParams) -> dict[str, str]:
        return {
            f"evaluate.{item}.{parameter}": path
            for item in params.asked
            for parameter, path in get_evaluation(item).reads(getattr(params, item)).items()
        }

    def plan(self, job: Job[EvaluateParams]) -> Plan:
        if not job.item:
            sections = " or ".join(f"evaluate.{name}" for name in EVALUATIONS)
            raise UserError(
                f"evaluate measures what has a section, and there is none: add {sections} to the parameters"
            )
        plan = get_evaluation(job.item).plan(_own(job))
        return replace(plan, facts={**plan.facts, "note": job.params.note})

    def check(self, job: Job[EvaluateParams]) -> None:
        torch_device(job)
        get_evaluation(job.item).check(_own(job))

    def open(self, job: Job[EvaluateParams]) -> Worker:
        evaluation = get_evaluation(job.item)
        return Worker(evaluation, evaluation.open(_own(job)))

    def run(self, unit: Unit, worker: Worker, output: UnitOutput, job: Job[EvaluateParams]) -> None:
        worker.evaluation.run(unit, worker.kept, output)

    def subject(self, unit: Unit, job: Job[EvaluateParams]) -> str:
        return get_evaluation(job.item).subject(unit, _own(job))

    def finish(self, job: Job[EvaluateParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        measured = get_evaluation(job.item).metrics(_own(job), plan, markers)
        results = dict(measured.results)
        results["protocol"] = {**results.get("protocol", {}), "note": note_of(plan.facts["note"], measured.seeds)}
        job.output.write_bytes(RESULTS_FILE, pretty_json(results))
        job.output.write_bytes(METRICS_FILE, pretty_json(dict(measured.numbers)))
        if measured.curves:
            job.output.write_bytes(CURVES_FILE, csv_bytes(measured.curves, CURVE_COLUMNS))
        return dict(measured.facts)


def _own(job: Job[EvaluateParams]) -> Job[Any]:
    """The job as its evaluation is given it: with its own section."""
    return replace(job, params=getattr(job.params, job.item))
