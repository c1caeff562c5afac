"""The worker of `datadream`: trains adapters, makes and scores images, admits them. Decisions of what to do are in the plan.

What is costly lives as long as the worker: the generator, the CLIP that scores, the real images that were read. An adapter is
loaded for the unit that needs it and freed after it; the base is never changed.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augment.errors import MethodError
from pipelines.artifacts.adapters import WEIGHTS, adapter_folder, running
from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.generators import generator_model, generator_of
from pipelines.artifacts.scoring import Scorer, Seen, as_numbers, each, rounded
from pipelines.config import read_yaml
from pipelines.errors import UserError
from pipelines.images.made import synthetic_sample
from pipelines.loaders.arrays import load_images
from pipelines.outcomes import dropped
from pipelines.runtime.checkpoints import Checkpoint, Progress, run_resumably
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.units import UnitOutput
from pipelines.shards.checksum import sum_of
from pipelines.shards.keys import slot_key
from pipelines.shards.sample import Sample
from pipelines.stages.datadream.figures import set_figures, stored_features
from pipelines.stages.datadream.params import GENERATED, KEPT, DatadreamParams, contexts_file
from pipelines.stages.datadream.payloads import Adapt, Admit, Caption, Generate, Quality
from pipelines.storage import canonical_json, pretty_json
from synth.backends import GeneratorOptions, load_backend
from synth.datadream.adapt import Adaptation, Subject
from synth.datadream.config import AdaptConfig
from synth.datadream.lora import LoraSet
from synth.datadream.prompts import Context, ContextBank, generation_prompts
from synth.datadream.subjects import WHOLE_DATASET, adapter_name, loft_pairs, subjects
from synth.filtering.columns import Scores
from synth.filtering.deciding import decide
from synth.filtering.scoring import twins
from synth.requests import Request
from synth.sampling import Sampler

#: Pairs of a class's images that are less alike than this are no near-duplicates under any threshold.
TWIN_FLOOR = 0.9
#: Sidecar columns of a generated image that stay true of its copy.
CARRIED = (
    *("source", "split", "label", "label_name", "width", "height", "bytes", "pixel_sha256", "phash", "parents"),
    *("op", "params", "model_id"),
)


@dataclass(frozen=True, eq=False)
class Made:
    """One image: `pixels` uint8 (h, w, 3), its scores, CLIP features (d,) on the CPU, and the adapters that were active."""

    pixels: np.ndarray[Any, Any]
    scores: dict[str, Any]
    features: torch.Tensor
    adapters: tuple[str, ...]


class AdapterTraining:
    """The training of adapter `place` of `of`, and the losses of the last tenth of its steps."""

    def __init__(self, adaptation: Adaptation, place: int, of: int) -> None:
        self._adaptation, self._place, self._of = adaptation, place, of
        self._tail = max(1, adaptation.total // 10)
        self.losses: list[float] = []

    @property
    def done(self) -> bool:
        return self._adaptation.done

    def advance(self) -> Progress:
        training = self._adaptation
        loss = training.advance()
        if training.step > training.total - self._tail:
            self.losses.append(float(loss))
        return Progress(self._place + training.step / training.total, self._of, training.subject.name)

    def state(self) -> dict[str, Any]:
        self._adaptation.require_sound()
        return {**self._adaptation.state(), "losses": self.losses}

    def load_state(self, state: dict[str, Any]) -> None:
        self.losses = list(state.pop("losses"))
        self._adaptation.load_state(state)


class Dreamer:
    """One worker. `adapt`, `generate`, `admit` and `quality` do the units of these kinds."""

    def __init__(self, job: Job[DatadreamParams]) -> None:
        self.job, self.params = job, job.params
        self.device = torch_device(job)
        self._digests: dict[str, str] = {}
        self._made = Committed(job)
        self._last: tuple[tuple[str, ...], Seen] = ((), ([], torch.empty(0)))

    @cached_property
    def backend(self) -> Any:
        """The generator, frozen."""
        generator = generator_of(self.job, "text")
        options = GeneratorOptions(
            generator_model(self.job, "text"),
            revision=generator.revision,
            dtype=self.params.dtype,
            device=str(self.device),
        )
        with method_errors("generator"):
            return load_backend(options)

    def bank(self, tag: str) -> ContextBank | None:
        """The contexts that prompts are given, by image key: from the user's file, or as a model told them."""
        if self.params.context is not None:
            return self._given
        path = contexts_file(tag)
        if self.params.captioner is None or not self.job.output.exists(path):
            return None
        stored = self._made.json(path)
        return ContextBank({key: Context(**context) for key, context in stored.items()})

    @cached_property
    def _given(self) -> ContextBank:
        assert self.params.context is not None
        document = read_yaml(Path(self.params.context).expanduser().read_text(encoding="utf-8"), self.params.context)
        try:
            return ContextBank({str(key): Context(**context) for key, context in document.items()})
        except (TypeError, AttributeError, MethodError) as error:
            raise UserError(
                f"datadream.context: {self.params.context} is not a mapping of image keys to pose and background: {error}"
            ) from None

    def caption(self, payload: Caption, output: UnitOutput) -> None:
        """Have a vision-language model tell the context of each few-shot image."""
        from synth.datadream.captioning import Captioner

        assert self.params.captioner is not None
        captioner = Captioner(self.params.captioner, self.device)
        contexts = {}
        for place, (key, image) in enumerate(zip(payload.keys, self._real(payload.keys), strict=True)):
            contexts[key] = asdict(captioner(image))
            output.tick(place + 1, len(payload.keys), "captions")
        output.write(contexts_file(payload.tag), pretty_json(contexts))

    # training

    def adapt(self, payload: Adapt, output: UnitOutput) -> None:
        """Train this unit's adapters, one after another, each from its last checkpoint."""
        config = self.params.config_of(payload.variant)
        images = {
            payload.names[label]: dict(zip(keys, self._real(keys), strict=True))
            for label, keys in payload.images.items()
        }
        todo = subjects(images, payload.variant, domain=self.params.domain, bank=self.bank(payload.tag))
        sizes, losses = [], []
        for place, subject in enumerate(todo):
            data, loss = self._trained(subject, config, place, len(todo), payload.tag, output)
            output.write(f"{adapter_folder(payload.tag, subject.name)}/{WEIGHTS}", data)
            sizes.append(len(data))
            losses.append(loss)
        output.summary = {"adapters": len(sizes), "bytes": sum(sizes), "loss": sum(losses) / len(losses)}

    def _trained(
        self, subject: Subject, config: AdaptConfig, place: int, of: int, tag: str, output: UnitOutput
    ) -> tuple[bytes, float]:
        """The adapter's file, and the mean loss of the last tenth of its steps."""
        scratch, done = output.scratch(), f"{place:05d}.safetensors"
        if scratch.exists(done):  # of an earlier attempt at this unit
            form = json.loads(scratch.read_bytes(f"{done}.json"))
            return scratch.read_bytes(done), float(form["loss"])
        adapters = LoraSet(self.backend, text=config.train_text)
        adaptation = Adaptation(adapters, subject, config, run_seed=self.job.seed(tag, "adapt"))
        training = AdapterTraining(adaptation, place, of)
        try:
            run_resumably(training, output, Checkpoint(output, f"{place:05d}"))
            with tempfile.TemporaryDirectory() as folder:
                data = adapters.save(subject.name, folder).read_bytes()
        finally:
            adapters.remove(subject.name)
        mean = sum(training.losses) / len(training.losses)
        if of > 1:
            scratch.write_bytes(f"{done}.json", canonical_json({"loss": mean}))
            scratch.write_bytes(done, data)
        return data, mean

    def _real(self, keys: Sequence[str]) -> list[torch.Tensor]:
        """(3, h, w) float32 in [0, 1] of training images."""
        images = load_images(open_part(self.job, "split", "train"), keys)
        return [torch.from_numpy(np.ascontiguousarray(image)).float() / 255 for image in images]

    # generation

    def generate(self, payload: Generate, output: UnitOutput) -> None:
        """Make a block of a class's images with its adapter, score them as tensors, store all of them."""
        first, count, tag = payload.first, payload.count, payload.tag
        # A class's prompts and adapters follow from an image's number alone, so a block has its own part of them.
        prompts = generation_prompts(payload.prompt_name, first + count, domain=self.params.domain, bank=self.bank(tag))
        requests = [Request(prompts[place], payload.class_name, place) for place in range(first, first + count)]
        active = self._adapters_for(payload, tag, first + count)[first:]
        seen = self._few_shot(payload.few_shot)
        stored: list[Future[Sample] | None] = [None] * count
        black = done = 0
        # An image is encoded and hashed on a thread of its own while the next ones are denoised.
        with ThreadPoolExecutor(1) as encoding:
            run_seed = self.job.seed(f"few-shot {payload.few_shot_seed}", "generate")
            sampler = Sampler(self.backend, self.params.generate, run_seed=run_seed, batch_size=self.params.batch_size)
            # Images of one set of adapters together; which are in a batch follows from the plan alone.
            for names in dict.fromkeys(active):
                with running(self.backend, {name: self._adapter(tag, name) for name in names}):
                    for batch in self._batches([place for place, adapters in enumerate(active) if adapters == names]):
                        images = sampler.batch([requests[place] for place in batch]).images
                        scores, features = self.scorer.score(images, payload.label, seen)
                        features = features.cpu()
                        for row, place in enumerate(batch):
                            image = Made(_pixels(images[row]), rounded(scores[row]), features[row], names)
                            black += not image.pixels.any()
                            stored[place] = encoding.submit(self._sample, payload, requests[place], image, tag)
                        done += len(batch)
                        output.tick(done, count, payload.class_name)
        with output.shard(GENERATED) as shard:
            for sample in stored:
                assert sample is not None
                shard.keep(sample.result())
        output.summary = {"black": black}

    def _sample(self, payload: Generate, request: Request, made: Made, tag: str) -> Sample:
        """The image, what is known of it, its class, and the CLIP features it was judged by."""
        settings, image = self.params.generate, self.params.image
        key = slot_key(f"{self.job.item}_k{payload.shots}_s{payload.few_shot_seed}", payload.label, request.ordinal)
        facts = {"variant": self.job.item, "shots": payload.shots, "few_shot_seed": payload.few_shot_seed}
        facts |= {"ordinal": request.ordinal, "prompt": request.prompt, "steps": settings.steps}
        facts |= {"guidance": settings.guidance, "scheduler": settings.scheduler, "scores": made.scores}
        facts["adapter"] = [self._adapter_digest(tag, name) for name in made.adapters] or None
        row = {
            "source": f"{self.job.name} {payload.class_name} {request.ordinal}",
            "parents": list(payload.few_shot),
            "op": "datadream",
            "params": canonical_json(facts).decode(),
            "model_id": payload.making.text,
        }
        features = io.BytesIO()
        np.save(features, made.features.numpy().astype(np.float16))
        label = (payload.label, payload.class_name)
        caption = str(request.prompt) if self.params.captions else None
        return synthetic_sample(key, made.pixels, image, label, row, facts, features.getvalue(), caption)

    def _adapter_digest(self, tag: str, name: str) -> str:
        path = f"{adapter_folder(tag, name)}/{WEIGHTS}"
        if path not in self._digests:
            self._digests[path] = sum_of(self._adapter(tag, name)).sha256
        return self._digests[path]

    def _adapter(self, tag: str, name: str) -> bytes:
        """An adapter's file, as its unit committed it."""
        return self._made.read(f"{adapter_folder(tag, name)}/{WEIGHTS}")

    def _batches(self, places: Sequence[int]) -> list[list[int]]:
        size = self.params.batch_size
        return [list(places[at : at + size]) for at in range(0, len(places), size)]

    def _adapters_for(self, payload: Generate, tag: str, count: int) -> list[tuple[str, ...]]:
        """Which adapters make each of the first `count` images of a class."""
        if self.job.item == "zero_shot":
            return [()] * count
        if self.job.item == "dset":
            return [(WHOLE_DATASET,)] * count
        if self.job.item == "cls":
            return [(adapter_name(payload.prompt_name),)] * count
        names = [adapter_name(payload.prompt_name, key) for key in payload.few_shot]
        return loft_pairs(names, count, key=payload.class_name, run_seed=self.job.seed(tag, "loft"))

    # scoring

    @cached_property
    def scorer(self) -> Scorer:
        """What judges images, with the classes' prompts read once."""
        return Scorer.of(self.job, self.device)

    def _few_shot(self, keys: Sequence[str]) -> Seen | None:
        """The real images that the adapter saw, and their features; kept for the next unit of the class."""
        if not keys:
            return None
        if self._last[0] != tuple(keys):
            images = self._real(keys)
            self._last = (tuple(keys), (images, each(self.scorer.clip, images, self.device)))
        return self._last[1]

    # admission

    def admit(self, payload: Admit, output: UnitOutput) -> None:
        """Judge a class's images by their stored scores; those that stay are copied, byte for byte, the others are rows."""
        rows, members, features = [], [], []
        for unit in payload.generated:
            shard = self._made.shard(unit, GENERATED)
            for row in shard.sidecar(0).to_pylist():
                read = shard.read(0, row["key"], row["members"])
                features.append(stored_features(read.pop("npy")))
                rows.append(row)
                members.append(tuple(read.items()))
        told = [json.loads(row["params"])["scores"] for row in rows]
        columns: dict[str, Any] = {name: as_numbers([scores[name] for scores in told]) for name in told[0]}
        labels = [payload.label] * len(rows)
        columns |= twins(torch.from_numpy(np.stack(features)), labels, TWIN_FLOOR)
        reasons = decide(Scores.of({"label": labels, **columns}), self.params.filters)
        with output.shard(KEPT) as admitted:
            for row, body, reason in zip(rows, members, reasons, strict=True):
                kept = {name: row[name] for name in CARRIED}
                if reason is None:
                    admitted.keep(Sample(row["key"], body, kept))
                else:
                    admitted.reject(dropped(reason), {**kept, "key": row["key"]})

    # quality

    def quality(self, payload: Quality, output: UnitOutput) -> None:
        """See `figures`."""
        output.summary = set_figures(self.job, self.scorer, self.device, payload, output.tick)


def _pixels(image: torch.Tensor) -> np.ndarray[Any, Any]:
    """(h, w, 3) uint8 of a float image (3, h, w) in [0, 1]; what is no number is black."""
    levels = (torch.nan_to_num(image, nan=0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
