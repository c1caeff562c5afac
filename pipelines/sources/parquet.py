"""Images in parquet tables: bytes in a column, Hugging Face's image struct, or paths to files beside the table.

A parquet row can only be read with the rows before it in its row group. Scanning streams batches of bounded bytes; `read`
goes on from where it stands and keeps some batches, so records that are read in scan order (`order: source` in `ingest`)
cost one pass.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.outcomes import Outcome
from pipelines.sources.base import (
    Record,
    caption_from,
    hash_in_order,
    inside,
    is_hidden,
    too_many_bytes,
    unreadable,
)
from pipelines.sources.cells import image_of, unfit, values_of
from pipelines.sources.files import open_files
from pipelines.sources.folder_walk import hash_file, native_name, readable, stored_name
from pipelines.sources.labels import NO_NAMES, Names, label_from, merge, stated
from pipelines.sources.params import ParquetParams
from pipelines.sources.row_groups import DAMAGE, Batch, RowReader, batches, column_of, first_line, open_table

_ENDINGS = (".parquet", ".pq", ".parq")
#: What hive calls the folder of rows without a value.
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
#: Rows of a damaged row group that get a row each; what a footer claims beyond is counted only.
_MOST_LOST = 1_000_000
#: Damaged or unfit files that are told in full.
_SHOWN = 20


class ParquetSource:
    """See `ParquetParams`. In a `Record`, `offset` is the row group and `row` the row in it."""

    def __init__(self, params: ParquetParams) -> None:
        self._params = params
        self._storage, self._files, self._beside = open_files(params.path, _ENDINGS, "parquet file", _is_hidden)
        self._rows = RowReader(self._storage, self._image_column)
        self._passed: Counter[str] = Counter()
        self._names_of: dict[str, Names] | None = None

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Files by name, rows in file order. What a damaged row group does not give is a row each, too."""
        self._passed = self._beside.copy()
        stated = self._stated()
        for file in self._files:
            with open_table(self._storage, file) as table:
                partition = _partition(file, self._params.label_column)
                inside = set(table.schema_arrow.names)
                columns = [name for name in self._columns() if name in inside]
                bases = _first_rows(table)
                for batch in batches(table, columns):
                    first = bases[batch.group] + batch.start
                    if batch.rows is None:
                        yield from self._lost(file, first, batch)
                    else:
                        yield from self._scan_batch(file, first, batch, stated[file], partition, max_bytes)

    def read(self, record: Record) -> bytes:
        file = native_name(record.file)
        image = image_of(self._rows.cell(file, record.offset, record.row), self._paths)
        if isinstance(image, str):
            path = inside(self._storage, file, image)
            if isinstance(path, str):
                return self._storage.read_bytes(path)
            image = path
        if isinstance(image, Outcome):
            raise OSError(image.detail)
        return bytes(image)

    def classes(self) -> list[str]:
        """`classes`, else the names in Hugging Face's metadata, file by file. Text labels are names as they are met."""
        if self._params.classes is not None or self._params.label_column is None:
            return list(self._params.classes or ())
        return merge(self._stated().values())

    def passed_over(self) -> Counter[str]:
        return self._passed.copy()

    def _scan_batch(
        self, file: str, first: int, batch: Batch, names: Names, partition: str | None, limit: int | None
    ) -> Iterator[Record]:
        rows = batch.rows
        assert rows is not None
        images = column_of(rows, self._image_column)

        def load(row: int) -> tuple[int, bytes] | Outcome:
            image = image_of(images[row], self._paths)
            if isinstance(image, str):
                path = inside(self._storage, file, image)
                return path if isinstance(path, Outcome) else hash_file(self._storage, path, limit)
            if isinstance(image, Outcome):
                return image
            size = len(image)
            if limit is not None and size > limit:
                return too_many_bytes(size, limit)
            return size, hashlib.sha256(image).digest()

        labels = _values(rows, self._params.label_column)
        captions = _values(rows, self._params.caption_column)
        for row, length, sha256, unread in hash_in_order(range(rows.num_rows), load):
            said = label_from(labels[row], names) if labels else label_from(partition or None, names, member=True)
            caption = caption_from(captions[row] if captions else None)
            refused = caption if isinstance(caption, Outcome) else None
            yield Record(
                source=f"{readable(file)}#{first + row}",
                file=stored_name(file),
                offset=batch.group,
                length=length,
                row=batch.start + row,
                label=said.index,
                label_name=said.name,
                split=self._params.split,
                caption=None if isinstance(caption, Outcome) else caption,
                sha256=sha256,
                problem=unread or said.problem or refused,
            )

    def _lost(self, file: str, first: int, batch: Batch) -> Iterator[Record]:
        """The rows that a damaged row group does not give."""
        for row in range(min(batch.length, _MOST_LOST)):
            place = (f"{readable(file)}#{first + row}", stored_name(file), batch.group, 0, batch.start + row)
            yield Record(*place, None, None, self._params.split, None, None, problem=batch.problem)
        if batch.length > _MOST_LOST:
            self._passed["damaged_table"] += batch.length - _MOST_LOST

    def _stated(self) -> dict[str, Names]:
        """The class names by index for the labels of each file; `UserError` that names every file that is unfit."""
        if self._names_of is not None:
            return self._names_of
        stated: dict[str, Names] = {}
        wrong = []
        for file in self._files:
            try:
                with open_table(self._storage, file) as table:
                    schema = table.schema_arrow
            except DAMAGE as error:
                if isinstance(error, OSError) and error.errno:
                    reason = f"cannot be read: {unreadable(error).detail}"
                else:
                    reason = f"is not a sound parquet file ({first_line(error)})"
                wrong.append(f"{readable(file)} {reason}")
                continue
            fault = self._fault(file, schema)
            if fault:
                wrong.append(f"{readable(file)}: {fault}")
            try:
                stated[file] = self._names(schema)
            except UserError as error:
                wrong.append(f"{readable(file)}: {error}")
        if wrong:
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise UserError(
                f"{len(wrong)} of {len(self._files)} tables at {self._storage.url} cannot be used: "
                f"{'; '.join(wrong[:_SHOWN])}{more}. Mend them or move them away"
            )
        self._names_of = stated
        return stated

    def _fault(self, file: str, schema: pa.Schema) -> str | None:
        """Why a table cannot be used as the parameters say."""
        names = schema.names
        for column in self._columns():
            if names.count(column) > 1:
                return f"it has {names.count(column)} columns {column!r}; rename one"
            if column not in names and (column != self._params.label_column or _partition(file, column) is None):
                return f"it has no column {column!r}; it has {', '.join(names)}"
        kind = schema.field(self._image_column).type
        reason = unfit(kind, self._paths)
        return f"column {self._image_column!r} of type {kind} {reason}" if reason else None

    def _names(self, schema: pa.Schema) -> Names:
        """The class names by index for the labels of a file with this schema."""
        if self._params.classes is not None:
            return Names(self._params.classes)
        column = self._params.label_column
        return NO_NAMES if column is None else _hugging_face_names(schema.metadata, column)

    @property
    def _paths(self) -> bool:
        return self._params.path_column is not None

    @property
    def _image_column(self) -> str:
        column = self._params.image_column or self._params.path_column
        assert column is not None
        return column

    def _columns(self) -> list[str]:
        wanted = (self._image_column, self._params.label_column, self._params.caption_column)
        return [name for name in dict.fromkeys(wanted) if name is not None]


def _first_rows(table: pq.ParquetFile) -> list[int]:
    """The number in the file of each row group's first row."""
    rows, total = [], 0
    for group in range(table.num_row_groups):
        rows.append(total)
        total += table.metadata.row_group(group).num_rows
    return rows


def _values(rows: pa.RecordBatch, column: str | None) -> list[Any] | None:
    """All cells of a column; None where there is none of this name."""
    if column is None or column not in rows.schema.names:
        return None
    return values_of(column_of(rows, column))


def _partition(file: str, column: str | None) -> str | None:
    """The value of a column that hive's way of naming folders (`label=cat/part-0.parquet`) gives all rows of a file.

    "" where the folder says that they have none, None where no folder says anything.
    """
    for part in file.split("/")[:-1]:
        name, equals, value = part.partition("=")
        if equals and unquote(name) == column:
            return "" if value == _NO_VALUE else unquote(value)
    return None


def _is_hidden(path: str) -> bool:
    """Spark and Hadoop leave their own files under names with an underscore: `_SUCCESS`, `_metadata`, `_temporary/`."""
    return is_hidden(path) or any(part.startswith("_") and "=" not in part for part in path.split("/"))


def _hugging_face_names(metadata: dict[bytes, bytes] | None, column: str) -> Names:
    """Class names of a Hugging Face ClassLabel column from the table's metadata; empty when it says nothing."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = features[column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return NO_NAMES
    if names is None:
        return NO_NAMES
    if isinstance(names, list):  # there are years and digits among the published ones
        names = [str(name) if isinstance(name, int) and not isinstance(name, bool) else name for name in names]
    return stated(names, f"what its metadata says of {column!r}")
