"""The worker of `discl`: judges and ranks images, takes bounds from real ones, makes spectra, admits them. What to do is in the plan.

The generator, the CLIP that scores and the profile live as long as the worker.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pipelines.artifacts.adapters import running
from pipelines.artifacts.generators import generator_model, generator_of
from pipelines.artifacts.profiles import Profile, load_profile, profile_images
from pipelines.artifacts.scoring import each, load_clip
from pipelines.artifacts.teacher import Teacher, load_teacher
from pipelines.images.made import synthetic_sample
from pipelines.outcomes import dropped, failed
from pipelines.runtime.checkpoints import Checkpoint, run_resumably
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.units import UnitOutput
from pipelines.seeds import hash_ranks
from pipelines.shards.keys import derived_key
from pipelines.shards.sample import Sample
from pipelines.stages.discl.hard import worst
from pipelines.stages.discl.judging import every_measure, judged, judged_file
from pipelines.stages.discl.making import Source, SpectrumRun
from pipelines.stages.discl.params import CALIBRATION_FILE, GENERATED, HARD_FILE, KEPT, DisclParams
from pipelines.stages.discl.payloads import Admit, Calibrate, Judge, Rank, Spread
from pipelines.stages.discl.prompting import load_prompts
from pipelines.storage import canonical_json, pretty_json
from synth.backends import GeneratorOptions, load_backend
from synth.discl.admission import Admission, calibrated
from synth.discl.retries import Cell, Try
from synth.discl.scoring import spectrum_scores, text_cosine
from synth.discl.spectrum import SpectrumSampler
from synth.filtering.scoring import artefacts
from synth.quality.arrays import resized
from synth.quality.features import ClipFeatures

#: Real images of a class that its bound is taken from at the most.
REAL_IMAGES = 100
#: Sidecar columns of a generated image that stay true of its copy.
CARRIED = (
    *("source", "label", "label_name", "width", "height", "bytes", "pixel_sha256", "phash", "parents"),
    *("op", "params", "model_id"),
)


class SpectrumWorker:
    """One worker. `judge`, `rank`, `calibrate`, `spread` and `admit` do the units of these kinds."""

    def __init__(self, job: Job[DisclParams]) -> None:
        self.job, self.params = job, job.params
        self.device = torch_device(job)
        self._committed = Committed(job)

    @cached_property
    def profile(self) -> Profile:
        """The training set."""
        return load_profile(self.job, self.params.profile)

    @cached_property
    def _label_of(self) -> dict[str, int]:
        return dict(zip(self.profile.keys, self.profile.labels.tolist(), strict=True))

    # which images are hard

    def judge(self, payload: Judge, output: UnitOutput) -> None:
        """Judge the images of a fold by a network that has not seen them."""
        output.write(judged_file(output.unit.name), pretty_json(judged(self.job, self.profile, payload, output)))

    def rank(self, payload: Rank, output: UnitOutput) -> None:
        """Choose the images that their judges are least sure of."""
        forms = [self._committed.json(judged_file(unit)) for unit in payload.judged]
        chosen = worst(self.profile, every_measure(forms, payload.measure), payload.measure, payload.count)
        output.write(HARD_FILE, pretty_json({"rule": "quality", "images": [one.to_json() for one in chosen]}))

    # scoring

    @cached_property
    def _clip(self) -> tuple[ClipFeatures, Any]:
        model, tokenizer = load_clip(self.job)
        return ClipFeatures(model.to(self.device)), tokenizer

    @cached_property
    def _texts(self) -> torch.Tensor:
        """Features (classes, d) of the classes' texts."""
        clip, tokenizer = self._clip
        book, names = self._prompts, self.profile.classes
        return clip.texts(tokenizer, [book.class_text(self.params.name_of(name)) for name in names])

    @cached_property
    def _prompts(self) -> Any:
        return load_prompts(self.params, self.profile.classes, [])

    @cached_property
    def _teacher(self) -> Teacher:
        return load_teacher(self.job, self.device)

    def calibrate(self, payload: Calibrate, output: UnitOutput) -> None:
        """Score real images of each class against its text; its bound is what all but a share of them reach."""
        clip, bounds = self._clip[0], {}
        for place, label in enumerate(payload.labels):
            keys = [key for key, own in self._label_of.items() if own == label]
            order = np.argsort(hash_ranks(keys, str(self.job.seed("", "calibration"))), kind="stable")[:REAL_IMAGES]
            features = each(clip, self._real([keys[place] for place in order]), self.device)
            scores = text_cosine(features, self._texts, [label] * len(features))
            bounds[str(label)] = round(calibrated(scores, payload.share), 6)
            output.tick(place + 1, len(payload.labels), "bounds")
        output.write(CALIBRATION_FILE, pretty_json(bounds))

    def _bounds(self, fixed: float | None) -> dict[int, float]:
        """The text cosine that images of each class should reach."""
        if fixed is not None:
            return dict.fromkeys(range(len(self.profile.classes)), fixed)
        return {int(label): bound for label, bound in self._committed.json(CALIBRATION_FILE).items()}

    def _real(self, keys: Sequence[str]) -> list[torch.Tensor]:
        """(3, h, w) float32 in [0, 1] of images of the profile, spoilt where it says so."""
        images = profile_images(self.job, self.profile, keys)
        return [torch.from_numpy(np.ascontiguousarray(image)).float() / 255 for image in images]

    # spectra

    @cached_property
    def _sampler(self) -> SpectrumSampler:
        generator = generator_of(self.job, "text")
        device, params = str(self.device), self.params
        model = generator_model(self.job, "text")
        with method_errors("generator"):
            backend: Any = load_backend(
                GeneratorOptions(model, revision=generator.revision, dtype=params.dtype, device=device)
            )
        refiner: Any = None
        if params.refiner is not None:
            with method_errors("discl.refiner"):
                refiner = load_backend(GeneratorOptions(params.refiner, dtype=params.dtype, device=device))
        seed = self.job.seed("", "generate")
        return SpectrumSampler(
            backend,
            params.generate,
            run_seed=seed,
            batch_size=params.batch_size,
            refiner=refiner,
            starts=params.starts,
        )

    def spread(self, payload: Spread, output: UnitOutput) -> None:
        """Make a block's spectra, score them as tensors, store the best try of every cell."""
        keys = list(payload.keys)
        if not keys:
            images = self._committed.json(HARD_FILE)["images"]
            keys = [one["key"] for one in images[payload.first : payload.first + payload.count]]
        sources = [Source(key, self._label_of[key], image) for key, image in zip(keys, self._real(keys), strict=True)]
        own = each(self._clip[0], [source.pixels for source in sources], self.device)

        def score(
            images: torch.Tensor, labels: Sequence[int], places: Sequence[int]
        ) -> tuple[list[dict[str, Any]], torch.Tensor]:
            features = self._clip[0](images)
            logits = self._teacher_logits(images) if self.params.teacher else None
            columns = spectrum_scores(features, self._texts, labels, own, places, logits) | artefacts(images)
            return [{name: column[row] for name, column in columns.items()} for row in range(len(images))], features

        run_seed = self.job.seed("", "prompts")

        def prompt(label: int, one: Try) -> str:
            name = self.params.name_of(self.profile.classes[label])
            return str(self._prompts.choose(name, one.key, one.ordinal, one.attempt, run_seed))

        making, bounds = payload.making, self._bounds(payload.making.bound)
        run = SpectrumRun(self._sampler, sources, making.levels, making.seeds, bounds, making.tries, score, prompt)
        adapter = payload.adapter
        with running(self._sampler.backend, {} if adapter is None else {adapter.name: adapter.read(self.job)}):
            run_resumably(run, output, Checkpoint(output, "spectra"))
        counts: dict[str, dict[str, list[float]]] = {}
        with output.shard(GENERATED) as shard:
            for cell in run.cells:
                sample, row = self._row(cell, run, bounds, payload)
                level = counts.setdefault(str(cell.level), {})
                tally = level.setdefault(str(self._label_of[cell.key]), [0, 0, 0.0, 0.0])
                tally[1] += len(run.scores[cell])
                if sample is None:
                    shard.reject(failed(run.best[cell]["fault"]), row)
                    continue
                shard.keep(sample)
                scores = run.best[cell]["scores"]
                tally[0] += 1
                tally[2] = round(tally[2] + scores["text_cosine"], 6)
                tally[3] = round(tally[3] + scores["source_cosine"], 6)
        output.summary = {"cells": counts}

    def _teacher_logits(self, images: torch.Tensor) -> torch.Tensor:
        teacher = self._teacher
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (teacher.mean, teacher.std))
        side = (teacher.image_size, teacher.image_size)
        with torch.no_grad():
            logits: torch.Tensor = teacher.model((resized(images.to(self.device), side) - mean) / std)
        return logits

    def _row(
        self, cell: Cell, run: SpectrumRun, bounds: dict[int, float], payload: Spread
    ) -> tuple[Sample | None, dict[str, Any]]:
        """The sample of a cell, None where every try failed, and its row."""
        best, label = run.best[cell], self._label_of[cell.key]
        class_name, settings = self.profile.classes[label], self.params.generate
        key = derived_key(derived_key(cell.key, "l", cell.level, 3), "s", cell.ordinal, 3)
        facts: dict[str, Any] = {"level": cell.level, "strength": 100 - cell.level, "ordinal": cell.ordinal}
        facts |= {"attempt": best["attempt"], "tries": len(run.scores[cell]), "prompt": best["prompt"]}
        facts |= {"steps": settings.steps, "guidance": settings.guidance, "scheduler": settings.scheduler}
        facts |= {"bound": bounds[label], "scores": best.get("scores", {})}
        if payload.adapter is not None:
            facts["adapter"] = payload.adapter.sha256
        row = {
            "source": f"discl {cell.key} level {cell.level} {cell.ordinal}",
            "parents": [cell.key],
            "op": "discl",
            "params": canonical_json(facts).decode(),
            "model_id": payload.making.text,
        }
        if "fault" in best:
            return None, {**row, "key": key, "label": label, "label_name": class_name}
        features = io.BytesIO()
        np.save(features, best["features"].numpy())
        sample = synthetic_sample(
            key, best["pixels"].numpy(), self.params.image, (label, class_name), row, facts, features.getvalue()
        )
        return sample, row

    # admission

    def admit(self, payload: Admit, output: UnitOutput) -> None:
        """Judge a unit's images by their stored scores; those that stay are copied, byte for byte, the others are rows."""
        bounds = self._bounds(payload.bound) if payload.filters is None else {}
        generated = self._committed.shard(payload.spread, GENERATED)
        counts: dict[str, dict[str, int]] = {}
        with output.shard(KEPT) as admitted:
            for row in generated.sidecar(0).to_pylist():
                kept = {name: row[name] for name in CARRIED}
                if row["outcome"] == "failed":
                    admitted.reject(failed(row["reason"]), {**kept, "key": row["key"]})
                    continue
                facts = json.loads(row["params"])
                rule = (
                    Admission(**payload.filters)
                    if payload.filters is not None
                    else Admission(min_text_cosine=bounds[row["label"]])
                )
                reason = rule.reason(facts["scores"])
                if reason is not None:
                    admitted.reject(dropped(reason), {**kept, "key": row["key"]})
                    continue
                members = generated.read(0, row["key"], row["members"])
                members.pop("npy")
                admitted.keep(Sample(row["key"], tuple(members.items()), kept))
                level = counts.setdefault(str(facts["level"]), {})
                level[str(row["label"])] = level.get(str(row["label"]), 0) + 1
        output.summary = {"kept": counts}
