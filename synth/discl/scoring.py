"""Scores of generated images at guidance levels: plain columns, an image each; what is admitted is decided from them later.

Published (`docs/specs/discl.md`, filter) is CLIP's plain cosine to the class's text, without the factor 2.5 of CLIPScore.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from synth.discl.admission import Columns
from synth.errors import SynthError
from synth.filtering.scoring import prompt_fit, teacher_fit
from synth.quality.arrays import unit_rows


def spectrum_scores(
    features: torch.Tensor,
    texts: torch.Tensor,
    labels: Sequence[int],
    sources: torch.Tensor,
    owners: Sequence[int],
    logits: torch.Tensor | None = None,
) -> Columns:
    """Score n images by their CLIP features (n, d), of any length, NaN where an image's are not finite.

    * `text_cosine` to the text of the image's own class, `texts` (classes, d) at `labels`, in [-1, 1]; an image's label is its parent's.
    * `source_cosine` to its own real image, `sources` (m, d) at `owners`, in [-1, 1].
    * `teacher_confidence`, the probability of its label by a teacher's `logits` (n, classes), where there are some.
    """
    scores: Columns = {
        "text_cosine": prompt_fit(features, texts, labels)["clip_cosine"],
        "source_cosine": source_cosine(features, sources, owners),
    }
    if logits is not None:
        scores["teacher_confidence"] = teacher_fit(logits, labels)["teacher_confidence"]
    return scores


def text_cosine(features: torch.Tensor, texts: torch.Tensor, labels: Sequence[int]) -> list[float]:
    """Score features (n, d) against the texts of their own classes alone: of the real images, which `calibrated` goes by."""
    return prompt_fit(features, texts, labels)["clip_cosine"]


def source_cosine(features: torch.Tensor, sources: torch.Tensor, owners: Sequence[int]) -> list[float]:
    """Return the cosine in [-1, 1] of each of features (n, d) to the row of `sources` (m, d) that `owners` names."""
    if len(owners) != len(features) or sources.shape[1:] != features.shape[1:]:
        raise SynthError(
            f"each of {len(features)} images of {features.shape[1]} features has a source of as many, got {len(owners)} owners and "
            f"sources {tuple(sources.shape)}"
        )
    rows = torch.as_tensor(owners, dtype=torch.int64, device=sources.device)
    own = unit_rows(sources.double())[rows].to(features.device)
    return (unit_rows(features.double()) * own).sum(1).clamp(-1, 1).tolist()
