"""`generator`: the models that make images, as folders that diffusers and transformers load, looked at before they are used.

The embedded family is unpacked, or trained anew from scenes and class images (its class model from class images alone), or
pretrained models are named where they lie.
Then contact sheets are made, and the class model is asked for images that the teacher of `squeeze` has to recognise.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.artifacts.datasets import METRICS_FILE, dataset_digest, open_part, stage_digest
from pipelines.artifacts.families import (
    FAMILY_FILE,
    described,
    embedded_family,
    family_files,
    folder_bytes,
    knowledge_sentence,
    load_family,
    sums_digest,
    unknown_classes,
)
from pipelines.artifacts.generators import GENERATOR_FILE, ROLES, Role, class_labels, made_folder, reference
from pipelines.artifacts.scenes import origins, require_no_test_image, require_size, scenes_dataset, scenes_stage
from pipelines.errors import UserError
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import require_synth, torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.dataset import Dataset
from pipelines.sources.composing.words import noun_of
from pipelines.stages.generator.params import GeneratorParams
from pipelines.stages.generator.training import PARTS_FOLDER, train_part, trained_family, trained_parts
from pipelines.stages.generator.worker import Looking, look, recognise, recognised, teacher_classes
from pipelines.storage import Storage, canonical_json, pretty_json
from synth.family.config import Family, class_prompt

#: Images of one unit of the check.
CHECK_BLOCK = 250


class GeneratorStage(Stage[GeneratorParams]):
    """Makes, or names, the generators."""

    name = "generator"
    version = 2
    summary = "embedded, trained or pretrained models -> generators as diffusers has them, looked at"
    adds = "samples of the generator, and whether the teacher recognises them"
    optional = True
    extras = ("synth",)
    Params = GeneratorParams
    upstream = ("split", "squeeze")
    code = ("augment", "distill", "synth", "pipelines.artifacts", "pipelines.images", "pipelines.loaders")
    workers = "actors"
    computes = True

    def inputs(self, job: Job[GeneratorParams]) -> Sequence[str]:
        stage = scenes_stage(job.params.train.scenes or "")
        return (*self.upstream, stage) if stage else self.upstream

    def needs(self, job: Job[GeneratorParams]) -> Sequence[str]:
        """Without a teacher nothing is checked, and only a family that is trained needs images."""
        return [name for name in self.inputs(job) if name != "squeeze"] if job.params.source == "train" else ()

    def reads(self, params: GeneratorParams) -> dict[str, str]:
        named = {f"model.{role}": getattr(params.model, role) for role in ROLES}
        scenes = params.train.scenes
        named |= {"folder": params.folder, "train.scenes": None if scenes_stage(scenes or "") else scenes}
        return {f"generator.{parameter}": path for parameter, path in named.items() if path is not None}

    def embedded(self, params: GeneratorParams) -> tuple[str, ...]:
        return ("generator",) if params.source == "embedded" and params.folder is None else ()

    def plan(self, job: Job[GeneratorParams]) -> Plan:
        units = {"embedded": _embedded, "train": _trained, "model": _named}[job.params.source](job)
        models, wave = units[-1].payload, units[-1].wave + 1
        roles = _roles(job)
        prompts = _prompts(job) if job.params.source == "model" else None
        for role in ("text", "classes"):
            wanted = role in roles and (role == "classes" or job.params.source != "model" or prompts)
            if job.params.sheet_images and wanted:
                about: dict[str, Any] = {"role": role, "made": models, "images": job.params.sheet_images}
                about |= {"settings": _plain(getattr(job.params, role)), "prompts": prompts if role == "text" else None}
                units.append(Unit(f"sheet-{role}", about, wave, "sheet"))
        why_not = _why_no_check(job) if "classes" in roles else "there is no class model"
        if why_not is None:
            about = {"made": models, "teacher": stage_digest(job, "squeeze"), "settings": _plain(job.params.classes)}
            for first in range(0, job.params.check_images, CHECK_BLOCK):
                block = {"first": first, "images": min(CHECK_BLOCK, job.params.check_images - first)}
                units.append(Unit(f"check-{first // CHECK_BLOCK:04d}", about | block, wave, "check"))
        facts: dict[str, Any] = {"source": job.params.source, "not_checked": why_not}
        family, unknown = _unknown(job)
        if family is not None and unknown:
            facts |= {"knows": list(family.classes), "unknown_classes": unknown}
        return Plan(units, facts=facts)

    def check(self, job: Job[GeneratorParams]) -> None:
        require_synth("generator")
        torch_device(job)
        if not job.output.is_local:
            raise UserError(
                f"{job.output.url} is not a local folder, and models are loaded from one; choose another --data"
            )
        if job.params.source == "embedded":
            family_files(_family_folder(job))
            family, unknown = _unknown(job)
            if family is not None and unknown:
                warnings.warn(knowledge_sentence(family, unknown, len(_asked_for(job))), stacklevel=2)
        if job.params.source == "train":
            scenes, train = _train_scenes(job), open_part(job, "split", "train")
            if scenes is not None:
                require_size(scenes, job.params.train.shape.size)
            if scenes is not None and scenes.classes != train.classes:
                raise UserError(
                    f"the classes of {scenes.storage.url} are not those of {train.storage.url}: {scenes.classes[:3]}... against "
                    f"{train.classes[:3]}...; compose the scenes from the same classes"
                )
            require_no_test_image(job, scenes)

    def open(self, job: Job[GeneratorParams]) -> Looking:
        return Looking(job)

    def run(self, unit: Unit, worker: Looking, output: UnitOutput, job: Job[GeneratorParams]) -> None:
        payload = unit.payload
        match unit.kind:
            case "train":
                train_part(job, payload["part"], output)
            case "family":
                _unpack(job, output)
            case "sheet":
                prompts = payload["prompts"] or (_made_prompts(job) if payload["role"] == "text" else None)
                look(payload["role"], prompts, worker, output, payload["images"])
            case "check":
                recognise(unit.name, payload["first"], payload["images"], worker, output)

    def subject(self, unit: Unit, job: Job[GeneratorParams]) -> str:
        match unit.kind:
            case "train":
                return f"generator.train.{unit.payload['part']}"
            case "sheet":
                return f"generator.{unit.payload['role']}"
            case "check":
                return "generator.classes"
        return job.name

    def finish(self, job: Job[GeneratorParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        if job.params.source == "model":
            entries = next(unit.payload["models"] for unit in plan.units if unit.kind == "models")
        else:
            family = next(marker for marker in markers if marker.kind == "family")
            entries = {role: made_folder(job.output, role, family.files).to_json() for role in _roles(job)}
            entries |= dict.fromkeys(set(ROLES) - set(entries))
        job.output.write_bytes(GENERATOR_FILE, pretty_json(entries))
        tables = [file.path for marker in markers if marker.kind == "check" for file in marker.files]
        metrics = recognised(job, tables) if tables else {"images": 0, "note": plan.facts["not_checked"]}
        if job.params.source == "train":
            scenes = _train_scenes(job)
            metrics["trained_on"] = {"class_images": len(open_part(job, "split", "train"))}
            if scenes is not None:
                metrics["trained_on"] |= {"scenes": len(scenes), "scene_origins": origins(job, scenes)}
        metrics |= {name: plan.facts[name] for name in ("knows", "unknown_classes") if name in plan.facts}
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        return {"source": job.params.source, "top1": metrics.get("top1"), "ratio": metrics.get("ratio")}


def _family_folder(job: Job[GeneratorParams]) -> Storage:
    return embedded_family() if job.params.folder is None else Storage(job.params.folder)


def _asked_for(job: Job[GeneratorParams]) -> dict[str, str]:
    """The classes of split/train and the words for them; none where there is no split."""
    if not job.input("split").exists(STAGE_FILE):
        return {}
    return {name: noun_of(name) for name in open_part(job, "split", "train").classes}


def _unknown(job: Job[GeneratorParams]) -> tuple[Family | None, list[str]]:
    """A family that is taken as it is, None from other sources, and the classes of split/train that it was never shown."""
    if job.params.source != "embedded":
        return None, []
    folder = _family_folder(job)
    sums_digest(folder)
    family = described(folder.read_bytes(FAMILY_FILE), folder.url)
    return family, unknown_classes(family, _asked_for(job))


def _embedded(job: Job[GeneratorParams]) -> list[Unit]:
    return [Unit("family", {"sums": sums_digest(_family_folder(job)), "dtype": job.params.dtype}, kind="family")]


def _named(job: Job[GeneratorParams]) -> list[Unit]:
    """One unit, which does nothing: a reference is resolved by the plan."""
    named = {role: getattr(job.params.model, role) for role in ROLES}
    references = {role: None if model is None else reference(model, role).to_json() for role, model in named.items()}
    return [Unit("models", {"models": references}, kind="models")]


def _trained(job: Job[GeneratorParams]) -> list[Unit]:
    train, scenes = job.params.train, _train_scenes(job)
    data = {"shape": _plain(train.shape), "train": dataset_digest(open_part(job, "split", "train"))}
    data |= {} if scenes is None else {"scenes": dataset_digest(scenes)}
    payloads: dict[str, dict[str, Any]] = {}
    for part in trained_parts(job):
        payloads[part] = {"part": part, "budget": _plain(getattr(train, part)), **data}
        if part in ("unet", "dit"):
            # Both denoisers take their family's words and scale from the first wave.
            payloads[part]["after"] = {name: _digest(payloads[name]) for name in ("vae", "clip") if name in payloads}
    units = [Unit(f"train-{part}", payload, int("after" in payload), "train") for part, payload in payloads.items()]
    parts = {"parts": {part: _digest(payload) for part, payload in payloads.items()}, "dtype": job.params.dtype}
    return [*units, Unit("family", parts, 2, "family")]


def _unpack(job: Job[GeneratorParams], output: UnitOutput) -> None:
    """Weights to folders."""
    import torch

    from synth.family.assemble import assemble

    if job.params.source == "train":
        files, where = trained_family(job), job.output.url
        for name in set(files) - set(job.output.child(PARTS_FOLDER).list()):
            output.write(f"{PARTS_FOLDER}/{name}", files[name])
    else:
        files, where = family_files(_family_folder(job)), _family_folder(job).url
    stored = load_family(files, where)
    with tempfile.TemporaryDirectory() as folder:
        assemble(stored.family, stored.parts, stored.load_tokenizer(), Path(folder), getattr(torch, job.params.dtype))
        for name, data in folder_bytes(Path(folder)).items():
            output.write(name, data)
    output.write(FAMILY_FILE, files[FAMILY_FILE])


def _train_scenes(job: Job[GeneratorParams]) -> Dataset | None:
    named = job.params.train.scenes
    return None if named is None else scenes_dataset(job, named)


def _roles(job: Job[GeneratorParams]) -> list[Role]:
    """What the models can do together."""
    match job.params.source:
        case "model":
            able: Sequence[str] = [role for role in ROLES if getattr(job.params.model, role)]
        case "train":
            able = ROLES if job.params.train.scenes is not None else ("classes",)
        case "embedded":
            folder = _family_folder(job)
            able = described(folder.read_bytes(FAMILY_FILE), folder.url).roles
    return [role for role in ROLES if role in able]


def _prompts(job: Job[GeneratorParams]) -> list[str]:
    """A prompt for each class of split/train; none where there is no split."""
    return [class_prompt(noun) for noun in _asked_for(job).values()]


def _made_prompts(job: Job[GeneratorParams]) -> list[str]:
    return described(Committed(job).read(FAMILY_FILE), job.output.url).prompts


def _why_no_check(job: Job[GeneratorParams]) -> str | None:
    """Why the teacher cannot look at the class model's images, None when it can."""
    params, known = job.params, teacher_classes(job)
    if params.check_images == 0:
        return "generator.check_images is 0"
    if known is None:
        return "there is no teacher: limbeck run squeeze"
    if params.source == "train":
        classes: list[str] | None = open_part(job, "split", "train").classes
    elif params.source == "embedded":
        folder = _family_folder(job)
        classes = list(described(folder.read_bytes(FAMILY_FILE), folder.url).classes)
    else:
        assert params.model.classes is not None
        classes = class_labels(params.model.classes)
    return None if classes == known else "the teacher knows other classes, or has them in another order"


def _plain(value: Any) -> Any:
    """A dataclass of the method packages as JSON."""
    return json.loads(json.dumps(asdict(value)))


def _digest(payload: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(payload)).hexdigest()[:32]
