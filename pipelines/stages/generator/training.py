"""Training the reference family: one unit per model, each with checkpoints, and the proof that no test image takes part.

The autoencoder and CLIP come first; the denoisers read their committed weights, as rounded to half precision, so that they fit
exactly what is stored.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.families import TOKENIZER, family_folder, tokenizer_files, tokenizer_of
from pipelines.artifacts.scenes import Scenes, load_scenes, scenes_dataset
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.checkpoints import Checkpoint, Progress, run_resumably
from pipelines.runtime.committed import Committed
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.sources.composing.words import noun_of
from pipelines.storage import csv_bytes, pretty_json
from synth.family.config import CLASS_PARTS, PARTS, Budget, Family, Shape, class_prompt, schedules

if TYPE_CHECKING:
    from torch import Tensor

    from synth.family.training import Fit, Part

PARTS_FOLDER = "parts"
#: Steps that a row of a part's history averages.
HISTORY_STEPS = 50
#: Scenes, or without them class images, that the spread of latents is measured on at the most.
SPREAD = 10_000
#: Class images beside each scene that the autoencoder sees.
CLASS_IMAGES = 0.3


@dataclass(frozen=True)
class Prepared:
    """A part before training: with `facts` and `files` (in the family's folder) that others need, and images (n, 3, size, size) on
    which the spread of an autoencoder's latents is measured."""

    part: Part
    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    spread_of: Tensor | None = None


def train_part(job: Job[Any], part: str, output: UnitOutput) -> None:
    """Train one model and write its weights, its history and what later ones need to know."""
    import safetensors.torch

    from synth.family.assemble import packed
    from synth.family.training import Fit

    budget, prepared = getattr(job.params.train, part), _PREPARE[part](job, output)
    fit = Fit(prepared.part, budget, job.seed(part, "training"))
    training = PartTraining(fit)
    run_resumably(training, output, Checkpoint(output))
    model, history = fit.finish(), training.history
    output.write(f"{PARTS_FOLDER}/{part}.safetensors", safetensors.torch.save(packed(model)))
    for name, data in prepared.files.items():
        output.write(f"{PARTS_FOLDER}/{name}", data)
    facts = dict(prepared.facts)
    if prepared.spread_of is not None:
        facts["scaling"] = 1.0 / float(_latents(model, prepared.spread_of, budget).std())
    columns = ["step", *sorted({name for row in history for name in row} - {"step"})]
    output.write(f"training/{part}.csv", csv_bytes(history, columns))
    last = {name: value for name, value in (history[-1] if history else {}).items() if name != "step"}
    output.write(f"training/{part}.json", pretty_json(facts | {"last": last}))
    output.summary = dict(last)


class PartTraining:
    """The training of a part, and averages of its figures over `HISTORY_STEPS` steps each."""

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        self.history: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}

    @property
    def done(self) -> bool:
        return self._fit.step >= self._fit.budget.steps

    def advance(self) -> Progress:
        notes: list[str] = []

        def tell(step: int, figures: dict[str, float]) -> None:
            for figure, value in figures.items():
                self._sums[figure] = self._sums.get(figure, 0.0) + value
            if step % HISTORY_STEPS == 0 or step == self._fit.budget.steps:
                count = (step - 1) % HISTORY_STEPS + 1
                self.history.append({"step": step} | {figure: sum_ / count for figure, sum_ in self._sums.items()})
                self._sums.clear()
            notes.append(", ".join(f"{figure} {value:.3f}" for figure, value in figures.items()))

        self._fit.run(until=self._fit.step + 1, tell=tell)
        return Progress(self._fit.step, self._fit.budget.steps, notes[0])

    def state(self) -> dict[str, Any]:
        return {**self._fit.state(), "history": self.history, "sums": self._sums}

    def load_state(self, state: dict[str, Any]) -> None:
        self._fit.restore(state)
        self.history, self._sums = state["history"], state["sums"]


def trained_family(job: Job[Any]) -> dict[str, bytes]:
    """The files of the family's folder, from what the parts left."""
    committed = Committed(job)
    weights = {part: committed.read(f"{PARTS_FOLDER}/{part}.safetensors") for part in trained_parts(job)}
    return family_folder(_family(job), weights, _tokenizer_files(job))


def trained_parts(job: Job[Any]) -> tuple[str, ...]:
    """The models that are trained: without scenes those that need none."""
    return CLASS_PARTS if job.params.train.scenes is None else PARTS


def _family(job: Job[Any]) -> Family:
    """The family as far as the first wave decides it."""
    committed, train, named = Committed(job), open_part(job, "split", "train"), job.params.train.scenes
    steps = ", ".join(f"{part} {getattr(job.params.train, part).steps}" for part in trained_parts(job))
    facts = {"class images": len(train), "steps": steps, "seed": job.run.seed}
    words: dict[str, Any] = {"nouns": [noun_of(name) for name in train.classes], "vocabulary": 0}
    if named is not None:
        words, facts = committed.json("training/clip.json"), facts | {"scenes": len(scenes_dataset(job, named))}
    return Family(
        shape=job.params.train.shape,
        classes=tuple(train.classes),
        nouns=tuple(words["nouns"]),
        scaling=committed.json("training/vae.json")["scaling"],
        vocabulary=words["vocabulary"],
        schedules=schedules(),
        facts=facts,
    )


def _tokenizer_files(job: Job[Any]) -> dict[str, bytes]:
    committed, folder = Committed(job), f"{PARTS_FOLDER}/{TOKENIZER}"
    return {path.removeprefix(f"{folder}/"): committed.read(path) for path in committed.paths(folder)}


def _built(job: Job[Any], part: str, family: Family) -> Any:
    """A model with the weights it begins from, which follow from the run's seed."""
    import torch

    from synth.family.assemble import built

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed(part, "init"))
        return built(part, family)


def _stored(job: Job[Any], part: str, family: Family) -> Any:
    """A model that an earlier wave trained."""
    import safetensors.torch

    from synth.family.assemble import built

    return built(part, family, safetensors.torch.load(Committed(job).read(f"{PARTS_FOLDER}/{part}.safetensors")))


def _blank(job: Job[Any], vocabulary: int = 0) -> Family:
    """A family of which only the shape is known."""
    classes = tuple(open_part(job, "split", "train").classes)
    return Family(job.params.train.shape, classes, classes, 1.0, vocabulary, schedules(), {})


def _scenes(job: Job[Any]) -> Scenes:
    return load_scenes(scenes_dataset(job, job.params.train.scenes), job.params.train.shape.size)


def _class_images(job: Job[Any]) -> tuple[Tensor, Tensor]:
    """split/train as (n, 3, size, size) uint8, resized bilinearly, and labels (n,)."""
    import torch
    from torch.nn.functional import interpolate

    arrays = load_arrays(open_part(job, "split", "train"))
    size = job.params.train.shape.size
    images = torch.empty(len(arrays), 3, size, size, dtype=torch.uint8)
    for at in range(0, len(arrays), 256):
        block = torch.from_numpy(arrays.images[at : at + 256]).float()
        shrinks = block.shape[-1] > size
        resized = interpolate(block, size=(size, size), mode="bilinear", antialias=shrinks, align_corners=False)
        images[at : at + 256] = resized.round().clamp(0, 255).byte()
    return images, torch.from_numpy(arrays.labels)


def _kept_latents(model: Any, images: Tensor, budget: Budget, output: UnitOutput) -> Tensor:
    """`_latents`, made once: a unit that goes on after a kill finds them in its scratch folder."""
    import torch

    scratch, name = output.scratch(), "latents.pt"
    if scratch.exists(name):
        stored: Tensor = torch.load(io.BytesIO(scratch.read_bytes(name)), weights_only=True)
        return stored
    latents = _latents(model, images, budget)
    buffer = io.BytesIO()
    torch.save(latents, buffer)
    scratch.write_bytes(name, buffer.getvalue())
    return latents


def _latents(model: Any, images: Tensor, budget: Budget) -> Tensor:
    """Of uint8 images, not yet scaled."""
    import torch

    from synth.family.parts import latents_of

    with torch.autocast("cpu", torch.bfloat16, enabled=budget.low_precision):
        return latents_of(model, images).float()


def _ids(tokenizer: Any, texts: Sequence[str], shape: Shape) -> Tensor:
    from synth.family.parts import padded
    from synth.family.shapes import EOS

    return padded(tokenizer(list(texts)).input_ids, shape.tokens, EOS)


def _autoencoder(job: Job[Any], output: UnitOutput) -> Prepared:
    import torch

    from synth.family.parts import AutoencoderPart

    images, _ = _class_images(job)
    spread_of = images[:: math.ceil(len(images) / SPREAD)]  # of all classes: files of one often follow each other
    if job.params.train.scenes is not None:
        scenes = torch.from_numpy(_scenes(job).images)
        images, spread_of = torch.cat([scenes, images[: int(CLASS_IMAGES * len(scenes))]]), scenes[:SPREAD]
    budget = job.params.train.vae
    part = AutoencoderPart(_built(job, "vae", _blank(job)), images, budget.kl, budget.encoder_steps)
    return Prepared(part, spread_of=spread_of)


def _clip(job: Job[Any], output: UnitOutput) -> Prepared:
    import torch

    from synth.family.parts import ClipPart
    from synth.family.tokens import tokenizer

    scenes, shape = _scenes(job), job.params.train.shape
    prompts = [class_prompt(noun) for noun in scenes.nouns]
    words = tokenizer([*scenes.captions, *_short(scenes), *prompts], shape.tokens)
    model = _built(job, "clip", _blank(job, len(words)))
    images, shown = torch.from_numpy(scenes.images), torch.from_numpy(scenes.shown).float()
    ids = _ids(words, scenes.captions, shape)
    part = ClipPart(model, images, ids, shown, _ids(words, prompts, shape), job.params.train.clip.text_steps)
    files = {f"{TOKENIZER}/{name}": data for name, data in tokenizer_files(words).items()}
    return Prepared(part, {"nouns": scenes.nouns, "vocabulary": len(words)}, files)


def _unet(job: Job[Any], output: UnitOutput) -> Prepared:
    import torch

    from synth.family.assemble import training_schedule
    from synth.family.parts import TextUNetPart

    family, scenes, shape = _family(job), _scenes(job), job.params.train.shape
    words = tokenizer_of(_tokenizer_files(job))
    images = torch.from_numpy(scenes.images)
    latents = _kept_latents(_stored(job, "vae", family), images, job.params.train.unet, output)
    part = TextUNetPart(
        _built(job, "unet", family),
        _stored(job, "clip", family),
        training_schedule(family, "text"),
        latents * family.scaling,
        _ids(words, scenes.captions, shape),
        _ids(words, _short(scenes), shape),
        _ids(words, [""], shape),
    )
    return Prepared(part)


def _dit(job: Job[Any], output: UnitOutput) -> Prepared:
    from synth.family.assemble import training_schedule
    from synth.family.parts import ClassDiTPart

    family = _family(job)
    images, labels = _class_images(job)
    latents = _kept_latents(_stored(job, "vae", family), images, job.params.train.dit, output)
    schedule = training_schedule(family, "classes")
    return Prepared(ClassDiTPart(_built(job, "dit", family), schedule, latents * family.scaling, labels))


def _short(scenes: Scenes) -> list[str]:
    """The class prompt of a scene with one thing, else its caption."""
    return [
        caption if noun is None else class_prompt(noun)
        for caption, noun in zip(scenes.captions, scenes.nouns_alone, strict=True)
    ]


_PREPARE = {"vae": _autoencoder, "clip": _clip, "unet": _unet, "dit": _dit}
