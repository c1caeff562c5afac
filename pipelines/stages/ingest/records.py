"""The planning side of `ingest`: every source scanned into one table, classes merged by name, duplicates found, shards dealt.

Nothing is decoded here. A record that a source could not read or understand is a row like any other, with its `problem`.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.fields import caption_of
from pipelines.images.documents import annotations_problem
from pipelines.outcomes import failed
from pipelines.redaction import redacted
from pipelines.seeds import hash_ranks
from pipelines.shards.keys import content_key, key_of_url
from pipelines.sources import Record, SourceParams, open_source
from pipelines.sources.labels import merge
from pipelines.storage import canonical_json

log = logging.getLogger(__name__)

_BATCH = 4096

RECORDS = pa.schema(
    [
        ("origin", pa.int32()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("row", pa.int64()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("split", pa.string()),
        ("caption", pa.string()),
        ("sha256", pa.binary(32)),
        ("duplicate_of", pa.string()),
    ]
)
_PROBLEM = pa.struct([(name, pa.string()) for name in ("status", "reason", "error_class", "detail")])
#: Columns of a plan in which a source hands over more than an image. Other plans do without, so their bytes stay.
HANDED_OVER = pa.schema(
    [("document", pa.string()), ("parents", pa.list_(pa.string())), ("problem", _PROBLEM), ("conflict", pa.string())]
)


class Shares(Protocol):
    """What of `IngestParams` decides the deal."""

    @property
    def order(self) -> str: ...
    @property
    def shard_samples(self) -> int: ...
    @property
    def shard_bytes(self) -> int: ...


class Scanned(NamedTuple):
    """All `records` (RECORDS and HANDED_OVER), the classes by label, and what is no record, by reason."""

    records: pa.Table
    classes: list[str]
    passed: Counter[str]


def scan(sources: Sequence[SourceParams], max_bytes: int | None = None) -> Scanned:
    """One row per record of every source, in order. Streams in batches, so memory is the table's and no more."""
    schema = pa.unify_schemas([RECORDS, HANDED_OVER])
    batches: list[pa.RecordBatch] = []
    named: list[list[str]] = []
    passed: Counter[str] = Counter()
    for origin, params in enumerate(sources):
        source = open_source(params)
        own = [_batch(origin, chunk, schema) for chunk in _chunks(source.scan(max_bytes), _BATCH)]
        stated = source.classes()
        own = own if stated else _of_one_sort(own)
        named.append(stated + _met(own, stated))
        batches += own
        passed.update(source.passed_over())
    table = pa.Table.from_batches(batches, schema=schema)
    classes = merge(named)
    table, classes = _numbered(table, classes, sources)
    return Scanned(table.combine_chunks(), classes, passed)  # many small buffers take twice the room


def without_unused(records: pa.Table) -> pa.Table:
    """The table without columns of HANDED_OVER that say nothing."""
    return records.drop_columns([name for name in HANDED_OVER.names if records[name].null_count == records.num_rows])


def _batch(origin: int, records: Sequence[Record], schema: pa.Schema) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for record in records:
        values: tuple[Any, ...] = (origin, record.source, record.file, record.offset, record.length, record.row)
        values += (record.label, record.label_name, record.split, record.caption, record.sha256, None)
        values += (record.document, record.parents, _problem(record), None)
        for name, value in zip(schema.names, values, strict=True):
            columns[name].append(value)
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _problem(record: Record) -> dict[str, str | None] | None:
    if record.problem is None:
        assert record.sha256 is not None, f"{record.source} has neither bytes nor a problem"
        return None
    return {name: getattr(record.problem, name) for name in _PROBLEM.names}


def _of_one_sort(batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """A source that states no names has numbers or text as labels: beside numbers, text is no class but damage."""
    if not any(pc.any(_unnamed(batch)).as_py() for batch in batches):
        return list(batches)
    refused = {
        "status": "failed",
        "reason": "bad_label",
        "error_class": "permanent",
        "detail": "the label is text, so a name, but other labels of this source are numbers and no names are stated",
    }
    return [_refuse(batch, refused) for batch in batches]


def _refuse(batch: pa.RecordBatch, problem: dict[str, str]) -> pa.RecordBatch:
    names = batch["label_name"].to_pylist()
    labels, problems = batch["label"].to_pylist(), batch["problem"].to_pylist()
    for place, (name, label) in enumerate(zip(names, labels, strict=True)):
        if name is not None and label is None:
            names[place], problems[place] = None, problems[place] or problem
    columns = {name: batch[name] for name in batch.schema.names}
    columns |= {"label_name": pa.array(names, pa.string()), "problem": pa.array(problems, _PROBLEM)}
    return pa.RecordBatch.from_pydict(columns, schema=batch.schema)


def _met(batches: Sequence[pa.RecordBatch], stated: Sequence[str]) -> list[str]:
    """The names that records use and the source did not state, sorted."""
    met = {name for batch in batches for name in pc.unique(batch["label_name"]).to_pylist() if name is not None}
    return sorted(met.difference(stated))


def _unnamed(records: pa.RecordBatch | pa.Table) -> Any:
    """Which records have a number for a label, and no name for it."""
    numbered = pc.and_(pc.is_valid(records["label"]), pc.is_null(records["label_name"]))
    return pc.and_(pc.is_null(records["problem"]), numbered)


def _numbered(table: pa.Table, classes: list[str], sources: Sequence[SourceParams]) -> tuple[pa.Table, list[str]]:
    """The table with labels that count in the merged `classes`, and those classes.

    Numbers without names are names themselves, "0".."N-1", where no source has names; beside names they would be guesses.
    """
    unnamed = _unnamed(table)
    if pc.any(unnamed).as_py():
        if classes:
            first = table.filter(unnamed).slice(0, 1).to_pylist()[0]
            place = f"ingest.sources[{first['origin']}]"
            raise UserError(
                f"{first['source']} in {redacted(sources[first['origin']].path)} has the label {first['label']} and no names say "
                f"which class that is, while others are named ({', '.join(map(ascii, classes[:3]))}, ...); give the "
                f"names by index in {place}.classes"
            )
        most = pc.max(table["label"].filter(unnamed)).as_py()
        classes = [str(label) for label in range(most + 1)]
        log.warning("labels are numbers and no names are stated: the classes are called '0'..'%d'", most)
        names = pc.cast(table["label"], pa.string())
        table = with_column(table, "label_name", pc.if_else(unnamed, names, table["label_name"]))
    labels = pc.cast(pc.index_in(table["label_name"], pa.array(classes, pa.string())), pa.int32())
    table = with_column(table, "label", labels)
    return _with_documents(table, classes), classes


def _with_documents(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """The table with documents that count in the merged classes, and a problem where annotations are none."""
    if table["document"].null_count == table.num_rows:
        return table
    label_of = {name: index for index, name in enumerate(classes)}
    documents, problems = table["document"].to_pylist(), table["problem"].to_pylist()
    for place, text in enumerate(documents):
        if text is not None:
            documents[place], why = _with_categories(text, label_of)
            problems[place] = problems[place] or (why and asdict(failed("bad_annotations", detail=why)))
    table = with_column(table, "problem", pa.array(problems, _PROBLEM))
    return with_column(table, "document", pa.array(documents, pa.string()))


def with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), column)


def captioned(records: pa.Table, template: str) -> pa.Table:
    """The records with a caption by `template` for all that have a class and none of their own."""
    names = pc.unique(records["label_name"].drop_null())
    told = pa.array([caption_of(template, name) for name in names.to_pylist()], pa.string())
    captions = told.take(pc.index_in(records["label_name"], names).combine_chunks())
    return with_column(records, "caption", pc.coalesce(records["caption"], captions))


def _with_categories(document: str, label_of: dict[str, int]) -> tuple[str, str | None]:
    """The document with COCO category ids of the merged classes where annotations name theirs (`category_name`), and why
    its annotations are none."""
    described = json.loads(document)
    why = annotations_problem(described)
    for item in described["annotations"] if why is None else []:
        name = item.get("category_name")
        if isinstance(name, str) and name in label_of:
            item["category_id"] = label_of[name] + 1
    return canonical_json(described).decode(), why


def _chunks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def deal(
    records: pa.Table, anchors: np.ndarray[Any, Any], params: Shares, seed: int
) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The order of the records and the bounds of the shards in it.

    Shuffled: a record's shard and place follow from a hash of the source name of its anchor (itself, for a copy the record
    that is kept), so a changed or an added image moves no other image that is kept. Shard sizes then vary a little (a
    binomial spread) around the target.
    """
    count = records.num_rows
    total = int(np.sum(records["length"].to_numpy()))
    shards = max(math.ceil(count / params.shard_samples), math.ceil(total / params.shard_bytes), 1)
    if params.order == "source":
        step = math.ceil(count / shards)
        return np.arange(count), [*range(0, count, step), count]
    names = (
        f"{origin}:{name}"
        for batch in records.select(["origin", "source"]).to_batches()
        for origin, name in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    place = hash_ranks(names, f"{seed}:")[anchors]
    order = np.argsort(place, kind="stable")
    edges = [int(((1 << 64) * index) // shards) for index in range(1, shards)]
    cuts = np.searchsorted(place[order], np.array(edges, dtype=np.uint64))
    bounds = [0, *(int(cut) for cut in cuts), count]
    return order, [bound for index, bound in enumerate(bounds) if index == 0 or bound > bounds[index - 1]]


def record_key(row: dict[str, Any]) -> str:
    """The key of a planned record: of its bytes, and where there are none to be had, of the place it was met at."""
    if row["sha256"] is not None:
        return content_key(row["sha256"])
    return key_of_url(f"{row['origin']}:{row['source']}:{row['offset']}:{row['row']}")
