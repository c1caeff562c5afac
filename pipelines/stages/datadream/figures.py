"""QualityScores of what `datadream` made against real images: read from the shards of its units, before any dataset is published."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.scoring import Scorer, each, rounded
from pipelines.images.process import decode_rgb
from pipelines.loaders.arrays import load_images
from pipelines.outcomes import Outcome
from pipelines.runtime.committed import Committed
from pipelines.runtime.job import Job
from pipelines.runtime.units import Tick
from pipelines.stages.datadream.params import GENERATED, KEPT, DatadreamParams
from pipelines.stages.datadream.payloads import Quality
from synth.quality.features import InceptionFeatures
from synth.quality.scores import quality_scores


def set_figures(
    job: Job[DatadreamParams], scorer: Scorer, device: torch.device, payload: Quality, tick: Tick
) -> dict[str, Any]:
    """Of all that was generated, and of what was admitted, against real images that no adapter saw; overall and per class."""
    dataset, committed = open_part(job, "split", payload.reference), Committed(job)
    images = load_images(dataset)
    classes = dataset.rows(["label"])["label"].to_pylist()
    shown = [torch.from_numpy(np.ascontiguousarray(image)).float() / 255 for image in images]
    clip = each(scorer.clip, shown, device)
    features, labels, keys = _stored(committed, payload.generated)
    seen, theirs = features, clip
    if job.params.inception is not None:
        inception = InceptionFeatures(job.params.inception, device)
        theirs = each(inception, shown, device)
        seen = torch.cat([inception(image) for image in _images(committed, device, payload.generated)])
    kept: set[str] = set()
    for unit in payload.kept:
        kept |= set(committed.shard(unit, KEPT).rows(["key"])["key"].to_pylist())
    admitted = [place for place, key in enumerate(keys) if key in kept]
    network = "clip" if job.params.inception is None else "inception"
    scores: dict[str, Any] = {"against": payload.reference, "features": network}
    for part, places in ((GENERATED, list(range(len(keys)))), (KEPT, admitted)):
        tick(len(scores), 4, part)
        if not places:
            continue
        own = [labels[place] for place in places]
        figure = quality_scores(
            seen[places].to(theirs.device),
            theirs,
            own,
            classes,
            clip=(features[places].to(clip.device), clip),
            seed=job.seed("", "quality"),
        )
        per_class = {str(label): rounded(asdict(one)) for label, one in figure.per_class.items()}
        scores[part] = {"overall": rounded(asdict(figure.overall)), "per_class": per_class}
    return scores


def _images(committed: Committed, device: torch.device, units: Sequence[str]) -> Iterator[torch.Tensor]:
    """(1, 3, h, w) float in [0, 1] of every generated image, in the order of `_stored`."""
    for unit in units:
        shard = committed.shard(unit, GENERATED)
        for row in shard.rows(["key", "members"]).to_pylist():
            pixels = decode_rgb(shard.read_image_bytes(0, row["key"], row["members"]))
            assert not isinstance(pixels, Outcome), "what this stage encoded decodes"
            yield torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).float() / 255


def _stored(committed: Committed, units: Sequence[str]) -> tuple[torch.Tensor, list[int], list[str]]:
    """CLIP features (n, d), labels and keys as they were stored with the generated images."""
    features, labels, keys = [], [], []
    for unit in units:
        shard = committed.shard(unit, GENERATED)
        for row in shard.rows(["key", "label", "members"]).to_pylist():
            features.append(stored_features(shard.read(0, row["key"], row["members"], ["npy"])["npy"]))
            labels.append(row["label"])
            keys.append(row["key"])
    return torch.from_numpy(np.stack(features)), labels, keys


def stored_features(member: bytes) -> np.ndarray[Any, Any]:
    """(d,) float32 of an `npy` member."""
    stored: np.ndarray[Any, Any] = np.load(io.BytesIO(member), allow_pickle=False)
    return stored.astype(np.float32)
