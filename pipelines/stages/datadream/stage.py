"""`datadream`: few-shot images and a generator -> adapters -> a synthetic training set, scored and filtered (DataDream, ECCV 2024).

One item per variant: `zero_shot` asks the generator as it is, `cls` adapts it to each class, `dset` to all classes at once, `loft` to
each image (LoFT). Units come in waves: captions, where a model is to tell contexts; an adapter's training; images of a class, made
and scored; their admission by scores; figures. A changed threshold makes nothing again, more images only what is new.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.artifacts.datasets import METRICS_FILE, dataset_digest, open_part, stage_digest
from pipelines.artifacts.families import knowledge_sentence, unknown_classes
from pipelines.artifacts.few_shot import load_few_shot
from pipelines.artifacts.generators import family_of, folder_digest, generator_digest, generator_model
from pipelines.errors import UserError
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import require_synth, torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.datadream.params import GENERATED, KEPT, DatadreamParams, tag_of
from pipelines.storage import canonical_json, pretty_json
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
    metrics = (METRICS_FILE,)
    counted = KEPT

    def items(self, params: DatadreamParams) -> tuple[str, ...]:
        return params.variants

    def reads(self, params: DatadreamParams) -> dict[str, str]:
        named = {"context": params.context, "captioner": params.captioner, "inception": params.inception}
        return {f"datadream.{parameter}": path for parameter, path in named.items() if path is not None}

    def plan(self, job: Job[DatadreamParams]) -> Plan:
        train, params = open_part(job, "split", "train"), job.params
        if unknown := sorted(set(params.names) - set(train.classes)):
            raise UserError(
                f"datadream.names has {unknown[0]!r}, which is no class; there is {', '.join(train.classes)}"
            )
        names = [params.name_of(name) for name in train.classes]
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise UserError(f"two classes are called {twice[0]!r} in prompts; give each its own in datadream.names")
        rows = train.rows(["key", "pixel_sha256"])
        pixels = dict(zip(rows["key"].to_pylist(), rows["pixel_sha256"].to_pylist(), strict=True))
        made = self._making(job)
        units: list[Unit] = []
        sets = (
            [(0, 0)]
            if job.item == "zero_shot"
            else [(k, seed) for k in params.shots_of(job.item) for seed in params.seeds]
        )
        for shots, seed in sets:
            tag, before = tag_of(shots, seed), len(units)
            few = {} if shots == 0 else load_few_shot(job, shots, seed)
            adapting: dict[int, dict[str, Any]] = {}
            contexts = self._contexts(job, few, pixels, tag, units)
            if shots:
                adapting = self._adapting(job, few, pixels, tag, contexts, units)
            for label, class_name in enumerate(train.classes):
                parts = []
                for first in range(0, params.images, params.images_per_unit):
                    count = min(params.images_per_unit, params.images - first)
                    told = {"label": label, "class": class_name, "prompt_name": params.name_of(class_name)}
                    told |= {"shots": shots, "few_shot_seed": seed, "first": first, "count": count}
                    told |= {
                        "made": made,
                        "contexts": contexts,
                        "adapter": adapting.get(label),
                        "few_shot": few.get(label, []),
                    }
                    parts.append(
                        Unit(f"generated/{tag}-c{label:05d}-{first:06d}", {"kind": "generate", **told}, wave=2)
                    )
                units += parts
                payload = {"kind": "admit", "label": label, "of": [_digest(part.payload) for part in parts]}
                payload |= {"thresholds": asdict(params.filters), "stems": [part.name.split("/")[1] for part in parts]}
                units.append(Unit(f"kept/{tag}-c{label:05d}", payload, wave=3))
            if params.reference:
                mine = units[before:]
                against: dict[str, Any] = {
                    "part": params.reference,
                    "digest": dataset_digest(open_part(job, "split", params.reference)),
                }
                against["inception"] = None if params.inception is None else _file_digest(params.inception, "inception")
                stems = {
                    part: [u.name.split("/")[1] for u in mine if u.name.startswith(part)] for part in (GENERATED, KEPT)
                }
                payload = {"kind": "quality", "against": against, "of": _digest([unit.payload for unit in mine])}
                units.append(Unit(f"quality/{tag}", {**payload, **stems, "clip": made["clip"]}, wave=4))
        facts: dict[str, Any] = {"classes": train.classes, "tags": [tag_of(*one) for one in sets]}
        if unknown := self._unknown(job):
            facts["unknown_classes"] = unknown
        return Plan(units, facts=facts)

    def _making(self, job: Job[DatadreamParams]) -> dict[str, Any]:
        """Everything but the adapter that decides an image and its scores."""
        params = job.params
        made: dict[str, Any] = {name: generator_digest(job, name) for name in ("text", "clip")}
        made |= {"settings": asdict(params.generate), "batch_size": params.batch_size, "dtype": params.dtype}
        made |= {"domain": params.domain, "image": params.image.model_dump(mode="json")}
        made["teacher"] = stage_digest(job, "squeeze") if params.teacher else None
        made |= {"captions": True} if params.captions else {}
        return made

    def _contexts(
        self, job: Job[DatadreamParams], few: dict[int, list[str]], pixels: dict[str, str], tag: str, units: list[Unit]
    ) -> str | None:
        """What decides the contexts that prompts are told, if any; where a model tells them, the unit that asks it."""
        if job.params.context is not None:
            return _file_digest(job.params.context)
        if job.params.captioner is None or not few:
            return None
        keys = [key for label in sorted(few) for key in few[label]]
        model = job.params.captioner
        folder = Path(model).expanduser()
        named = folder_digest(folder) if folder.is_dir() else model
        payload = {
            "kind": "caption",
            "keys": keys,
            "pixels": _digest([pixels[key] for key in keys]),
            "captioner": named,
        }
        units.append(Unit(f"contexts/{tag}", payload))
        return _digest(payload)

    def _adapting(
        self,
        job: Job[DatadreamParams],
        few: dict[int, list[str]],
        pixels: dict[str, str],
        tag: str,
        contexts: str | None,
        units: list[Unit],
    ) -> dict[int, dict[str, Any]]:
        """Add the units that train adapters; what decides the adapter of each class."""
        params, variant = job.params, job.item
        common: dict[str, Any] = {
            "kind": "adapt",
            "variant": variant,
            "config": asdict(params.config_of(variant)),
            "tag": tag,
        }
        common |= {"text": generator_digest(job, "text"), "dtype": params.dtype, "domain": params.domain}
        common["contexts"] = contexts
        groups = {0: sorted(few)} if variant == "dset" else {label: [label] for label in sorted(few)}
        adapting: dict[int, dict[str, Any]] = {}
        for first, labels in groups.items():
            images = {str(label): few[label] for label in labels}
            shown = _digest([pixels[key] for label in labels for key in few[label]])
            names = {str(label): params.name_of(open_part(job, "split", "train").classes[label]) for label in labels}
            payload = {**common, "images": images, "names": names, "pixels": shown}
            units.append(Unit(f"adapters/{tag}-{'dset' if variant == 'dset' else f'c{first:05d}'}", payload, wave=1))
            for label in labels:
                adapting[label] = {"unit": units[-1].name, "of": _digest(payload)}
        return adapting

    def identity_params(self, job: Job[DatadreamParams]) -> dict[str, Any]:
        """Payloads hold what decides each unit, so that another threshold or more images leave the rest alone."""
        return {"seed": job.run.seed, "threads": job.run.threads}

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
        return {"caption": "datadream.captioner", "admit": "datadream.filters"}.get(unit.payload["kind"], job.name)

    def open(self, job: Job[DatadreamParams]) -> Any:
        from pipelines.stages.datadream.worker import Dreamer

        return Dreamer(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[DatadreamParams]) -> None:
        getattr(worker, unit.payload["kind"])(unit.payload, output)

    def finish(self, job: Job[DatadreamParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        extra = {"name": f"datadream_{job.item}", "description": f"synthetic images, {job.item}"}
        sizes = publish_datasets(job.output, markers, plan.facts["classes"], extra, [GENERATED, KEPT])
        metrics: dict[str, Any] = {}
        for tag in plan.facts["tags"]:
            admitted = [m for m in markers if m.name.startswith(f"kept/{tag}-")]
            reasons: dict[str, int] = {}
            for marker in admitted:
                for reason, count in marker.reasons.items():
                    name = reason.split(":")[-1]
                    reasons[name] = reasons.get(name, 0) + count
            kept = sum(m.counts.get("kept", 0) for m in admitted)
            black = sum(m.summary["black"] for m in markers if m.name.startswith(f"{GENERATED}/{tag}-"))
            made = sum(sum(m.counts.values()) for m in admitted)
            trained = [m for m in markers if m.name.startswith(f"adapters/{tag}-")]
            adapters = {
                "adapters": sum(m.summary["adapters"] for m in trained),
                "bytes": sum(m.summary["bytes"] for m in trained),
            }
            metrics[tag] = {
                "images": made,
                "kept": kept,
                "black": black,
                "dropped": dict(sorted(reasons.items())),
                "adapters": adapters,
            }
            quality = [m for m in markers if m.name == f"quality/{tag}"]
            if quality:
                metrics[tag]["quality"] = quality[0].summary
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        unknown = {name: plan.facts[name] for name in ("unknown_classes",) if name in plan.facts}
        return sizes | {"variant": job.item} | unknown


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _file_digest(path: str, key: str = "context") -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"datadream.{key}: no file {path}; give one that is there, or leave it out")
    return hashlib.sha256(file.read_bytes()).hexdigest()
