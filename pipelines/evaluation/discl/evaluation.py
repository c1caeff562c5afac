"""`evaluate@discl`: students of a long tail, with DisCL's images and curriculum and without, beside the cheap controls.

One unit is one student: (arm, seed). Arms of one seed share start, steps and learning rates; what differs is which images each epoch
shows, and the loss. A unit's payload names its images by content: a change re-runs who saw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines.artifacts.datasets import dataset_digest, open_part
from pipelines.artifacts.trainable import common_side, require_trainable
from pipelines.evaluation.discl.arms import ARMS, ArmName
from pipelines.evaluation.discl.images import TailImages
from pipelines.evaluation.discl.params import DisclParams
from pipelines.evaluation.discl.pool import course_of, guidance_of, levels_of
from pipelines.evaluation.discl.student import Candidate, Recipe, Student, TrainStudent
from pipelines.evaluation.discl.table import comparisons, numbers, table
from pipelines.evaluation.discl.worker import NETWORK_KEY, DisclStudents
from pipelines.evaluation.protocol import Evaluation, Measured
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.units import Marker, Unit, UnitOutput


class DisclEvaluation(Evaluation[DisclParams]):
    """Students that show what DisCL is worth on a long tail."""

    name = "discl"
    summary = "students of a long tail with DisCL and with its controls"
    upstream = ("split", "generator", "discl")
    code = ("pipelines.evaluation.discl.worker",)
    reduces = ("pipelines.evaluation.discl.table",)

    def inputs(self, params: DisclParams) -> Sequence[str]:
        return self.upstream if params.synthetic else ("split",)

    def reads(self, params: DisclParams) -> dict[str, str]:
        return {} if params.own_generator is None else {"own_generator": params.own_generator}

    def plan(self, job: Job[DisclParams]) -> Plan:
        """A student for each arm and seed."""
        params, images = job.params, TailImages(job)
        held_out = {part: dataset_digest(open_part(job, "split", part)) for part in ("val", "test")}
        units = []
        for arm in params.arms:
            candidates = candidates_of(arm, params)
            digests = tuple(
                images.synthetic(arm, one.min_text_cosine).digest if ARMS[arm].images else None for one in candidates
            )
            inputs = held_out | ({"train": dataset_digest(images.train)} if arm == "full_real" else {})
            recipe = recipe_of(arm, params)
            units += [
                TrainStudent(arm, seed, recipe, candidates, images.profile.digest, digests, inputs).unit(
                    f"{arm}-seed{seed}"
                )
                for seed in range(params.seeds)
            ]
        outside = {arm: images.outside_data(arm) for arm in params.arms}
        facts: dict[str, Any] = {
            "classes": images.classes,
            "groups": list(images.profile.group),
            "outside_data": outside,
        }
        facts |= {"counts": images.profile.counts.tolist(), "limits": list(images.profile.limits)}
        return Plan(units, facts=facts)

    def check(self, job: Job[DisclParams]) -> None:
        """Raise `UserError` for a student that cannot be built, and a schedule that cannot be laid down."""
        params, images = job.params, TailImages(job)
        side = common_side([open_part(job, "split", part) for part in ("train", "val", "test")])
        require_trainable(params.network, len(images.classes), side, NETWORK_KEY, min(2, params.training.batch_size))
        with method_errors("evaluate.discl"):
            for arm in params.arms:
                for candidate in candidates_of(arm, params):
                    pool, strategy = images.pool(arm, candidate.min_text_cosine), candidate.strategy
                    pool.mix(params.downsample)
                    if strategy is not None:
                        course = course_of(params.training.epochs, params.curriculum, params.downsample, None)
                        levels_of(pool, course, ARMS[arm].shows, strategy, 0)
                        if strategy == "adaptive":
                            guidance_of(pool, params.held_out, 0)

    def open(self, job: Job[DisclParams]) -> DisclStudents:
        return DisclStudents(job)

    def run(self, unit: Unit, worker: DisclStudents, output: UnitOutput) -> None:
        worker.run(unit, output)

    def subject(self, unit: Unit, job: Job[DisclParams]) -> str:
        return "evaluate.discl.training"

    def metrics(self, job: Job[DisclParams], plan: Plan, markers: Sequence[Marker]) -> Measured:
        """The table of arms, who gains, and under which protocol."""
        params, students = job.params, [Student.read(marker.summary) for marker in markers]
        facts = plan.facts
        results: dict[str, Any] = {
            **{name: facts[name] for name in ("classes", "groups", "counts", "limits")},
            **table(students, facts["groups"], facts["outside_data"]),
            "comparisons": comparisons(students, facts["groups"]),
            "protocol": _protocol(params, students),
        }
        return Measured(numbers(results), results, params.seeds, facts={"students": len(markers)})


def _protocol(params: DisclParams, students: Sequence[Student]) -> dict[str, Any]:
    """What held for every row."""
    candidates: dict[str, list[Any]] = {
        "strategy": list(params.strategies),
        "min_text_cosine": list(params.min_text_cosine),
        "prior": list(params.priors),
        "tau": list(params.tau),
    }
    asked: set[str] = {name for student in students for one in student.candidates for name in one.named} | {
        "min_text_cosine"
    }
    several = {name: values for name, values in candidates.items() if len(values) > 1 and name in asked}
    training = params.training
    return {
        "network": params.network,
        "profile": params.profile,
        "epochs": training.epochs,
        "steps": students[0].steps,
        "batch_size": training.batch_size,
        "optimizer": training.optimizer,
        "learning_rate": training.learning_rate,
        "seeds": params.seeds,
        "test_images": sum(students[0].of),
        "selection": "nothing, last epoch, tested once"
        if not several
        else "of each student's candidates the best on validation images, mean over classes; last epoch, tested once",
        "candidates": several or None,
        "own_generator": params.own_generator is not None or None,
    }


def candidates_of(arm: ArmName, params: DisclParams) -> tuple[Candidate, ...]:
    """What a student of an arm is the best of, on validation images; the first of equals."""
    kind = ARMS[arm]
    if arm == "logit_adjustment":
        return tuple(Candidate(tau=tau) for tau in params.tau)
    if not kind.images:
        return (Candidate(),)
    # The unordered images are those of one curriculum: its first strategy says which.
    strategies = params.strategies if kind.shows == "curriculum" else params.strategies[:1]
    return tuple(
        Candidate(strategy if kind.shows in ("curriculum", "unordered") else None, least, prior)
        for strategy in strategies
        for least in params.min_text_cosine
        for prior in (params.priors if kind.loss == "balanced_softmax" else (None,))
    )


def recipe_of(arm: ArmName, params: DisclParams) -> Recipe:
    """What decides a training of an arm beside its images: an option of other arms is none of its own."""
    return Recipe(
        params.network,
        replace(params.training, evaluate_every=1),
        params.mean,
        params.std,
        params.downsample,
        params.curriculum if ARMS[arm].shows in ("curriculum", "unordered") else None,
        params.held_out if ARMS[arm].shows == "curriculum" and "adaptive" in params.strategies else None,
        params.repeat if arm == "repeat_factor" else None,
        params.retrain if arm == "crt" else None,
        params.strong if arm == "strong_augmentation" else None,
    )


EVALUATION = DisclEvaluation()
