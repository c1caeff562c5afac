"""A parquet file read in batches of bounded bytes: what is damaged in it is told by the row, and nothing is loaded whole.

Both ways of reading, all rows in order and one row by its place, cut a row group into the same batches.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.outcomes import Outcome, failed
from pipelines.remote import RemoteError
from pipelines.sources.base import unreadable
from pipelines.sources.folder_walk import readable
from pipelines.storage import Storage

#: Bytes of a batch, about: rows differ in size, and a row is never cut.
BATCH_BYTES = 32 << 20
_BATCH_ROWS = 1024
#: Bytes of batches that are kept for reading by place, per process and source.
_KEPT_BYTES = 256 << 20
#: Row groups that are open for reading on, per process and source.
_OPEN = 4
#: Files whose footers are kept, per process and source.
_TABLES = 16
#: What pyarrow raises for a file that is not as it says.
DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)


class Batch(NamedTuple):
    """`rows` of row group `group` from its row `start` on; without them where they cannot be read."""

    group: int
    start: int
    length: int
    rows: pa.RecordBatch | None
    problem: Outcome | None = None


def open_table(storage: Storage, file: str) -> pq.ParquetFile:
    """The file with its footer read and nothing else. Raises one of `DAMAGE`."""
    local = storage.local_path(file)
    named = local is not None and readable(str(local)) == str(local)  # pyarrow takes no name that is not UTF-8
    # Through a buffer and not ahead: else a whole row group is in memory at once. Few writers store checksums of pages.
    return pq.ParquetFile(
        local if named else storage.open(file),
        buffer_size=1 << 20,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def batches(table: pq.ParquetFile, columns: Sequence[str]) -> Iterator[Batch]:
    """All rows of a file in order."""
    for group in range(table.num_row_groups):
        yield from group_batches(table, group, columns)


def group_batches(table: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[Batch]:
    """The rows of one row group; from the first batch that cannot be read to the group's end there is one without rows."""
    count = table.metadata.row_group(group).num_rows
    start, problem = 0, failed("damaged_table", detail=f"row group {group} ends before its rows do")
    try:
        size = rows_at_once(table, group, columns[0])
        for rows in table.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=False):
            yield Batch(group, start, rows.num_rows, rows)
            start += rows.num_rows
    except RemoteError as error:
        problem = unreadable(error)
    except DAMAGE as error:
        reason = f"row group {group} cannot be read from its row {start} on: {first_line(error)}"
        problem = failed("damaged_table", detail=reason)
    if start < count:
        yield Batch(group, start, count - start, None, problem)


def first_line(error: BaseException) -> str:
    """What pyarrow says, short: the first line of it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def rows_at_once(table: pq.ParquetFile, group: int, column: str) -> int:
    """Rows of a batch, from what the footer says of the group's bytes in a column."""
    said = table.metadata.row_group(group)
    size = sum(
        said.column(place).total_uncompressed_size
        for place in range(said.num_columns)
        if said.column(place).path_in_schema.split(".")[0] == column.split(".")[0]
    )
    return max(1, min(_BATCH_ROWS, BATCH_BYTES * max(said.num_rows, 1) // max(size, 1)))


class RowReader:
    """Cells of one column by row group and row. A group is read on from where it stands; batches are kept for a while."""

    def __init__(self, storage: Storage, column: str) -> None:
        self._storage = storage
        self._column = column
        self._kept: OrderedDict[tuple[str, int, int], pa.Array] = OrderedDict()  # by file, group, first row
        self._bytes = 0
        self._running: OrderedDict[tuple[str, int], tuple[Iterator[Batch], int]] = OrderedDict()  # and the rows read
        self._tables: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._lock = threading.Lock()

    def cell(self, file: str, group: int, row: int) -> pa.Scalar:
        """The cell; raises OSError where the table does not have it any more."""
        with self._lock:
            for key, batch in self._kept.items():
                if key[:2] == (file, group) and key[2] <= row < key[2] + len(batch):
                    self._kept.move_to_end(key)
                    return batch[row - key[2]]
            try:
                return self._advance(file, group, row)
            except RemoteError:
                raise
            except DAMAGE as error:
                raise OSError(f"row {row} of row group {group} cannot be read: {error}") from error

    def _advance(self, file: str, group: int, row: int) -> pa.Scalar:
        """Read on to the batch that holds the row; from the start of its group where that lies behind."""
        reading, ahead = self._running.pop((file, group), (None, 0))
        if reading is None or row < ahead:
            reading, ahead = group_batches(self._table(file), group, [self._column]), 0
        for batch in reading:
            if batch.rows is None:
                raise OSError(batch.problem.detail if batch.problem else "")
            column = column_of(batch.rows, self._column)
            self._keep((file, group, batch.start), column)
            ahead = batch.start + batch.length
            if row < ahead:
                self._running[file, group] = (reading, ahead)
                while len(self._running) > _OPEN:
                    self._running.popitem(last=False)
                return column[row - batch.start]
        raise OSError("the table has fewer rows than it had")

    def _table(self, file: str) -> pq.ParquetFile:
        table = self._tables.pop(file, None)
        self._tables[file] = table = table or open_table(self._storage, file)
        while len(self._tables) > _TABLES:
            self._tables.popitem(last=False)
        return table

    def _keep(self, key: tuple[str, int, int], column: pa.Array) -> None:
        if key in self._kept:
            return
        self._kept[key] = column
        self._bytes += column.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def column_of(rows: pa.RecordBatch, name: str) -> pa.Array:
    """A column by its whole name: a dot in it is part of the name."""
    return rows.column(rows.schema.get_field_index(name))
