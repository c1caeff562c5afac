"""Reads what units of the stage at work committed before, each file checked against the marker that names it.

A unit of a later wave, or `Stage.finish`, may come days after the file was written, and what it makes of it is sealed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import all_markers
from pipelines.runtime.publication import shard_entries
from pipelines.runtime.units import Marker
from pipelines.shards.account import Account
from pipelines.shards.checksum import FileSum, remedy, sum_of
from pipelines.shards.dataset import Dataset
from pipelines.shards.index import Index, ShardEntry


class Committed:
    """The files that units of this job committed. Markers are read at the first use, and again when a file is not in them."""

    def __init__(self, job: Job[Any], markers: Iterable[Marker] | None = None) -> None:
        self._job, self._storage = job, job.output
        self._markers: dict[str, Marker] = {}
        self._sums: dict[str, FileSum] = {}
        self._take(markers or ())

    def read(self, path: str) -> bytes:
        """The content of a file; `UserError` when it is not the one that its unit committed."""
        data = self._storage.read_bytes(path)
        actual = sum_of(data)
        if self._sums.get(path) != actual:
            self._look()  # a marker may have been written since
        if self._sums.get(path) != actual:
            raise UserError(
                f"{self._storage.url}/{path} is not the file that its unit wrote (its SHA-256 is another); {remedy(self._job.name)}"
            )
        return data

    def json(self, path: str) -> Any:
        """The content of a JSON file."""
        return json.loads(self.read(path))

    def paths(self, folder: str) -> list[str]:
        """Committed files below a folder, sorted."""
        self._look()
        return sorted(path for path in self._sums if path.startswith(f"{folder}/"))

    def shard(self, unit: str, part: str) -> Dataset:
        """The shard that a unit wrote into the dataset folder `part`, as a dataset of its own."""
        entries, folder = self._entries(unit, part), self._storage.child(part)
        if any(sum_of(folder.read_bytes(one.sidecar)) != one.sums[one.sidecar] for one in entries) or not entries:
            self._look()  # the unit may have been done anew since, with other parameters
            entries = self._entries(unit, part)
        if not entries:
            raise UserError(f"{self._storage.url} has no shard of {unit}; {remedy(self._job.name)}")
        index = Index(tuple(entries), {}, Account(0, 0))
        return Dataset(folder, index, self._job.name)

    def _entries(self, unit: str, part: str) -> list[ShardEntry]:
        return shard_entries([self._markers[unit]], part) if unit in self._markers else []

    def _look(self) -> None:
        self._take(all_markers(self._storage))

    def _take(self, markers: Iterable[Marker]) -> None:
        self._markers = {marker.name: marker for marker in markers}
        files = (file for marker in self._markers.values() for file in marker.files)
        self._sums = {file.path: FileSum(file.bytes, file.sha256) for file in files}
