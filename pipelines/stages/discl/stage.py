"""`discl`: hard training images and a generator -> scored images between text and real image, and curricula (DisCL, ICCV 2025).

Units come in waves: judges of images and their ranking, where networks say what is hard, and the bounds that real images set; the
spectra of a block of hard images, each cell made again while it is below its bound; their admission by stored scores. `finish` writes the
curricula: which levels and how many images of each kind an epoch has. A changed filter or curriculum makes no image again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

from pipelines.artifacts.curriculum import FOLDER, curriculum_bytes
from pipelines.artifacts.datasets import METRICS_FILE
from pipelines.artifacts.families import knowledge_sentence, unknown_classes
from pipelines.artifacts.generators import family_of, generator_model
from pipelines.artifacts.profiles import load_profile
from pipelines.runtime.code import WRITERS
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import require_synth, torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.dataset import Dataset
from pipelines.stages.discl.checks import require_starts, require_texts, warn_of_outside_images
from pipelines.stages.discl.figures import yields
from pipelines.stages.discl.params import CALIBRATION_FILE, GENERATED, HARD_FILE, KEPT, DisclParams
from pipelines.stages.discl.payloads import PAYLOADS
from pipelines.stages.discl.planning import DisclPlan
from pipelines.stages.discl.tables import curricula, require_curricula
from pipelines.storage import pretty_json


class Discl(Stage[DisclParams]):
    """Makes spectra of hard images."""

    name = "discl"
    version = 1
    summary = "hard training images + generator -> images at guidance levels, curricula"
    adds = "spectra between text and real images, and curricula"
    optional = True
    extras = ("synth",)
    Params = DisclParams
    upstream = ("split", "generator")
    code = ("augment", "distill", "synth", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True
    counted = KEPT

    def inputs(self, job: Job[DisclParams]) -> Sequence[str]:
        adapter = () if job.params.adapter is None else (f"datadream@{job.params.adapter.variant}",)
        return (*self.upstream, *adapter, *(("squeeze",) if job.params.teacher else ()))

    def reads(self, params: DisclParams) -> dict[str, str]:
        named = {
            "hard.file": params.hard.file,
            "prompts.bank": params.prompts.bank,
            "prompts.contexts": params.prompts.contexts,
            "refiner": params.refiner,
        }
        return {f"discl.{parameter}": path for parameter, path in named.items() if path is not None}

    def plan(self, job: Job[DisclParams]) -> Plan:
        planned = DisclPlan(job)
        require_curricula(job, planned.profile, planned.hard_count)
        facts: dict[str, Any] = {"classes": planned.classes, "levels": list(job.params.made_levels)}
        facts |= {"profile": [planned.profile.name, planned.profile.digest], "hard": planned.hard_count}
        facts |= {
            "curricula": job.params.curricula.model_dump(mode="json"),
            "mode": job.params.mode,
            "seed": job.run.seed,
        }
        if planned.hard:
            facts["hard"] = [one.to_json() for one in planned.hard]
        if unknown := self._unknown(job, [planned.classes[label] for label in planned.hard_labels]):
            facts["unknown_classes"] = unknown
        return Plan(list(planned.units()), facts=facts)

    def check(self, job: Job[DisclParams]) -> None:
        require_synth("discl")
        torch_device(job)
        generator_model(job, "text")
        planned = DisclPlan(job)
        hard = [planned.classes[label] for label in planned.hard_labels]
        require_starts(job)
        require_texts(job, planned.classes, hard, planned.prompts)
        warn_of_outside_images(job, planned.profile, planned.hard_labels)
        if (family := family_of(job)) is not None and (unknown := self._unknown(job, hard)):
            warnings.warn(knowledge_sentence(family, unknown, len(hard)), stacklevel=2)

    def _unknown(self, job: Job[DisclParams], hard: Sequence[str]) -> list[str]:
        """The hard classes that a small family was never shown; of pretrained models nobody knows."""
        family = family_of(job)
        asked = {name: job.params.name_of(name) for name in hard}
        return [] if family is None else unknown_classes(family, asked)

    def subject(self, unit: Unit, job: Job[DisclParams]) -> str:
        return {"judge": "discl.hard.training", "admit": "discl.filters"}.get(unit.kind, "discl.generate")

    def open(self, job: Job[DisclParams]) -> Any:
        from pipelines.stages.discl.worker import SpectrumWorker

        return SpectrumWorker(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[DisclParams]) -> None:
        getattr(worker, unit.kind)(PAYLOADS[unit.kind].from_json(unit.payload), output)

    def finish(self, job: Job[DisclParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        classes = plan.facts["classes"]
        extra = {"name": "discl", "description": "images between text and real image"}
        sizes = publish_datasets(job.output, markers, classes, extra, [GENERATED, KEPT])
        form: dict[str, Any]
        if isinstance(plan.facts["hard"], list):
            form = {"rule": job.params.hard.rule, "images": plan.facts["hard"]}
            job.output.write_bytes(HARD_FILE, pretty_json(form))
        else:
            form = Committed(job, markers).json(HARD_FILE)
        by_kind = {kind: [one for one in markers if one.kind == kind] for kind in PAYLOADS}
        metrics = yields(by_kind["spread"], by_kind["admit"], classes) | {"hard": len(form["images"])}
        bounds = Committed(job, markers).json(CALIBRATION_FILE) if by_kind["calibrate"] else None
        if bounds is not None:
            metrics["bounds"] = {classes[int(label)]: bound for label, bound in bounds.items()}
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        hard = [image["key"] for image in form["images"]]
        rows = Dataset.open(job.output.child(KEPT), job.name).rows(["params", "parents"]).to_pylist()
        admitted: list[tuple[int, str]] = [(json.loads(row["params"])["level"], row["parents"][0]) for row in rows]
        for strategy, table in curricula(job, load_profile(job, job.params.profile), hard, admitted).items():
            job.output.write_bytes(f"{FOLDER}/{strategy}.json", curriculum_bytes(table))
        unknown = {name: plan.facts[name] for name in ("unknown_classes",) if name in plan.facts}
        return (
            sizes | {"hard": len(hard), "levels": plan.facts["levels"], "profile": plan.facts["profile"][0]} | unknown
        )
