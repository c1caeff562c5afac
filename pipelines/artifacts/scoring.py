"""What generated images are judged by: CLIP against the classes' prompts, a teacher, the real images an adapter saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.generators import generator_model, generator_of
from pipelines.artifacts.reading_texts import model_loading
from pipelines.artifacts.teacher import Teacher, load_teacher
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from synth.datadream.prompts import class_prompt
from synth.filtering.scoring import artefacts, memorised, prompt_fit, teacher_fit
from synth.quality.arrays import resized
from synth.quality.features import ClipFeatures, Features
from synth.quiet import quiet_loading

#: Real images of a class and their CLIP features (n, d).
Seen = tuple[list[torch.Tensor], torch.Tensor]


@dataclass
class Scorer:
    """`clip` gives features of images (n, 3, h, w) in [0, 1]; `texts` (classes, d) are those of the classes' prompts."""

    clip: ClipFeatures
    texts: torch.Tensor
    teacher: Teacher | None

    @classmethod
    def of(cls, job: Job[Any], device: torch.device) -> Scorer:
        """With the CLIP of the `generator` stage, and the teacher of `squeeze` where the job wants it."""
        params, (model, tokenizer) = job.params, load_clip(job)
        clip = ClipFeatures(model.to(device))
        names = [params.name_of(name) for name in open_part(job, "split", "train").classes]
        prompts = [class_prompt(name, params.domain) for name in names]
        teacher = load_teacher(job, device) if params.teacher else None
        return cls(clip, clip.texts(tokenizer, prompts), teacher)

    @torch.no_grad()
    def score(self, images: torch.Tensor, label: int, seen: Seen | None) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """A row of scores for each image of one class, and the features (n, d) they were judged by."""
        labels = [label] * len(images)
        features = self.clip(images)
        columns = artefacts(images) | prompt_fit(features, self.texts, labels)
        if self.teacher is not None:
            side, device = self.teacher.image_size, features.device
            mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.teacher.mean, self.teacher.std))
            shown = (resized(images.to(device), (side, side)) - mean) / std
            logits = self.teacher.model(shown)
            # An image that is no numbers is a row; a teacher that answers sound images so would drop them all.
            if not bool(logits[shown.isfinite().flatten(1).all(1)].isfinite().all()):
                raise UserError(
                    "the teacher's answers to generated images are not finite numbers: the teacher is broken; lower "
                    "squeeze.training.learning_rate, then: limbeck run squeeze"
                )
            columns |= teacher_fit(logits, labels)
        if seen is not None:
            columns |= memorised(features, seen[1], images, seen[0])
        rows = [{name: column[place] for name, column in columns.items()} for place in range(len(images))]
        return rows, features


def each(features: Features, images: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Features (n, d) of images (3, h, w) in [0, 1], each of its own size; neighbours of one size go together."""
    features_of = []
    for _, group in groupby(images, key=lambda image: tuple(image.shape)):
        features_of.append(features(torch.stack(list(group)).to(device)))
    return torch.cat(features_of)


def load_clip(job: Job[Any]) -> tuple[Any, Any]:
    """The CLIP of the `generator` stage in float32 on the CPU, and its tokenizer."""
    from transformers import AutoTokenizer, CLIPModel

    where, revision = generator_model(job, "clip"), generator_of(job, "clip").revision or "main"
    with quiet_loading(), model_loading("CLIP", where):
        model = CLIPModel.from_pretrained(where, revision=revision, use_safetensors=True).float().eval()
        return model, AutoTokenizer.from_pretrained(where, revision=revision)


def rounded(scores: dict[str, Any]) -> dict[str, Any]:
    """As they are stored: six digits tell images apart and survive any JSON reader; NaN becomes null."""
    form: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, float):
            form[name] = round(value, 6) if value == value else None
        else:
            form[name] = value
    return form


def as_numbers(column: Sequence[Any]) -> list[Any]:
    """What `rounded` stored, with NaN again where it was."""
    return [float("nan") if value is None else value for value in column]
