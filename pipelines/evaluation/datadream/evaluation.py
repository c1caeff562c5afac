"""`evaluate@datadream`: classifiers on few-shot reals, on DataDream's images, and on both.

One unit is one classifier: (arm, variant, shots, seed, kind). The kind `clip` is CLIP with LoRA, selected on the validation split;
`student` a network from scratch, last epoch. Either is tested once, on the test split. Arms of one seed share reals, start and
order, so that images are all that differs. A unit's payload names its images by content: a change re-runs who saw it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

from pipelines.artifacts.datasets import dataset_digest, finished, open_part
from pipelines.artifacts.generators import GENERATOR_FILE, generator_digest, generator_of
from pipelines.artifacts.trainable import common_side, require_trainable
from pipelines.evaluation.datadream.classifier import Arm, Classifier, Classify
from pipelines.evaluation.datadream.params import DataDreamParams
from pipelines.evaluation.datadream.table import comparisons, control_table, numbers
from pipelines.evaluation.datadream.worker import ClassifierEvaluation, require_clip, require_size, require_texts
from pipelines.evaluation.images import ZERO_SHOT, ArmImages, Selection
from pipelines.evaluation.protocol import Evaluation, Measured
from pipelines.evaluation.verdicts import settle
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.runtime.units import Marker, Unit, UnitOutput
from synth.datadream.prompts import class_prompt


class DataDreamEvaluation(Evaluation[DataDreamParams]):
    """Classifiers that show what DataDream's images are worth."""

    name = "datadream"
    summary = "classifiers on few-shot reals, on generated images, and on both"
    upstream = ("split", "generator", "datadream")
    code = ("pipelines.evaluation.datadream.worker",)
    reduces = ("pipelines.evaluation.datadream.table",)

    def inputs(self, params: DataDreamParams) -> Sequence[str]:
        return ("split", "generator", *(f"datadream@{variant}" for variant in params.variants))

    def plan(self, job: Job[DataDreamParams]) -> Plan:
        """A classifier for each arm, variant, number of shots, seed and kind."""
        params, images = job.params, ArmImages(job)
        held_out = {part: dataset_digest(open_part(job, "split", part)) for part in ("val", "test")}
        recipes = _recipes(job, images.classes)
        units = []
        for arm, shots, seed in _combinations(params):
            real, synthetic = _selections(images, params, arm, shots, seed)
            for kind, recipe in recipes.items():
                if arm.images == "zero_shot_clip" and kind != "clip":
                    continue
                payload = Classify(
                    arm,
                    shots,
                    seed,
                    images.few_shot_seed(seed) if shots else None,
                    kind,
                    recipe,
                    params.steps,
                    params.images,
                    None if real is None else real.digest,
                    real.keys if real is not None and shots else (),
                    None if synthetic is None else synthetic.digest,
                    held_out,
                )
                shown = f"shots{shots:02d}" if shots else ""
                units.append(
                    payload.unit("-".join(filter(None, (arm.images, arm.variant, shown, f"seed{seed}", kind))))
                )
        return Plan(units, facts={"classes": images.classes, **_stored(job)})

    def check(self, job: Job[DataDreamParams]) -> None:
        """Raise `UserError` for a CLIP that is not there or cannot tell the classes' texts apart, views of another size than its own,
        and a student that cannot be built."""
        params = job.params
        require_clip(job)
        classes = open_part(job, "split", "train").classes
        require_texts(job, classes, _prompts(job, classes))
        size = generator_of(job, "clip").native_size
        if params.views is not None and size is not None:
            require_size(params.views, size)
        if params.student is not None:
            side = common_side([open_part(job, "split", part) for part in ("train", "val", "test")])
            key = "evaluate.datadream.student.network"
            require_trainable(
                params.student.network, len(classes), side, key, min(2, params.student.training.batch_size)
            )

    def open(self, job: Job[DataDreamParams]) -> ClassifierEvaluation:
        return ClassifierEvaluation(job)

    def run(self, unit: Unit, worker: ClassifierEvaluation, output: UnitOutput) -> None:
        worker.run(unit, output)

    def subject(self, unit: Unit, job: Job[DataDreamParams]) -> str:
        kind = Classify.from_json(unit.payload).classifier
        return f"evaluate.datadream.{'classifier' if kind == 'clip' else 'student.training'}"

    def metrics(self, job: Job[DataDreamParams], plan: Plan, markers: Sequence[Marker]) -> Measured:
        """The control table, who wins, and under which protocol."""
        params, classifiers = job.params, [Classifier.of(marker.summary) for marker in markers]
        judged = settle(comparisons(classifiers, params.shots, len(open_part(job, "split", "test"))))
        table = control_table(classifiers, params.shots, plan.facts["adapters"], len(plan.facts["classes"]), judged)
        protocol = {
            "classifier": f"CLIP with LoRA ({generator_of(job, 'clip').family})",
            "selection": "best epoch on validation, tested once on the test split",
            "epochs": None if params.steps else params.classifier.epochs,
            "steps": params.steps,
            "batch_size": params.classifier.batch_size,
            "real_weight": params.classifier.real_weight,
            "views": "as published" if params.views is None else params.views,
            "seeds": params.seeds,
            "few_shot_seeds": sorted({one.few_shot_seed for one in classifiers if one.few_shot_seed is not None}),
            "student": params.student.network if params.student else None,
            "generator_bytes": plan.facts["generator_bytes"],
        }
        results = {"classes": plan.facts["classes"], "protocol": protocol, **table}
        return Measured(numbers(table), results, params.seeds, facts={"classifiers": len(markers)})


def _recipes(job: Job[DataDreamParams], classes: Sequence[str]) -> dict[Literal["clip", "student"], dict[str, Any]]:
    """What decides a classifier beside its images, by kind."""
    params = job.params
    recipes: dict[Literal["clip", "student"], dict[str, Any]] = {
        "clip": {
            "config": asdict(params.classifier),
            "clip": generator_digest(job, "clip"),
            "prompts": _prompts(job, classes),
            "views": params.views,
        }
    }
    if params.student is not None:
        recipes["student"] = params.student.model_dump(mode="json")
    return recipes


def _combinations(params: DataDreamParams) -> Iterator[tuple[Arm, int, int]]:
    """(arm, shots or 0 where no real image is seen, seed)."""
    for images in params.arms:
        seeds = range(1) if images == "zero_shot_clip" else range(params.seeds)
        for variant in params.variants if images in ("synthetic", "pooled") else ("",):
            alone = images in ("zero_shot_clip", "full") or (images == "synthetic" and variant == ZERO_SHOT)
            for shots in (0,) if alone else params.shots_of(variant):
                for seed in seeds:
                    yield Arm(images, variant), shots, seed


def _selections(
    images: ArmImages, params: DataDreamParams, arm: Arm, shots: int, seed: int
) -> tuple[Selection | None, Selection | None]:
    """Real and synthetic images of an arm."""
    real = None
    if arm.images in ("real", "pooled"):
        real = images.reals(shots, seed)
    elif arm.images == "full":
        real = images.everything()
    return real, images.synthetic(arm.variant, shots, seed, params.images) if arm.variant else None


def _prompts(job: Job[DataDreamParams], classes: Sequence[str]) -> list[str]:
    """A text for each class: the one that the images were generated with, unless the parameters say otherwise."""
    params, generation = job.params, dict[str, Any]()
    for variant in params.variants:
        if job.input("datadream", variant).exists(STAGE_FILE):
            generation = finished(job, "datadream", variant).config().get("datadream", {})
            break
    names = generation.get("names", {}) if params.names is None else params.names
    domain = generation.get("domain", "") if params.domain is None else params.domain
    return [class_prompt(names.get(name, name), domain) for name in classes]


def _stored(job: Job[DataDreamParams]) -> dict[str, Any]:
    """Bytes of adapters by variant and few-shot set (`SHOTS-SEED`), and of the models where they are files of the job."""
    params = job.params
    adapters: dict[str, dict[str, int]] = {}
    for variant in params.variants if {"synthetic", "pooled"} & set(params.arms) else ():
        sizes: dict[str, int] = {}
        dream = finished(job, "datadream", variant)
        for path, size in ((path, dream.size(path)) for path in dream.paths("adapters")):
            shots, _, seed = path.split("/")[1].partition("-")
            name = f"{int(shots.removeprefix('shots'))}-{int(seed.removeprefix('seed'))}"
            sizes[name] = sizes.get(name, 0) + size
        adapters[variant] = dict(sorted(sizes.items()))
    generator = finished(job, "generator")
    models = {
        role: sum(generator.size(path) for path in generator.paths(form["model"]))
        for role, form in sorted(generator.json(GENERATOR_FILE).items())
        if form is not None and form["kind"] == "folder" and role in ("text", "clip")
    }
    return {"adapters": adapters, "generator_bytes": models}


EVALUATION = DataDreamEvaluation()
