"""Measurements of generated images. Each function returns columns of `Scores`, by name; none depends on the batch.

scores = Scores.of({"label": labels, **artefacts(images), **prompt_fit(clip(images), clip.texts(tokenizer, prompts), labels)})
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from synth.errors import SynthError
from synth.quality.arrays import products, resized, unit_rows

Columns = dict[str, list[Any]]
EQUAL = 1e-9  # cosines nearer than this are ties, taken by the lower row
AT_ONCE = 64  # images in float64


def artefacts(images: torch.Tensor) -> Columns:
    """Measure `non_finite`, `spread` and `saturated` of images (n, 3, h, w), float in [0, 1].

    Values that are not finite count as 0 in the other two. Saturated is what is 0 or 255 in 8 bits, outside [0, 1] too.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise SynthError(
            f"artefacts are of images (n, 3, h, w), float in [0, 1], got {tuple(images.shape)} {images.dtype}"
        )
    columns: Columns = {"non_finite": [], "spread": [], "saturated": []}
    for part in images.split(AT_ONCE):
        finite = part.isfinite()
        values = torch.where(finite, part, 0).double().clamp(0, 1)
        levels = (values * 255).round()
        columns["non_finite"] += (~finite).double().mean((1, 2, 3)).tolist()
        columns["spread"] += values.std((2, 3), correction=0).amax(1).tolist()
        columns["saturated"] += ((levels == 0) | (levels == 255)).all(1).double().mean((1, 2)).tolist()
    return columns


def prompt_fit(features: torch.Tensor, texts: torch.Tensor, labels: Sequence[int]) -> Columns:
    """Measure `clip_cosine` and `clip_margin` of CLIP features (n, d) to those of each class's prompt (classes, d), of any length.

    With one class the best other is taken to be at -1.
    """
    _check(features, labels, "features")
    own = _own(labels, texts.shape[0], features.device)
    cosines = (unit_rows(features.double()) @ unit_rows(texts.double()).T).clamp(-1, 1)
    right = cosines.gather(1, own)
    others = cosines.scatter(1, own, -1).amax(1)
    return {"clip_cosine": right[:, 0].tolist(), "clip_margin": (right[:, 0] - others).tolist()}


def teacher_fit(logits: torch.Tensor, labels: Sequence[int]) -> Columns:
    """Measure `teacher_confidence`, `teacher_entropy` and `teacher_label` (the lowest of equals, -1 for NaN) of logits (n, classes)."""
    _check(logits, labels, "logits")
    logs = logits.double().log_softmax(1)
    first = (logits == logits.amax(1, keepdim=True)).to(torch.uint8).argmax(1)
    own = _own(labels, logits.shape[1], logits.device)
    return {
        "teacher_confidence": logs.gather(1, own)[:, 0].exp().tolist(),
        "teacher_entropy": torch.special.entr(logs.exp()).sum(1).tolist(),
        "teacher_label": torch.where(logits.isnan().any(1), -1, first).tolist(),
    }


def memorised(
    features: torch.Tensor,
    training: torch.Tensor,
    images: torch.Tensor | None = None,
    training_images: Sequence[torch.Tensor] | torch.Tensor | None = None,
) -> Columns:
    """Measure `train_cosine` and `train_index` of features (n, d) against those of the training images (m, d).

    With images (n, 3, h, w) and the training images, each (3, any, any), both float in [0, 1], `train_rmse` too: to the one nearest
    by features, resized (bilinear, antialiased) to the generated one's size. Of equal cosines the first image is taken.
    """
    if not len(training) or training.shape[1:] != features.shape[1:]:
        raise SynthError(
            f"training features take rows of {features.shape[1]} numbers, one row or more, got {tuple(training.shape)}"
        )
    columns: Columns = {"train_cosine": [], "train_index": []}
    for _, block in products(unit_rows(features.double()), unit_rows(training.double())):
        best = block.amax(1)
        columns["train_index"] += (block >= best[:, None] - EQUAL).to(torch.uint8).argmax(1).tolist()
        columns["train_cosine"] += best.clamp(-1, 1).tolist()
    if images is not None and training_images is not None:
        if (len(images), len(training_images)) != (len(features), len(training)):
            raise SynthError(
                f"features are of {len(features)} and {len(training)} images, got {len(images)} and {len(training_images)} images"
            )
        columns["train_rmse"] = []
        for image, index in zip(images, columns["train_index"], strict=True):
            other = resized(training_images[index][None].to(image), image.shape[1:])[0]
            columns["train_rmse"].append(float((image.double() - other.double()).square().mean().sqrt()))
    return columns


def twins(features: torch.Tensor, labels: Sequence[int], floor: float = 0.9) -> Columns:
    """Measure `earlier_cosine`, `twin_index`, `twin_cosine` and `twin_floor` of features (n, d), in the order of generation.

    Pairs below `floor` are not stored, so no threshold below it can be judged; a class of n has at most n (n - 1) / 2 of them.
    """
    _check(features, labels, "features")
    rows = unit_rows(features.double())
    count = len(rows)
    columns: Columns = {"earlier_cosine": [-1.0] * count, "twin_index": [[] for _ in range(count)]}
    columns |= {"twin_cosine": [[] for _ in range(count)], "twin_floor": [floor] * count}
    broken = ~rows.isfinite().all(1)
    own = torch.as_tensor(labels)
    for label in sorted(set(own.tolist())):
        members = (own == label).nonzero()[:, 0]
        here = members.to(rows.device)
        for part, block in products(rows[here], rows[here]):
            later = torch.arange(part.start, part.stop, device=rows.device)
            early = torch.arange(len(here), device=rows.device) < later[:, None]
            cosines = torch.where(early & ~broken[here], block.clamp(-1, 1), -1).cpu()
            for place, line in zip(members[part].tolist(), cosines, strict=True):
                near = (line >= floor).nonzero()[:, 0]
                columns["earlier_cosine"][place] = float(line.max())
                columns["twin_index"][place] = members[near].tolist()
                columns["twin_cosine"][place] = line[near].tolist()
    return columns


def _own(labels: Sequence[int], classes: int, device: torch.device) -> torch.Tensor:
    """Check class numbers and return them as (n, 1) int64 on `device`."""
    own = torch.as_tensor(labels, dtype=torch.int64)
    if len(own) and not 0 <= int(own.min()) <= int(own.max()) < classes:
        raise SynthError(f"labels take 0 to {classes - 1}, got {int(own.min())} to {int(own.max())}")
    return own.to(device)[:, None]


def _check(rows: torch.Tensor, labels: Sequence[int], name: str) -> None:
    if rows.ndim != 2 or len(rows) != len(labels):
        raise SynthError(f"{name} take one row for each of {len(labels)} labels, got shape {tuple(rows.shape)}")
