"""A dataset folder: shards, sidecars and the files that describe them, seen as one thing.

Opening reads `index.json` only. Rows come from sidecars, bytes from shards by offset; all that is read is checked against
the index and the rows (see `checksum`), so that what is handed out is what was written. Shuffling, workers and tensors
are the affair of `pipelines.loaders`; writing the describing files is in `publish`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.shards.account import Account
from pipelines.shards.checksum import remedy, sum_of
from pipelines.shards.index import INDEX, Index, ShardEntry, read_index
from pipelines.shards.publish import CLASSES_FILE, publish, unpublish
from pipelines.shards.reader import ShardReader
from pipelines.shards.sample import IMAGE_EXTENSIONS, MemberSpan, Sample
from pipelines.shards.sidecar import SCHEMA, read_sidecar
from pipelines.shards.walker import TarDamage
from pipelines.storage import Storage

__all__ = ["INDEX", "Dataset", "ShardEntry", "publish", "unpublish"]

#: Shards kept open at once; far below the usual limit of 1024 descriptors.
_OPEN_SHARDS = 128
_READERS = 8

#: A span as it comes from a writer (`MemberSpan`) or from a row of a sidecar (a mapping).
Span = MemberSpan | Mapping[str, Any]


class Dataset:
    """A finished dataset. Cheap to open and to pickle; reading is safe from many threads."""

    def __init__(self, storage: Storage, index: Index, made_by: str = "STAGE") -> None:
        self.storage = storage
        self._made_by = made_by
        self.shards = index.shards
        self._index = index
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(cls, location: str | Path | Storage, made_by: str = "STAGE") -> Dataset:
        """Open the dataset at a URL; raises `UserError` with the next command when it is unfinished.

        `made_by` is STAGE or STAGE@ITEM, where it is known, for the sentences about damage.
        """
        storage = location if isinstance(location, Storage) else Storage(location)
        return cls(storage, read_index(storage, made_by=made_by), made_by)

    def __reduce__(self) -> tuple[type[Dataset], tuple[Storage, Index, str]]:
        return Dataset, (self.storage, self._index, self._made_by)

    def __len__(self) -> int:
        """Kept samples."""
        return self._index.samples

    @cached_property
    def index(self) -> dict[str, Any]:
        """The document `index.json`; the attribute `shards` has its entries as typed values."""
        return self._index.to_json()

    @property
    def account(self) -> Account:
        """What was seen on the way to this dataset, and where it went."""
        return self._index.account

    @cached_property
    def classes(self) -> list[str]:
        """Class names; the position is the label. Empty for unlabelled data."""
        try:
            return [str(name) for name in json.loads(self.file(CLASSES_FILE))]
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.storage.url}/{CLASSES_FILE} cannot be read: {error}") from error

    def file(self, path: str) -> bytes:
        """A describing file of the dataset, such as `stats.json`, checked against the index."""
        recorded = self._index.files.get(path)
        try:
            data = self.storage.read_bytes(path)
        except FileNotFoundError:
            raise UserError(f"no {path} in {self.storage.url}; {remedy(self._made_by)}") from None
        if sum_of(data) != recorded:
            raise UserError(
                f"{self.storage.url}/{path} is not the file that its {INDEX} names (its SHA-256 is another); "
                f"{remedy(self._made_by)}"
            )
        return data

    def sidecar(self, shard: int, columns: Iterable[str] | None = None) -> pa.Table:
        """Rows of one shard, all attempted samples, checked against the index."""
        entry = self.shards[shard]
        return read_sidecar(self.storage, entry.sidecar, columns, entry.sidecar_sha256, self._made_by)

    def rows(self, columns: Iterable[str] | None = None, kept_only: bool = True) -> pa.Table:
        """Sidecar rows of all shards in index order, plus an int32 column `shard`, the position in `shards`."""
        wanted = list(SCHEMA.names if columns is None else columns)
        # The filter needs the outcome whether or not the caller does.
        needed = wanted if not kept_only or "outcome" in wanted else [*wanted, "outcome"]

        def of(place: int) -> pa.Table:
            table = self.sidecar(place, needed)
            if kept_only:
                table = table.filter(pc.equal(table["outcome"], "kept"))
            return table.select(wanted).append_column(_SHARD_FIELD, pa.array([place] * len(table), pa.int32()))

        with ThreadPoolExecutor(_READERS) as pool:
            tables = list(pool.map(of, range(len(self.shards))))
        if not tables:
            return pa.schema([*(SCHEMA.field(name) for name in wanted), _SHARD_FIELD]).empty_table()
        return pa.concat_tables(tables)

    def by_content(self, rows: pa.Table) -> pa.Table:
        """What `rows` returned with the SHA-256 (hex) of each shard for its position: what a row says is then the same wherever its
        shard stands in the index."""
        sums = pa.array([shard.sha256 for shard in self.shards], pa.string()).dictionary_encode()
        place = rows.schema.get_field_index("shard")
        return rows.set_column(place, "shard", sums.take(rows["shard"].combine_chunks()))

    def place_of(self, sha256: str) -> int:
        """The position of the shard with this SHA-256 (hex)."""
        return self._places[sha256]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {shard.sha256: place for place, shard in enumerate(self.shards)}

    def reader(self, shard: int) -> ShardReader:
        """The reader of the shard at this position of the index; a bounded number stays open."""
        with self._lock:
            reader = self._readers.pop(shard, None) or ShardReader(self.storage, self.shards[shard].path)
            self._readers[shard] = reader
            if len(self._readers) > _OPEN_SHARDS:
                self._readers.popitem(last=False)
            return reader

    def read(
        self, shard: int, key: str, members: Iterable[Span], exts: Iterable[str] | None = None
    ) -> dict[str, bytes]:
        """{extension: bytes} of the sample `key`: all of `members` (as in its row) or only those in `exts`.

        Raises `UserError` when the bytes are not those that were written.
        """
        try:
            return self.reader(shard).read(_spans(members), exts)
        except TarDamage as damage:
            raise UserError(self.damaged(shard, key, damage.reason)) from None

    def read_image_bytes(self, shard: int, key: str, members: Iterable[Span]) -> bytes:
        """The encoded image of the sample `key`; raises `KeyError` when it has none, otherwise as `read`."""
        for data in self.read(shard, key, members, IMAGE_EXTENSIONS).values():
            return data
        raise KeyError(f"sample {key} has no image member")

    def damaged(self, shard: int, key: str, reason: str) -> str:
        """The sentence about a sample whose bytes are not those that were written."""
        where = f"{self.storage.url}/{self.shards[shard].path}"
        return f"sample {key} in {where} is damaged: {reason}; {remedy(self._made_by)}"

    def samples(self, kept_only: bool = True) -> Iterator[Sample]:
        """Samples in index order with their rows; those that were not kept have no members."""
        for place in range(len(self.shards)):
            for batch in self.sidecar(place).to_batches(max_chunksize=256):
                for row in batch.to_pylist():
                    if row["outcome"] == "kept":
                        yield Sample(row["key"], tuple(self.read(place, row["key"], row["members"]).items()), row)
                    elif not kept_only:
                        yield Sample(row["key"], (), row)


_SHARD_FIELD = pa.field("shard", pa.int32(), nullable=False)


def _spans(members: Iterable[Span]) -> list[MemberSpan]:
    return [
        span if isinstance(span, MemberSpan) else MemberSpan(span["ext"], span["offset"], span["size"], span["xxh3"])
        for span in members
    ]
