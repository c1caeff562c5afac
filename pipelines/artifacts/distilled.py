"""The sets that students are compared on: the first n slots of a distilled set, and as many random real images."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.distinct import distinct_places
from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.job import Job
from pipelines.seeds import seed_for
from pipelines.shards.dataset import Dataset
from pipelines.shards.keys import slot_key


def set_name(number: int) -> str:
    """What the distilled set of a seed is called in keys: `cda`, `cda_s1`, `cda_s2`, ..."""
    return "cda" if number == 0 else f"cda_s{number}"


def distilled_sets(job: Job[Any]) -> int:
    """How many sets were distilled, each from a seed of its own."""
    return int(finished(job, "cda").config()["cda"].get("seeds", 1))


def images_per_class(job: Job[Any], dataset: Dataset) -> int:
    """Those of one distilled set."""
    return len(dataset) // max(len(dataset.classes), 1) // distilled_sets(job)


def load_distilled(job: Job[Any], ipc: int, number: int = 0) -> ImageArrays:
    """The images of slots 0..ipc-1 of every class of a set, class by class: nested, IPC 1 is the head of IPC 10."""
    dataset, name = open_part(job, "cda"), set_name(number)
    keys = [slot_key(name, label, slot) for label in range(len(dataset.classes)) for slot in range(ipc)]
    try:
        return load_arrays(dataset, keys)
    except UserError as error:
        have = images_per_class(job, dataset)
        if ipc <= have:
            raise
        raise UserError(
            f"{job.name} asks for {ipc} images per class, {dataset.storage.url} has {have}; raise cda.ipc or lower "
            f"what {job.name} asks for"
        ) from error


def keys_by_class(dataset: Dataset) -> list[list[str]]:
    """Keys of every class, in index order, of different pictures that have one label (`pictures`). Reads no pixels."""
    rows = dataset.rows(["key", "label", "pixel_sha256"])
    names, labels, pictures = (rows[name].to_pylist() for name in ("key", "label", "pixel_sha256"))
    keys: list[list[str]] = [[] for _ in dataset.classes]
    for place in distinct_places(labels, pictures):
        keys[labels[place]].append(names[place])
    return keys


def shuffled_keys(dataset: Dataset, seed: int) -> list[list[str]]:
    """`keys_by_class` with every class in a random order that follows from `seed`."""
    order = [np.random.Generator(np.random.PCG64(seed + label)).permutation for label in range(len(dataset.classes))]
    return [
        [keys[place] for place in draw(len(keys))] for draw, keys in zip(order, keys_by_class(dataset), strict=True)
    ]


def random_real(dataset: Dataset, ipc: int, run_seed: int, draw: int) -> ImageArrays:
    """`ipc` random training images of every class, class by class; nested in `ipc`, different for every `draw`."""
    chosen: list[str] = []
    for name, keys in zip(
        dataset.classes, shuffled_keys(dataset, seed_for(run_seed, "evaluate", "random", str(draw))), strict=True
    ):
        if len(keys) < ipc:
            raise UserError(
                f"class {name} has {len(keys)} different training images, fewer than the {ipc} per class asked for; lower "
                "evaluate.distilled.ipc, or leave out the random arms (evaluate.distilled.arms)"
            )
        chosen += keys[:ipc]
    return load_arrays(dataset, chosen)


def stored_image_bytes(dataset: Dataset, keys: list[str]) -> int:
    """Bytes of the encoded images of `keys`, as stored."""
    wanted = set(keys)
    rows = dataset.rows(["key", "bytes"])
    return sum(
        size for key, size in zip(rows["key"].to_pylist(), rows["bytes"].to_pylist(), strict=True) if key in wanted
    )
