"""The sidecar of a shard: a parquet table with one row per attempted sample, failed and dropped ones included.

Rows stand in plan order; those of kept samples stand in the order of the shard. The bytes of the file depend on the
rows and on the pyarrow release only (its name is the one version text inside); nothing records a time or a machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.shards.checksum import remedy
from pipelines.shards.sample import MemberSpan
from pipelines.storage import Storage

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # kept | dropped | failed
        pa.field("reason", pa.string()),
        pa.field("error_class", pa.string()),  # transient | permanent | policy
        pa.field("detail", pa.string()),
        pa.field("source", pa.string()),  # a locator for people, relative to the source
        pa.field("split", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("label_name", pa.string()),
        pa.field("width", pa.int32()),  # of the stored image, pixels
        pa.field("height", pa.int32()),
        pa.field("src_width", pa.int32()),
        pa.field("src_height", pa.int32()),
        pa.field("src_format", pa.string()),
        pa.field("bytes", pa.int64()),  # of the stored image
        pa.field("raw_sha256", pa.string()),  # hex, of the source bytes
        pa.field("pixel_sha256", pa.string()),  # hex, of the stored pixels
        pa.field("phash", pa.string()),  # 16 hex characters
        pa.field("decoder", pa.string()),
        pa.field("orientation", pa.int8()),  # EXIF, 1 to 8
        pa.field(
            "members",
            pa.list_(
                pa.struct(
                    [
                        pa.field("ext", pa.string()),
                        pa.field("offset", pa.int64()),
                        pa.field("size", pa.int64()),
                        pa.field("xxh3", pa.uint64()),  # of the member's bytes; see `checksum`
                    ]
                )
            ),
        ),  # null for samples that are not in the shard
        pa.field("parents", pa.list_(pa.string())),
        pa.field("op", pa.string()),
        pa.field("params", pa.string()),  # JSON
        pa.field("seed", pa.int64()),
        pa.field("model_id", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("notes", pa.string()),  # what was odd about a kept sample and did it no harm
    ]
)

OUTCOMES = ("kept", "dropped", "failed")

_COLUMNS = frozenset(SCHEMA.names)
# Columns whose values never repeat would only waste a dictionary page. Nested columns are named by their leaf.
_UNIQUE_COLUMNS = {"key", "source", "raw_sha256", "pixel_sha256", "phash"}
_DICTIONARY_COLUMNS = [
    *(field.name for field in SCHEMA if pa.types.is_string(field.type) and field.name not in _UNIQUE_COLUMNS),
    "members.list.element.ext",
]


class Sidecar:
    """Collects the rows of one shard in memory and writes them once."""

    def __init__(self) -> None:
        self._rows: list[Mapping[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it must not change afterwards. Missing columns are null, `members` are spans."""
        unknown = row.keys() - _COLUMNS
        assert not unknown, f"no such sidecar columns: {sorted(unknown)}"
        assert row.get("key"), "a row without a key"
        assert row.get("outcome") in OUTCOMES, f"{row.get('key')} has the outcome {row.get('outcome')!r}"
        self._rows.append(row)

    def table(self) -> pa.Table:
        """The rows so far as a table of `SCHEMA`."""
        columns = []
        for field in SCHEMA:
            values = [row.get(field.name) for row in self._rows]
            columns.append(_spans(values, field.type) if field.name == "members" else pa.array(values, field.type))
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    def write(self, path: Path) -> None:
        """Write all rows to a local file with fixed parquet settings."""
        pq.write_table(
            self.table(),
            path,
            version="2.6",
            compression="zstd",
            compression_level=3,
            use_dictionary=_DICTIONARY_COLUMNS,
            row_group_size=1 << 16,
            data_page_size=1 << 20,
            write_statistics=True,
        )


def _spans(lists: list[Any], kind: pa.DataType) -> pa.Array:
    """The column of member spans, built flat: through a mapping per span it would cost as much as all the others."""
    flat: list[MemberSpan] = []
    ends: list[int | None] = []
    for spans in lists:
        ends.append(None if spans is None else len(flat))
        flat += [span if isinstance(span, MemberSpan) else MemberSpan(**span) for span in spans or ()]
    fields = list(kind.value_type)
    parts = zip(*flat, strict=True) if flat else ((),) * len(fields)
    struct = pa.StructArray.from_arrays(
        [pa.array(part, field.type) for part, field in zip(parts, fields, strict=True)], fields=fields
    )
    return pa.ListArray.from_arrays(pa.array([*ends, len(flat)], pa.int32()), struct, type=kind)


def read_sidecar(
    storage: Storage,
    path: str,
    columns: Iterable[str] | None = None,
    sha256: str | None = None,
    made_by: str = "STAGE",
) -> pa.Table:
    """The rows of a sidecar, all columns or those named.

    With `sha256`, as the index says it, the whole file is read and must have it; without, only the bytes of those columns are
    read. Raises `UserError` when the file is missing, is another than the index says, is not parquet, or lacks a column.
    """
    try:
        with _opened(storage, path, sha256, made_by) as file:
            wanted = list(SCHEMA.names if columns is None else columns)
            missing = set(wanted) - set(file.schema_arrow.names)
            if missing:
                raise UserError(f"{storage.url}/{path} lacks the columns {sorted(missing)}")
            return file.read(columns=wanted, use_threads=False)
    except FileNotFoundError as error:
        raise UserError(f"no sidecar {path} in {storage.url}; {remedy(made_by)}") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{storage.url}/{path} is not a readable sidecar: {error}") from error


def _opened(storage: Storage, path: str, sha256: str | None, made_by: str) -> pq.ParquetFile:
    if sha256 is not None:
        # Hashed and parsed are the same bytes, so that nothing can change in between.
        data = storage.read_bytes(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(
                f"the sidecar {storage.url}/{path} is not the one its index names (its SHA-256 is another); {remedy(made_by)}"
            )
        return pq.ParquetFile(pa.BufferReader(data))
    local = storage.local_path(path)
    return pq.ParquetFile(local if local is not None else storage.open(path))
