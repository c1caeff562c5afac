"""The part of `evaluate` about DataDream: classifiers on few-shot reals, on synthetic images, and on both.

One unit is one classifier: (arm, variant, shots, seed, kind). The kind `clip` is CLIP with LoRA, selected on the validation split;
`student` a network from scratch, last epoch. Either is tested once, on the test split. Arms of one seed share reals, start and
order, so that images are all that differs. A unit's payload names its images by content: a change re-runs who saw it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.artifacts.datasets import dataset_digest, finished, open_part
from pipelines.artifacts.generators import GENERATOR_FILE, generator_digest, generator_of
from pipelines.artifacts.trainable import common_side, require_trainable
from pipelines.evaluation.datadream.table import comparisons as compared
from pipelines.evaluation.datadream.table import control_table
from pipelines.evaluation.datadream.worker import DreamClassifiers, require_clip, require_size, require_texts
from pipelines.evaluation.images import ZERO_SHOT, Choice, Chosen
from pipelines.evaluation.params import DreamParams, EvaluateParams
from pipelines.evaluation.verdicts import Comparison
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.runtime.units import Marker, Unit
from synth.datadream.prompts import class_prompt

__all__ = ["DreamClassifiers", "check", "comparisons", "metrics", "owns", "stored", "units"]

PREFIX = "datadream-"


def subject(unit: Unit, job: Job[EvaluateParams]) -> str:
    """What an error in this unit is about: the parameters that train its classifier."""
    return f"evaluate.datadream.{'classifier' if unit.payload['classifier'] == 'clip' else 'student.training'}"


def owns(unit_name: str) -> bool:
    """Whether a unit of `evaluate` is of this part."""
    return unit_name.startswith(PREFIX)


def units(job: Job[EvaluateParams], params: DreamParams) -> list[Unit]:
    """A classifier for each arm, variant, number of shots, seed and kind."""
    choice = Choice(job)
    held_out = {part: dataset_digest(open_part(job, "split", part)) for part in ("val", "test")}
    recipes: dict[str, Any] = {
        "clip": {
            "config": asdict(params.classifier),
            "clip": generator_digest(job, "clip"),
            "prompts": prompts(job, params, choice.classes),
            "views": params.views,
        }
    }
    if params.student is not None:
        recipes["student"] = params.student.model_dump(mode="json")
    found = []
    for arm, variant, shots, seed in _combinations(params):
        real, synthetic = _images(choice, params, arm, variant, shots, seed)
        told = {"arm": arm, "variant": variant, "shots": shots, "seed": seed, "inputs": held_out}
        told["few_shot_seed"] = choice.few_shot_seed(seed) if shots else None
        told["real"] = None if real is None else {"images": real.digest, "keys": list(real.keys) if shots else []}
        told["synthetic"] = None if synthetic is None else {"images": synthetic.digest}
        for kind, recipe in recipes.items():
            if arm == "zero_shot_clip" and kind != "clip":
                continue
            payload = {**told, "classifier": kind, "recipe": recipe, "steps": params.steps, "at_most": params.images}
            name = "-".join(filter(None, (arm, variant, f"shots{shots:02d}" if shots else "", f"seed{seed}", kind)))
            found.append(Unit(PREFIX + name, payload))
    return found


def _combinations(params: DreamParams) -> Iterator[tuple[str, str, int, int]]:
    """(arm, variant or empty, shots or 0 where none is seen, seed)."""
    for arm in params.arms:
        seeds = range(1) if arm == "zero_shot_clip" else range(params.seeds)
        for variant in params.variants if arm in ("synthetic", "pooled") else ("",):
            alone = arm in ("zero_shot_clip", "full") or (arm == "synthetic" and variant == ZERO_SHOT)
            for shots in (0,) if alone else params.shots_of(variant):
                for seed in seeds:
                    yield arm, variant, shots, seed


def _images(
    choice: Choice, params: DreamParams, arm: str, variant: str, shots: int, seed: int
) -> tuple[Chosen | None, Chosen | None]:
    """Real and synthetic images of an arm."""
    real = choice.reals(shots, seed) if arm in ("real", "pooled") else choice.everything() if arm == "full" else None
    return real, choice.synthetic(variant, shots, seed, params.images) if variant else None


def prompts(job: Job[EvaluateParams], params: DreamParams, classes: Sequence[str]) -> list[str]:
    """A text for each class: the one that the images were generated with, unless the parameters say otherwise."""
    made: dict[str, Any] = {}
    for variant in params.variants:
        if job.input("datadream", variant).exists(STAGE_FILE):
            made = finished(job, "datadream", variant).config().get("datadream", {})
            break
    names = made.get("names", {}) if params.names is None else params.names
    domain = made.get("domain", "") if params.domain is None else params.domain
    return [class_prompt(names.get(name, name), domain) for name in classes]


def check(job: Job[EvaluateParams], params: DreamParams) -> None:
    """Raise `UserError` for a CLIP that is not there or cannot tell the classes' texts apart, views of another size than its own,
    and a student that cannot be built."""
    require_clip(job)
    classes = open_part(job, "split", "train").classes
    require_texts(job, classes, prompts(job, params, classes))
    size = generator_of(job, "clip").native_size
    if params.views is not None and size is not None:
        require_size(params.views, size)
    if params.student is not None:
        side = common_side([open_part(job, "split", part) for part in ("train", "val", "test")])
        key = "evaluate.datadream.student.network"
        require_trainable(params.student.network, len(classes), side, key, min(2, params.student.training.batch_size))


def stored(job: Job[EvaluateParams], params: DreamParams) -> dict[str, Any]:
    """Bytes of adapters by variant and few-shot set (`SHOTS-SEED`), and of the models where they are files of the job."""
    adapters: dict[str, dict[str, int]] = {}
    for variant in params.variants if {"synthetic", "pooled"} & set(params.arms) else ():
        sizes: dict[str, int] = {}
        made = finished(job, "datadream", variant)
        for path, size in ((path, made.size(path)) for path in made.paths("adapters")):
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


def comparisons(job: Job[EvaluateParams], params: DreamParams, markers: Sequence[Marker]) -> list[Comparison]:
    """Who is compared with whom, to be judged with the other comparisons of the report."""
    test_images = len(open_part(job, "split", "test"))
    return compared([marker.summary for marker in markers], params.shots, test_images)


def metrics(
    job: Job[EvaluateParams], params: DreamParams, plan: Plan, markers: Sequence[Marker], judged: Sequence[Comparison]
) -> dict[str, Any]:
    """The control table, who wins, and under which protocol; `judged` are the `comparisons`, settled."""
    classes, facts = plan.facts["classes"], plan.facts["datadream"]
    students = [marker.summary for marker in markers]
    table = control_table(students, params.shots, facts["adapters"], len(classes), judged)
    protocol = {
        "classifier": f"CLIP with LoRA ({generator_of(job, 'clip').family})",
        "selection": "best epoch on validation, tested once on the test split",
        "epochs": None if params.steps else params.classifier.epochs,
        "steps": params.steps,
        "batch_size": params.classifier.batch_size,
        "real_weight": params.classifier.real_weight,
        "views": "as published" if params.views is None else params.views,
        "seeds": params.seeds,
        "few_shot_seeds": sorted({one["few_shot_seed"] for one in students if one["few_shot_seed"] is not None}),
        "student": params.student.network if params.student else None,
        "generator_bytes": facts["generator_bytes"],
        "note": job.params.note,
    }
    if params.seeds < 3:
        short = f"Only {params.seeds} seed(s) per arm: a demonstration, not a result to quote."
        protocol["note"] = f"{protocol['note']} {short}".strip()
    return {"classes": classes, "protocol": protocol, **table}
