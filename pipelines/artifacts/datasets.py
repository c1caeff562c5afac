"""Opens what earlier stages left, and names it by content."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from pipelines.errors import UserError
from pipelines.runtime.finished import Finished
from pipelines.runtime.job import Job
from pipelines.shards.dataset import Dataset
from pipelines.shards.index import INDEX
from pipelines.storage import Storage

#: Where `split` puts the samples.
PARTS = ("train", "val", "test")
METRICS_FILE = "metrics.json"


def file_digest(storage: Storage, path: str) -> str:
    """SHA-256 (hex) of a file; the identity of whatever it indexes."""
    return hashlib.sha256(storage.read_bytes(path)).hexdigest()


def finished(job: Job[Any], stage: str, item: str = "") -> Finished:
    """The output of an earlier stage, every file of it checked, or a sentence that names the command which makes it."""
    return Finished(job.input(stage, item), f"{stage}@{item}" if item else stage)


def open_part(job: Job[Any], name: str, part: str = "") -> Dataset:
    """The finished dataset that STAGE or STAGE@ITEM left, or a sentence that names the command which makes it."""
    stage, _, item = name.partition("@")
    output = finished(job, stage, item)
    dataset = output.dataset(part)
    if dataset is None:
        have = ", ".join(filter(None, output.parts())) or "none"
        wanted = f"{part} dataset" if part else "dataset of its own"
        raise UserError(f"{name} made no {wanted} (it made: {have}); see {stage} in params.yaml")
    return dataset


def commonest_share(dataset: Dataset) -> float:
    """The accuracy of whoever names a dataset's commonest class every time: what a network that knows nothing may reach."""
    labels = dataset.rows(["label"])["label"].to_pylist()
    return max(Counter(labels).values(), default=0) / max(len(labels), 1)


def dataset_digest(dataset: Dataset) -> str:
    """The identity of a dataset: the hash of its index, which holds the hash of every shard."""
    return file_digest(dataset.storage, INDEX)


def stage_digest(job: Job[Any], stage: str, item: str = "") -> str:
    """The identity of the whole output of an earlier stage, or of one of its items: of what it published, and not of how or by which
    code that was made."""
    return finished(job, stage, item).digest
