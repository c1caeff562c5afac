"""The rows that units work on: one table for the whole plan, of which a unit reads its own, and names them by content.

A unit's identity holds the digest of its rows and not their place, so that a unit that is planned before it, or a row that others
have, makes nothing anew. What stands in a row is therefore content too: a column that counts places in some other list (the number
of a shard) is told apart from its neighbours' by what lies there (the shard's hash).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.storage import Storage

#: Where a plan lies in a stage's output.
PLAN_FOLDER = "plan"
ROWS_FILE = f"{PLAN_FOLDER}/rows.parquet"
#: Names of the units by row group, in the metadata of the file.
_UNITS = b"limbeck.units"


def write_rows(storage: Storage, rows: Mapping[str, pa.Table]) -> None:
    """Write the rows of every unit, by its name, into one file; one row group each. All tables have one schema."""
    schema = next(iter(rows.values())).schema.with_metadata({_UNITS: json.dumps(list(rows)).encode()})
    with (
        storage.replacing(ROWS_FILE) as temporary,
        pq.ParquetWriter(str(temporary), schema, compression="zstd") as writer,
    ):
        for unit, table in rows.items():
            assert table.num_rows, f"{unit} has no rows to work on"
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=table.num_rows)


def read_rows(storage: Storage, unit: str) -> list[dict[str, Any]]:
    """The rows of a unit, as the plan in this output gives them."""
    with storage.open(ROWS_FILE) as handle:
        file = pq.ParquetFile(handle)
        group = json.loads(file.schema_arrow.metadata[_UNITS]).index(unit)
        rows: list[dict[str, Any]] = file.read_row_group(group).to_pylist()
        return rows


def table_digest(table: pa.Table) -> str:
    """SHA-256 (hex) over names, types and values of a table's columns; a column without any value is as if it were not there."""
    digest = hashlib.sha256(b"%d" % table.num_rows)
    for field in table.schema:
        column = table[field.name].combine_chunks()
        if column.null_count < len(column):
            digest.update(f"|{field.name}|{field.type}".encode())
            _feed(digest, column)
    return digest.hexdigest()


def _feed(digest: Any, column: pa.Array) -> None:
    """Values and where there are none, whatever buffers they lie in."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    digest.update(b"%d/%d" % (len(column), column.null_count))
    if column.null_count:
        digest.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        column = column.drop_null()
    kind = column.type
    if pa.types.is_struct(kind):
        for part in column.flatten():
            _feed(digest, part)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        digest.update(_plain(pc.list_value_length(column)))
        _feed(digest, column.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        whole = column.cast(pa.large_binary())
        lengths = _plain(pc.binary_length(whole))
        digest.update(lengths)
        if len(whole):
            offsets = np.frombuffer(whole.buffers()[1], np.int64)[whole.offset :][: len(whole) + 1]
            digest.update(memoryview(whole.buffers()[2] or b"")[offsets[0] : offsets[-1]])
    elif not pa.types.is_null(kind):
        digest.update(_plain(column))


def _plain(column: pa.Array) -> bytes:
    """Numbers or switches without a gap, as little-endian bytes."""
    values = column.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()
