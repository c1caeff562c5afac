"""`datadream`: few-shot images and a generator -> adapters -> a synthetic training set, scored and filtered (DataDream, ECCV 2024).

One item per variant: `zero_shot` asks the generator as it is, `cls` adapts it to each class, `dset` to all classes at once, `loft` to
each image (LoFT). Units come in waves: captions, where a model is to tell contexts; an adapter's training; images of a class, made
and scored; their admission by scores; figures. A changed threshold makes no image again; more images leave the blocks of
`images_per_unit` that are full as they are.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipelines.artifacts.adapters import tag_of
from pipelines.artifacts.datasets import METRICS_FILE, open_part
from pipelines.artifacts.families import knowledge_sentence, unknown_classes
from pipelines.artifacts.generators import family_of, generator_model
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import require_synth, torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.datadream.params import GENERATED, KEPT, DatadreamParams
from pipelines.stages.datadream.payloads import PAYLOADS
from pipelines.stages.datadream.planning import ItemPlan
from pipelines.storage import pretty_json
from synth.datadream.prompts import class_prompt


class Datadream(Stage[DatadreamParams]):
    """Adapts, generates, scores, filters."""

    name = "datadream"
    version = 2
    summary = "few-shot images + generator -> adapters -> synthetic training sets"
    adds = "the images of the variant {item}"
    optional = True
    extras = ("synth",)
    Params = DatadreamParams
    upstream = ("split", "generator")
    code = ("augment", "distill", "synth", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True
    counted = KEPT

    def items(self, params: DatadreamParams) -> tuple[str, ...]:
        return params.variants

    def reads(self, params: DatadreamParams) -> dict[str, str]:
        named = {"context": params.context, "captioner": params.captioner, "inception": params.inception}
        return {f"datadream.{parameter}": path for parameter, path in named.items() if path is not None}

    def plan(self, job: Job[DatadreamParams]) -> Plan:
        planned = ItemPlan(job)
        units = [unit for shots, seed in planned.sets for unit in planned.units(shots, seed)]
        facts: dict[str, Any] = {"classes": planned.classes, "tags": [tag_of(*one) for one in planned.sets]}
        if unknown := self._unknown(job):
            facts["unknown_classes"] = unknown
        return Plan(units, facts=facts)

    def check(self, job: Job[DatadreamParams]) -> None:
        require_synth("datadream")
        torch_device(job)
        generator_model(job, "text")
        self._require_texts(job)
        if (family := family_of(job)) is not None and (unknown := self._unknown(job)):
            warnings.warn(knowledge_sentence(family, unknown, len(self._asked_for(job))), stacklevel=2)

    def _unknown(self, job: Job[DatadreamParams]) -> list[str]:
        """The classes that a small family was never shown; of pretrained models nobody knows."""
        family = family_of(job)
        return [] if family is None else unknown_classes(family, self._asked_for(job))

    def _asked_for(self, job: Job[DatadreamParams]) -> dict[str, str]:
        """What prompts call each class."""
        return {name: job.params.name_of(name) for name in open_part(job, "split", "train").classes}

    def _require_texts(self, job: Job[DatadreamParams]) -> None:
        """`UserError` when two classes have the same text to the generator, or to the CLIP that judges its images."""
        from pipelines.artifacts.reading_texts import clip_reader, text_readers
        from synth.datadream.texts import require_distinct

        classes = open_part(job, "split", "train").classes
        prompts = [class_prompt(job.params.name_of(name), job.params.domain) for name in classes]
        for readers in (text_readers(job), [clip_reader(job)]):
            require_distinct(classes, prompts, readers, "datadream.names")

    def subject(self, unit: Unit, job: Job[DatadreamParams]) -> str:
        return {"caption": "datadream.captioner", "admit": "datadream.filters"}.get(unit.kind, job.name)

    def open(self, job: Job[DatadreamParams]) -> Any:
        from pipelines.stages.datadream.worker import Dreamer

        return Dreamer(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[DatadreamParams]) -> None:
        getattr(worker, unit.kind)(PAYLOADS[unit.kind].from_json(unit.payload), output)

    def finish(self, job: Job[DatadreamParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        extra = {"name": f"datadream_{job.item}", "description": f"synthetic images, {job.item}"}
        sizes = publish_datasets(job.output, markers, plan.facts["classes"], extra, [GENERATED, KEPT])
        metrics: dict[str, Any] = {}
        for tag in plan.facts["tags"]:
            of_tag: dict[str, list[Marker]] = {kind: [] for kind in PAYLOADS}
            for unit, marker in zip(plan.units, markers, strict=True):
                if unit.payload["tag"] == tag:
                    of_tag[unit.kind].append(marker)
            metrics[tag] = _amounts(of_tag["generate"], of_tag["adapt"], of_tag["admit"])
            if of_tag["quality"]:
                metrics[tag]["quality"] = of_tag["quality"][0].summary
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        unknown = {name: plan.facts[name] for name in ("unknown_classes",) if name in plan.facts}
        return sizes | {"variant": job.item} | unknown


def _amounts(generated: Sequence[Marker], adapted: Sequence[Marker], admitted: Sequence[Marker]) -> dict[str, Any]:
    """Images of a few-shot set by what became of them, and what its adapters weigh."""
    reasons: Counter[str] = Counter()
    for marker in admitted:
        for reason, count in marker.reasons.items():
            reasons[reason.split(":")[-1]] += count
    return {
        "images": sum(sum(marker.counts.values()) for marker in admitted),
        "kept": sum(marker.counts.get("kept", 0) for marker in admitted),
        "black": sum(marker.summary["black"] for marker in generated),
        "dropped": dict(sorted(reasons.items())),
        "adapters": {
            "adapters": sum(marker.summary["adapters"] for marker in adapted),
            "bytes": sum(marker.summary["bytes"] for marker in adapted),
        },
    }
