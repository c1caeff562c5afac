"""The profiles that `split` left: which training images a long-tailed or low-quality training set has, and what is done to them.

A profile is a decision table over the part `train`, which stays as it is: `key`, `label`, `decision` (kept | dropped), `reason`, and
`corruption` {kind, severity, seed} where the image is to be spoilt as it is read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts.datasets import finished, open_part
from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays, load_arrays, load_images
from pipelines.loaders.corruptions import Corruption
from pipelines.runtime.job import Job
from pipelines.storage import canonical_json
from synth.discl.groups import Group, groups_of

#: Of the column `corruption`.
CORRUPTION = pa.struct([("kind", pa.string()), ("severity", pa.int8()), ("seed", pa.int64())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("decision", pa.string()),
        ("reason", pa.string()),
        ("corruption", CORRUPTION),
    ]
)


def profile_file(name: str) -> str:
    """Where a profile lies in the output of `split`."""
    return f"profiles/{name}.parquet"


@dataclass(frozen=True, eq=False)
class Profile:
    """The images that a profile keeps: `keys` with their `labels` (n,) int64, in the order of the split's decisions.

    `counts` (classes,) int64 are images per class, `group` says of each class which group it is of, `limits` are above which count
    a class has many and below which it has few. `corruptions` are by key, of those that have one. `digest` names all this by content.
    """

    name: str
    classes: Sequence[str]
    keys: Sequence[str]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    limits: tuple[int, int]
    corruptions: Mapping[str, Corruption]
    digest: str

    @cached_property
    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    @cached_property
    def group(self) -> tuple[Group, ...]:
        return groups_of(self.counts.tolist(), *self.limits)


def load_profile(job: Job[Any], name: str) -> Profile:
    """Read the profile `name` of `split`; `UserError` when there is none, or when a class has no image in it."""
    output = finished(job, "split")
    profiles = output.facts.get("profiles", {})
    if name not in profiles:
        have = ", ".join(profiles) or "none"
        raise UserError(
            f"{job.name} asks for the profile {name!r}, split made {have}; add it to split.profiles, then: limbeck run split"
        )
    raw = output.read(profile_file(name))
    table = pq.read_table(io.BytesIO(raw))
    table = table.filter(pa.compute.equal(table["decision"], "kept"))
    limits = (int(profiles[name]["many"]), int(profiles[name]["few"]))
    profile = Profile(
        name=name,
        classes=open_part(job, "split", "train").classes,
        keys=table["key"].to_pylist(),
        labels=table["label"].to_numpy().astype(np.int64),
        limits=limits,
        corruptions={
            key: Corruption(**form)
            for key, form in zip(table["key"].to_pylist(), table["corruption"].to_pylist(), strict=True)
            if form is not None
        },
        digest=hashlib.sha256(canonical_json([hashlib.sha256(raw).hexdigest(), limits])).hexdigest(),
    )
    if not profile.counts.all():
        empty = profile.classes[int(np.argmin(profile.counts))]
        raise UserError(f"the profile {name!r} keeps no image of class {empty}; give it one in split.profiles.{name}")
    return profile


def profile_arrays(job: Job[Any], profile: Profile, keys: Sequence[str] | None = None) -> ImageArrays:
    """Decode the images of a profile, or those of `keys` in that order, into memory, spoilt where it says so; all of one size."""
    chosen = list(profile.keys if keys is None else keys)
    arrays = load_arrays(open_part(job, "split", "train"), chosen)
    for place, key in enumerate(chosen):
        if key in profile.corruptions:
            arrays.images[place] = profile.corruptions[key](arrays.images[place])
    return arrays


def profile_images(job: Job[Any], profile: Profile, keys: Sequence[str]) -> list[np.ndarray[Any, Any]]:
    """(3, H, W) uint8 of the images of `keys`, in that order, each of its own size, spoilt where the profile says so."""
    images = load_images(open_part(job, "split", "train"), keys)
    return [
        profile.corruptions[key](image) if key in profile.corruptions else image
        for key, image in zip(keys, images, strict=True)
    ]
