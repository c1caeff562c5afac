"""Which images an arm of DataDream sees: keys of few-shot reals, and rows of what `datadream` kept for the same reals.

Seed s takes the s-th few-shot seed of the manifest, and around again; generator and classifier always see the same
reals. Reads manifests and sidecars, no pixels and no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.artifacts.datasets import dataset_digest, finished, open_part
from pipelines.artifacts.few_shot import few_shot_seeds, load_few_shot
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.shards.dataset import Dataset
from pipelines.storage import canonical_json

KEPT = "kept"
ZERO_SHOT = "zero_shot"


@dataclass(frozen=True)
class Selection:
    """Images by key, class by class. `digest` is over keys, labels and pixels; `size` their bytes as stored."""

    keys: tuple[str, ...]
    labels: tuple[int, ...]
    digest: str
    size: int

    def fewest(self, classes: int) -> int:
        """Images of the class that has the fewest."""
        counts = Counter(self.labels)
        return min(counts[label] for label in range(classes))


class LabelledRows:
    """The labelled samples of a dataset, read once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        rows = dataset.rows(["key", "label", "params", "pixel_sha256", "bytes"])
        self.rows = [row for row in rows.to_pylist() if row["label"] is not None]

    @cached_property
    def by_key(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in self.rows}

    def select(self, rows: Sequence[dict[str, Any]]) -> Selection:
        """These rows, named by content."""
        content: list[Any] = [[row["key"], row["label"], row["pixel_sha256"]] for row in rows]
        if any(row["pixel_sha256"] is None for row in rows):  # then only the whole dataset vouches for the pixels
            content.append(dataset_digest(self.dataset))
        digest = hashlib.sha256(canonical_json(content)).hexdigest()
        size = sum(row["bytes"] or 0 for row in rows)
        return Selection(tuple(row["key"] for row in rows), tuple(row["label"] for row in rows), digest, size)


class AdmittedImages(LabelledRows):
    """A variant's kept images."""

    @cached_property
    def sets(self) -> dict[tuple[int, int], list[tuple[int, int, str]]]:
        """(label, ordinal, key) in order, by (shots, few-shot seed) of the reals that they were made for."""
        sets: dict[tuple[int, int], list[tuple[int, int, str]]] = {}
        for row in self.rows:
            params = json.loads(row["params"] or "{}")
            few_shot = (params.get("shots", 0), params.get("few_shot_seed", 0))
            sets.setdefault(few_shot, []).append((row["label"], params.get("ordinal", 0), row["key"]))
        return {few_shot: sorted(rows) for few_shot, rows in sets.items()}


class ArmImages:
    """The images of a job that an arm may be trained on: the few-shot reals, all of train, and each variant's kept images."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._kept: dict[str, AdmittedImages] = {}

    @cached_property
    def train(self) -> LabelledRows:
        return LabelledRows(open_part(self._job, "split", "train"))

    @cached_property
    def classes(self) -> list[str]:
        return self.train.dataset.classes

    @cached_property
    def _seeds(self) -> list[int]:
        return few_shot_seeds(self._job)

    def few_shot_seed(self, seed: int) -> int:
        """The manifest's seed that stands for `seed` 0, 1, ...: the first, the second, and around again."""
        return self._seeds[seed % len(self._seeds)]

    def reals(self, shots: int, seed: int) -> Selection:
        """The few-shot reals of `seed`, class by class, best first."""
        manifest = load_few_shot(self._job, shots, self.few_shot_seed(seed))
        keys = [key for label in sorted(manifest) for key in manifest[label]]
        if missing := [key for key in keys if key not in self.train.by_key]:
            raise UserError(f"few-shot image {missing[0]} is not in split/train; run again: limbeck run split")
        return self.train.select([self.train.by_key[key] for key in keys])

    def everything(self) -> Selection:
        """All of train."""
        return self.train.select(self.train.rows)

    def kept(self, variant: str) -> AdmittedImages:
        """What `datadream` kept of this variant; `UserError` names the command that makes it."""
        if variant not in self._kept:
            output = finished(self._job, "datadream", variant)
            dataset = output.dataset(KEPT)
            if dataset is None:
                raise UserError(
                    f"{output.storage.url} has no dataset {KEPT}; run again: limbeck run datadream@{variant}"
                )
            if dataset.classes != self.classes:
                raise UserError(
                    f"the classes of {dataset.storage.url} are not those of split/train, or not in its order; "
                    f"run again: limbeck run datadream@{variant}"
                )
            self._kept[variant] = AdmittedImages(dataset)
        return self._kept[variant]

    def synthetic(self, variant: str, shots: int, seed: int, per_class: int | None) -> Selection:
        """AdmittedImages images of a variant that were made for these reals: by class, then ordinal, at most `per_class` of each class.

        Zero-shot images know no reals and serve every number of shots and every seed.
        """
        wanted = (0, 0) if variant == ZERO_SHOT else (shots, self.few_shot_seed(seed))
        kept = self.kept(variant)
        if wanted not in kept.sets:
            have = ", ".join(f"{k} shots of seed {few}" for k, few in sorted(kept.sets)) or "none at all"
            raise UserError(
                f"datadream@{variant} has no kept images for {wanted[0]} shots of few-shot seed {wanted[1]}; it has {have}. "
                f"Set datadream.shots and datadream.seeds (or its filters), then: limbeck run datadream@{variant}"
            )
        taken: Counter[int] = Counter()
        rows = []
        for label, _, key in kept.sets[wanted]:
            taken[label] += 1
            if per_class is None or taken[label] <= per_class:
                rows.append(kept.by_key[key])
        return kept.select(rows)
