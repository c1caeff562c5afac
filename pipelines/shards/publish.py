"""Turns finished shards and sidecars into a dataset: sizes, classes, statistics, description, and the index last.

Every file is a function of its inputs; no time, host or path is written, so equal inputs give an equal folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pipelines.shards.account import Account, Met
from pipelines.shards.checksum import signed_bytes, sum_of
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


def publish(
    storage: Storage,
    shards: Sequence[ShardEntry],
    classes: Sequence[str],
    extra: Mapping[str, Any],
    met: Met | None = None,
) -> None:
    """Write what makes `shards` a dataset; their tars and sidecars must be in place.

    `classes[label]` names a label. `extra` is JSON that goes into the index; its `name`, `description`, `license`,
    `url`, `version`, `creator`, `citeAs`, `datePublished` and `keywords` also describe the set in `dataset.json`.
    Without `met`, everything that was seen has a row.
    """
    names = [shard.name for shard in shards]
    assert len(set(names)) == len(names), "two shards have one name"
    unpublish(storage)
    stats = dataset_stats(storage, shards)
    kept_rows, rows, samples = stats.outcomes["kept"], stats.outcomes.total(), sum(shard.samples for shard in shards)
    assert kept_rows == samples, f"{kept_rows} kept rows, {samples} samples"
    met = met or Met(rows, {})
    account = Account(met.seen, rows, met.passed_over)
    assert not account.missing, f"the account does not add up: {account.to_json()}"
    index = Index(tuple(shards), extra, account)
    described = {
        SIZES_FILE: {shard.path.rsplit("/", 1)[-1]: shard.samples for shard in shards},
        CLASSES_FILE: list(classes),
        STATS_FILE: stats.to_json(list(classes)),
        CROISSANT_FILE: croissant(index, list(classes)),
    }
    written = {path: pretty_json(form) for path, form in described.items()}
    for path, data in written.items():
        storage.write_bytes(path, data)
    index = replace(index, files={path: sum_of(data) for path, data in written.items()})
    storage.write_bytes(INDEX, signed_bytes(index.to_json()))


def dataset_stats(storage: Storage, shards: Sequence[ShardEntry]) -> DatasetStats:
    """Counts over the sidecars of `shards`, each checked against its hash, read in parallel."""

    def of(shard: ShardEntry) -> DatasetStats:
        return DatasetStats.of(read_sidecar(storage, shard.sidecar, STATS_COLUMNS, shard.sidecar_sha256))

    with ThreadPoolExecutor(_LOCAL_READERS if storage.is_local else _READERS) as pool:
        return merged(pool.map(of, shards))
