"""Images in parquet tables: bytes in a column, Hugging Face's image struct, or paths to files beside the table.

A parquet row can only be read with its row group. Scanning streams one group at a time; `read` keeps the last few
groups, so records that are read in scan order (`order: source` in `ingest`) cost one pass.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.outcomes import Outcome
from pipelines.sources.base import Record, caption_from, digest, escapes, hash_in_order
from pipelines.sources.files import open_files
from pipelines.sources.labels import NO_NAMES, Names, label_from, merge
from pipelines.sources.params import ParquetParams
from pipelines.storage import Storage

#: Row groups kept by `read`, per process and source.
_GROUPS_KEPT = 4


class ParquetSource:
    """See `ParquetParams`. In a `Record`, `offset` is the row group and `row` the row in it."""

    def __init__(self, params: ParquetParams) -> None:
        self._params = params
        self._storage, self._files, self._beside = open_files(params.path, (".parquet",), "parquet file")
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Files by name, rows in file order. An absent image is a record of no bytes, which the image path refuses."""
        for file in self._files:
            with self._open(file) as table:
                names, start = self._names(table.schema_arrow), 0
                for index in range(table.num_row_groups):
                    group = table.read_row_group(index, columns=self._columns())
                    yield from self._scan_group(file, index, start, group, names)
                    start += group.num_rows

    def _scan_group(self, file: str, index: int, start: int, group: pa.Table, names: Names) -> Iterator[Record]:
        images = group.column(self._image_column)

        def load(row: int) -> tuple[int, bytes]:
            return digest(self._bytes(images[row].as_py(), file, start + row))

        labels = self._values(group, self._params.label_column)
        captions = self._values(group, self._params.caption_column)
        for row, length, sha256, unread in hash_in_order(range(group.num_rows), load):
            where = f"{file}#{start + row}"
            said = label_from(labels[row], names)
            caption = caption_from(captions[row])
            refused = caption if isinstance(caption, Outcome) else None
            yield Record(
                source=where,
                file=file,
                offset=index,
                length=length,
                row=row,
                label=said.index,
                label_name=said.name,
                split=self._params.split,
                caption=None if isinstance(caption, Outcome) else caption,
                sha256=sha256,
                problem=unread or said.problem or refused,
            )

    def read(self, record: Record) -> bytes:
        place = (record.file, record.offset)
        with self._lock:
            images = self._groups.get(place)
            if images is None:
                with self._open(record.file) as table:
                    images = table.read_row_group(record.offset, columns=[self._image_column]).column(0)
                self._groups[place] = images
                while len(self._groups) > _GROUPS_KEPT:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(place)
        return self._bytes(images[record.row].as_py(), record.file, record.row)

    def classes(self) -> list[str]:
        """`classes`, else the names in Hugging Face's metadata, file by file. Text labels are names as they are met."""
        if self._params.classes is not None or self._params.label_column is None:
            return list(self._params.classes or ())
        told = []
        for file in self._files:
            with self._open(file) as table:
                told.append(self._names(table.schema_arrow))
        return merge(told)

    def passed_over(self) -> Counter[str]:
        return Counter()

    def _names(self, schema: pa.Schema) -> Names:
        """The class names by index for the labels of a file with this schema."""
        if self._params.classes is not None:
            return Names(self._params.classes)
        column = self._params.label_column
        return NO_NAMES if column is None else Names(_hugging_face_names(schema.metadata, column))

    @property
    def _image_column(self) -> str:
        column = self._params.image_column or self._params.path_column
        assert column is not None
        return column

    def _columns(self) -> list[str]:
        wanted = (self._image_column, self._params.label_column, self._params.caption_column)
        return [name for name in dict.fromkeys(wanted) if name is not None]

    def _open(self, file: str) -> pq.ParquetFile:
        local = self._storage.local_path(file)
        try:
            table = pq.ParquetFile(local if local is not None else self._storage.open(file))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{file} in {self._storage.url} is not a sound parquet file: {error}") from error
        names = table.schema_arrow.names
        for column in self._columns():
            if column not in names:
                table.close()
                raise UserError(f"{file} has no column {column!r}; it has {', '.join(names)}")
        kind = table.schema_arrow.field(self._image_column).type
        sound = _is_text(kind) if self._params.path_column else _is_image(kind)
        if not sound:
            table.close()
            raise UserError(f"{file}: column {self._image_column!r} of type {kind} does not hold images; name another")
        return table

    @staticmethod
    def _values(group: pa.Table, column: str | None) -> list[Any]:
        return [None] * group.num_rows if column is None else group.column(column).to_pylist()

    def _bytes(self, value: Any, file: str, row: int) -> bytes:
        """Encoded bytes of one cell: bytes, a path, a struct of both, or nothing."""
        path: str | None = None
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path")
        if isinstance(value, bytes):
            return value
        path = value if isinstance(value, str) else path
        if path is None:
            return b""
        if escapes(path):
            raise UserError(f"{file}#{row}: the path {path!r} leaves the folder of the table; make it relative to it")
        folder = file.rpartition("/")[0]
        return _read_beside(self._storage, f"{folder}/{path}" if folder else path, f"{file}#{row}")


def _read_beside(storage: Storage, path: str, where: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(f"{where}: no file {path} in {storage.url}; check the path column") from error


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in [field.name for field in kind]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _hugging_face_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str]:
    """Class names of a Hugging Face ClassLabel column from the table's metadata; empty when it says nothing."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = features[column]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
