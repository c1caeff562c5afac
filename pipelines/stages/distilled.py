"""The sets that students are compared on: the first n slots of a distilled set, and as many random real images."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.job import Job
from pipelines.runtime.seeds import seed_for
from pipelines.shards.dataset import Dataset
from pipelines.shards.keys import slot_key
from pipelines.stages.common import open_part


def load_distilled(job: Job[Any], ipc: int) -> ImageArrays:
    """The images of slots 0..ipc-1 of every class, class by class: nested, IPC 1 is the head of IPC 10."""
    dataset = open_part(job, "cda")
    keys = [slot_key("cda", label, slot) for label in range(len(dataset.classes)) for slot in range(ipc)]
    try:
        return load_arrays(dataset, keys)
    except UserError as error:
        have = len(dataset) // max(len(dataset.classes), 1)
        if ipc <= have:
            raise
        raise UserError(
            f"{job.stage} asks for {ipc} images per class, {dataset.storage.url} has {have}; raise cda.ipc or lower "
            f"{job.stage}.ipc"
        ) from error


def random_real(train: ImageArrays, classes: int, ipc: int, run_seed: int, draw: int) -> ImageArrays:
    """`ipc` random training images of every class, class by class; nested in `ipc`, different for every `draw`."""
    chosen: list[int] = []
    for label in range(classes):
        pool = np.flatnonzero(train.labels == label)
        if len(pool) < ipc:
            raise UserError(f"class {label} has {len(pool)} training images, fewer than the {ipc} per class asked for")
        rng = np.random.Generator(np.random.PCG64(seed_for(run_seed, "evaluate", f"class {label}", f"random {draw}")))
        chosen += [int(pool[place]) for place in rng.permutation(len(pool))[:ipc]]
    return train.take(chosen)


def stored_image_bytes(dataset: Dataset, keys: list[str]) -> int:
    """Bytes of the encoded images of `keys`, as stored."""
    wanted = set(keys)
    rows = dataset.rows(["key", "bytes"])
    return sum(
        size for key, size in zip(rows["key"].to_pylist(), rows["bytes"].to_pylist(), strict=True) if key in wanted
    )
