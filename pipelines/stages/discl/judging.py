"""Cross-fitted judges: every image of a profile is judged by a network that was trained on the other folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from distill.accuracy import normalise
from distill.training import Trainer
from pipelines.artifacts.profiles import Profile, profile_arrays
from pipelines.artifacts.teacher import build_network
from pipelines.errors import UserError
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.stages.discl.hard import fold_of
from pipelines.stages.discl.params import DisclParams
from pipelines.stages.discl.payloads import Judge

#: Images that a network judges together.
AT_ONCE = 256


def judged(job: Job[DisclParams], profile: Profile, payload: Judge, output: UnitOutput) -> dict[str, dict[str, float]]:
    """Train the judge of a fold and return loss and confidence of the fold's images by key."""
    device = torch_device(job)
    arrays = profile_arrays(job, profile)
    fold = fold_of(profile, payload.folds, job.seed("", "folds"))
    shown, own = (
        arrays.take(np.flatnonzero(fold != payload.number)),
        arrays.take(np.flatnonzero(fold == payload.number)),
    )
    means, spreads = shown.channel_statistics()
    if not all(spread > 0 for spread in spreads):
        raise UserError("discl.hard: the training images are all of one colour, so no network can be trained on them")
    name, classes = f"fold {payload.number}", len(profile.classes)
    model = build_network(
        payload.network, classes, arrays.images.shape[-1], job.seed(name, "init"), "discl.hard.network"
    )
    trainer = Trainer(
        model.to(device),
        shown.tensors(device),
        job.params.hard.training,
        mean=means,
        std=spreads,
        seed=job.seed(name, "training"),
    )
    train_resumably(trainer, output)
    final = trainer.final.eval()
    losses: list[float] = []
    images, labels = own.tensors(device)
    with torch.no_grad():
        for start in range(0, len(own), AT_ONCE):
            batch = normalise(images[start : start + AT_ONCE].float() / 255, means, spreads)
            logits = final(batch).double()
            losses += functional.cross_entropy(logits, labels[start : start + AT_ONCE], reduction="none").tolist()
    return {
        key: {"loss": round(loss, 6), "confidence": round(float(np.exp(-loss)), 6)}
        for key, loss in zip(own.keys, losses, strict=True)
    }


def judged_file(unit: str) -> str:
    """Where a judge's unit leaves what it measured."""
    return f"{unit}.json"


def every_measure(forms: list[dict[str, dict[str, float]]], measure: str) -> dict[str, Any]:
    """One measure of all images by key, of what the judges of all folds left."""
    return {key: scores[measure] for form in forms for key, scores in form.items()}
