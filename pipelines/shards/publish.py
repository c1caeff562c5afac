"""Turns finished shards and sidecars into a dataset: sizes, classes, statistics, description, and the index last.

Every file is a function of its inputs; no time, host or path is written, so equal inputs give an equal folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.shards.croissant import croissant
from pipelines.shards.index import INDEX, Index, ShardEntry
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.stats import STATS_COLUMNS, DatasetStats, merged
from pipelines.storage import Storage, pretty_json

#: Beside the tars, where open_clip looks for it: `{"ingest-000000.tar": 1000}`.
SIZES_FILE = "shards/sizes.json"
CLASSES_FILE = "classes.json"
STATS_FILE = "stats.json"
CROISSANT_FILE = "dataset.json"

#: Object stores are slow to answer; local files are not, and every reader takes memory.
_READERS, _LOCAL_READERS = 8, 2


def unpublish(storage: Storage) -> None:
    """Mark a dataset as unfinished before its shards change: readers refuse a folder without an index."""
    if storage.exists(INDEX):
        storage.remove(INDEX)


def publish(storage: Storage, shards: Sequence[ShardEntry], classes: Sequence[str], extra: dict[str, Any]) -> None:
    """Write what makes `shards` a dataset; their tars and sidecars must be in place.

    `classes[label]` names a label. `extra` is JSON that goes into the index; its `name`, `description`, `license`,
    `url`, `version`, `creator`, `citeAs`, `datePublished` and `keywords` also describe the set in `dataset.json`.
    """
    index = Index(tuple(shards), extra)
    names = [shard.name for shard in shards]
    assert len(set(names)) == len(names), "two shards have one name"
    unpublish(storage)
    stats = dataset_stats(storage, shards)
    assert stats.outcomes["kept"] == index.samples, f"{stats.outcomes['kept']} kept rows, {index.samples} samples"
    storage.write_bytes(SIZES_FILE, pretty_json({shard.path.rsplit("/", 1)[-1]: shard.samples for shard in shards}))
    storage.write_bytes(CLASSES_FILE, pretty_json(list(classes)))
    storage.write_bytes(STATS_FILE, pretty_json(stats.to_json(list(classes))))
    storage.write_bytes(CROISSANT_FILE, pretty_json(croissant(index, list(classes))))
    storage.write_bytes(INDEX, pretty_json(index.to_json()))


def dataset_stats(storage: Storage, shards: Sequence[ShardEntry]) -> DatasetStats:
    """Counts over the sidecars of `shards`, read in parallel and only in the columns that are counted."""

    def of(shard: ShardEntry) -> DatasetStats:
        return DatasetStats.of(read_sidecar(storage, shard.sidecar, STATS_COLUMNS))

    with ThreadPoolExecutor(_LOCAL_READERS if storage.is_local else _READERS) as pool:
        return merged(pool.map(of, shards))
