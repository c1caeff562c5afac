"""`datadream`: few-shot images and a generator -> adapters -> a synthetic training set, scored and filtered (DataDream, ECCV 2024).

One item per variant: `zero_shot` asks the generator as it is, `cls` adapts it to each class, `dset` to all classes at once, `loft` to
each image (LoFT). Units come in waves: captions, where a model is to tell contexts; an adapter's training; images of a class, made
and scored; their admission by scores; figures. A changed threshold makes nothing again, more images only what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Section
from pipelines.errors import UserError
from pipelines.images.params import ImageParams
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.common import (
    METRICS_FILE,
    Names,
    blamed,
    dataset_digest,
    open_part,
    require_synth,
    stage_digest,
    torch_device,
)
from pipelines.stages.fewshot import load_few_shot
from pipelines.stages.generators import folder_digest, generator_digest, generator_model
from pipelines.storage import canonical_json, pretty_json
from synth.datadream.config import AdaptConfig
from synth.datadream.prompts import class_prompt
from synth.filtering.deciding import Thresholds
from synth.settings import Settings

Variant = Literal["zero_shot", "cls", "dset", "loft"]
#: The two datasets of an item: all that was made, and what was admitted.
GENERATED, KEPT = "generated", "kept"


class DatadreamParams(Section):
    """Parameters of `datadream`.

    `adapt` is for cls and dset (with `dset` over it where that is given), `loft` for loft. `generate` says how images are made: 20
    steps of DPM-Solver++ 2M at guidance 2 by default, 50 steps of the model's own scheduler as published. With `teacher` images are
    also scored by the classifier that `squeeze` left; it has seen the whole training set, so a few-shot claim must not filter by it.
    """

    variants: tuple[Variant, ...] = Field(("zero_shot", "cls", "dset"), min_length=1)
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field((16,), min_length=1, description="real images per class")
    loft_shots: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, min_length=1, description="those of loft, which trains an adapter for every real image; null: as shots"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1, description="few-shot seeds")
    images: int = Field(100, ge=1, description="images per class")
    names: Names = Field({}, description="class name -> what prompts call it, else its name as it is")
    domain: str = Field("", description="the word before `photo` in prompts, such as satellite or pet")
    context: str | None = Field(None, description="YAML of contexts by image key ({pose, background}), as BOB has them")
    captioner: str | None = Field(
        None,
        description="a vision-language model, folder or id, that tells the contexts of the few-shot images instead",
    )
    adapt: AdaptConfig = AdaptConfig()
    dset: AdaptConfig | None = None
    loft: AdaptConfig = AdaptConfig.loft()
    generate: Settings = Settings(steps=20, guidance=2.0, scheduler="dpmpp_2m")
    batch_size: int = Field(16, ge=1, description="images made together; part of what fixes the last bits")
    images_per_unit: int = Field(200, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    filters: Thresholds = Thresholds()
    teacher: bool = False
    reference: Literal["train", "val"] | None = Field(
        "val", description="what quality figures compare with; null is off"
    )
    inception: str | None = Field(
        None, description="torchvision's inception_v3 weights, a local file: figures by its features instead of CLIP's"
    )
    image: ImageParams = ImageParams(format="png")

    @model_validator(mode="after")
    def _one_source_of_contexts(self) -> Self:
        if self.context is not None and self.captioner is not None:
            raise ValueError("give context or captioner, not both: an image has one context")
        return self

    def config_of(self, variant: str) -> AdaptConfig:
        """How this variant's adapters are trained."""
        return self.loft if variant == "loft" else (self.dset or self.adapt) if variant == "dset" else self.adapt

    def shots_of(self, variant: str) -> tuple[int, ...]:
        """Real images per class that this variant is made for."""
        return self.loft_shots if variant == "loft" and self.loft_shots else self.shots

    def name_of(self, class_name: str) -> str:
        """What prompts call a class."""
        return self.names.get(class_name, class_name)


class Datadream(Stage[DatadreamParams]):
    """Adapts, generates, scores, filters."""

    name = "datadream"
    version = 2
    summary = "few-shot images + generator -> adapters -> synthetic training sets"
    Params = DatadreamParams
    upstream = ("split", "generator")
    workers = "actors"
    computes = True

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
        return Plan(units, facts={"classes": train.classes, "tags": [tag_of(*one) for one in sets]})

    def _making(self, job: Job[DatadreamParams]) -> dict[str, Any]:
        """Everything but the adapter that decides an image and its scores."""
        params = job.params
        made: dict[str, Any] = {name: generator_digest(job, name) for name in ("text", "clip")}
        made |= {"settings": asdict(params.generate), "batch_size": params.batch_size, "dtype": params.dtype}
        made |= {"domain": params.domain, "image": params.image.model_dump(mode="json")}
        made["teacher"] = stage_digest(job, "squeeze") if params.teacher else None
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

    def _require_texts(self, job: Job[DatadreamParams]) -> None:
        """`UserError` when two classes have the same text to the generator, or to the CLIP that judges its images."""
        from pipelines.stages.scoring import clip_reader, text_readers
        from synth.datadream.texts import require_distinct

        classes = open_part(job, "split", "train").classes
        prompts = [class_prompt(job.params.name_of(name), job.params.domain) for name in classes]
        for readers in (text_readers(job), [clip_reader(job)]):
            with blamed(job.name):
                require_distinct(classes, prompts, readers, "datadream.names")

    def open(self, job: Job[DatadreamParams]) -> Any:
        from pipelines.stages.dreaming import Dreamer

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
        return sizes | {"variant": job.item}


def tag_of(shots: int, seed: int) -> str:
    """What a few-shot set is called in file names."""
    return f"shots{shots:02d}-seed{seed}"


def adapter_folder(tag: str, name: str) -> str:
    """Where an adapter lies in an item's output."""
    return f"adapters/{tag}/{name}"


def contexts_file(tag: str) -> str:
    """Where the contexts that a model told lie in an item's output."""
    return f"contexts/{tag}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _file_digest(path: str, key: str = "context") -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"datadream.{key}: no file {path}; give one that is there, or leave it out")
    return hashlib.sha256(file.read_bytes()).hexdigest()
