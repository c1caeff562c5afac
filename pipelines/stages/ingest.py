"""`ingest`: any source of images -> a dataset of clean, keyed, byte-stable shards.

Plan: scan every source (hash, no decode), name each record by its content, decide duplicates over the whole set, and
deal the records into shards by a hash of where they come from, so that changing one image touches one shard and a
sequential reader sees mixed classes. Run: the one safe image path, threads in, plan order out.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.config import Section
from pipelines.errors import UserError
from pipelines.images.documents import stored_document
from pipelines.images.params import ImageParams
from pipelines.images.process import Processed, process
from pipelines.outcomes import Outcome, dropped, failed
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import PLAN_FOLDER
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.keys import content_key
from pipelines.shards.sample import Sample
from pipelines.sources import Record, Source, SourceParams, open_source
from pipelines.storage import canonical_json

#: Records in flight between the reading thread and the writer of one unit.
WINDOW = 64
#: Evaluation sets keep their images; a training image equal to one of them is the duplicate.
SPLIT_RANK = {"test": 0, "val": 1, "train": 2}


class IngestParams(Section):
    """Parameters of `ingest`."""

    sources: list[SourceParams] = Field(min_length=1, description="where the images come from, in order of precedence")
    image: ImageParams = ImageParams()
    order: Literal["shuffled", "source"] = Field("shuffled", description="order of samples over and inside shards")
    shard_samples: int = Field(10_000, ge=1, le=100_000, description="samples a shard holds at the most, about")
    shard_bytes: int = Field(256 << 20, ge=1 << 16, description="source bytes a shard holds at the most, about")
    duplicates: Literal["drop", "error"] = Field("drop", description="records with the same bytes as an earlier one")
    threads: int = Field(2, ge=1, le=64, description="decoding threads of one worker; does not change the bytes")


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
#: Columns of a plan in which a source hands over more than an image. Other plans do without, so their bytes stay.
HANDED_OVER = pa.schema([("document", pa.string()), ("parents", pa.list_(pa.string()))])


class Ingest(Stage[IngestParams]):
    """Sources in, one dataset out."""

    name = "ingest"
    version = 1
    summary = "sources -> clean, keyed, byte-stable WebDataset shards"
    Params = IngestParams
    speed_only = frozenset({"threads"})

    def plan(self, job: Job[IngestParams]) -> Plan:
        params = job.params
        sources = [open_source(source) for source in params.sources]
        classes = _merge_classes(sources)
        records = _scan(sources, classes)
        if records.num_rows == 0:
            raise UserError(f"no images in {', '.join(source.path for source in params.sources)}; check ingest.sources")
        records = _mark_duplicates(records, params)
        order, bounds = _deal(records, params, job.run.seed)
        count, columns, schema = records.num_rows, records.columns, records.schema
        del records  # column by column, so that the set is in memory once
        for place, column in enumerate(columns):
            columns[place] = column.take(pa.array(order))
        dealt = pa.table(columns, schema=schema)
        groups = [dealt.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
        units = [
            Unit(f"ingest-{index:06d}", {"group": index, "rows": group.num_rows, "content": _content(group)})
            for index, group in enumerate(groups)
        ]
        return Plan(units, {"records": groups}, {"classes": classes, "records": count})

    def open(self, job: Job[IngestParams]) -> list[Source]:
        import cv2

        cv2.setNumThreads(1)  # the threads are ours; cv2's own pool would fight them
        return [open_source(source) for source in job.params.sources]

    def run(self, unit: Unit, worker: list[Source], output: UnitOutput, job: Job[IngestParams]) -> None:
        with job.output.open(f"{PLAN_FOLDER}/records.parquet") as handle:
            rows = pq.ParquetFile(handle).read_row_group(unit.payload["group"]).to_pylist()
        with output.shard() as shard:
            for count, (row, made) in enumerate(_processed(rows, worker, job.params)):
                sidecar_row = _sidecar_row(row)
                kept = made if isinstance(made, Outcome) else _sample(row, made, sidecar_row, job.params.image)
                if isinstance(kept, Outcome):
                    shard.reject(kept, sidecar_row)
                else:
                    shard.keep(kept)
                if count % 256 == 0:
                    output.tick(count, len(rows), "")

    def finish(self, job: Job[IngestParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        return publish_datasets(job.output, markers, plan.facts["classes"], {"name": "ingest"})

    def identity_params(self, job: Job[IngestParams]) -> dict[str, Any]:
        """Only what decides the bytes of a planned record: the plan's content covers the rest."""
        return {"image": job.params.image.model_dump(mode="json")}


def _merge_classes(sources: Sequence[Source]) -> list[str]:
    """Class names of all sources: the first source's order, then new names as they come."""
    merged: dict[str, None] = {}
    for source in sources:
        merged.update(dict.fromkeys(source.classes()))
    return list(merged)


def _scan(sources: Sequence[Source], classes: Sequence[str]) -> pa.Table:
    """One row per record of every source, in order. Streams in batches, so memory is the table's and no more."""
    label_of = {name: index for index, name in enumerate(classes)}
    batches: list[pa.RecordBatch] = []
    schema = pa.unify_schemas([RECORDS, HANDED_OVER])
    for origin, source in enumerate(sources):
        for chunk in _chunks(source.scan(), 4096):
            columns: dict[str, list[Any]] = {name: [] for name in schema.names}
            for record in chunk:
                label = record.label if record.label_name is None else label_of[record.label_name]
                values: tuple[Any, ...] = (origin, record.source, record.file, record.offset, record.length, record.row)
                values += (label, record.label_name, record.split, record.caption, record.sha256, None)
                values += (_with_categories(record.document, label_of), record.parents)
                for name, value in zip(schema.names, values, strict=True):
                    columns[name].append(value)
            batches.append(pa.RecordBatch.from_pydict(columns, schema=schema))
    table = pa.Table.from_batches(batches, schema=schema)
    unused = [name for name in HANDED_OVER.names if table[name].null_count == table.num_rows]
    return table.drop_columns(unused).combine_chunks()  # many small buffers take twice the room


def _with_categories(document: str | None, label_of: dict[str, int]) -> str | None:
    """The document with COCO category ids of the merged classes where annotations name theirs (`category_name`)."""
    if document is None:
        return None
    described = json.loads(document)
    given = described["annotations"]
    for item in given if isinstance(given, list) else []:
        if isinstance(item, dict) and item.get("category_name") in label_of:
            item["category_id"] = label_of[item["category_name"]] + 1
    return canonical_json(described).decode()


def _chunks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _mark_duplicates(records: pa.Table, params: IngestParams) -> pa.Table:
    """Fill `duplicate_of` with the source of the record that is kept, for all others of equal bytes."""
    digests = np.frombuffer(records["sha256"].combine_chunks().buffers()[1], dtype=">u8").reshape(-1, 4)
    ranks = [SPLIT_RANK.get(split or "", 3) for chunk in records["split"].chunks for split in chunk.to_pylist()]
    rank = np.array(ranks, dtype=np.int8)
    position = np.arange(records.num_rows)
    order = np.lexsort((position, rank, digests[:, 1], digests[:, 0]))
    same = (digests[order][1:] == digests[order][:-1]).all(axis=1)
    if not same.any():
        return records
    starts = np.concatenate([[True], ~same])
    keeper = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    duplicate = np.empty(records.num_rows, dtype=np.int64)
    duplicate[order] = np.where(starts, -1, keeper)
    sources = records["source"]
    if params.duplicates == "error":
        first = int(np.flatnonzero(duplicate >= 0)[0])
        raise UserError(
            f"{sources[first]} has the same bytes as {sources[int(duplicate[first])]}, one of "
            f"{int((duplicate >= 0).sum())} duplicates; remove them or set ingest.duplicates: drop"
        )
    names = [None if other < 0 else sources[int(other)].as_py() for other in duplicate]
    return records.set_column(RECORDS.get_field_index("duplicate_of"), "duplicate_of", pa.array(names, pa.string()))


def _deal(records: pa.Table, params: IngestParams, seed: int) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The order of the records and the bounds of the shards in it.

    Shuffled: a record's shard and place follow from a hash of its source name, so a changed or an added image moves no
    other image. Shard sizes then vary a little (a binomial spread) around the target.
    """
    count = records.num_rows
    total = int(np.sum(records["length"].to_numpy()))
    shards = max(math.ceil(count / params.shard_samples), math.ceil(total / params.shard_bytes), 1)
    if params.order == "source":
        step = math.ceil(count / shards)
        return np.arange(count), [*range(0, count, step), count]
    prefix, hashed = f"{seed}:", bytearray()
    for batch in records.select(["origin", "source"]).to_batches():
        for origin, name in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            hashed += hashlib.sha256(f"{prefix}{origin}:{name}".encode()).digest()[:8]
    place = np.frombuffer(hashed, dtype=">u8").astype(np.uint64)
    order = np.argsort(place, kind="stable")
    edges = [int(((1 << 64) * index) // shards) for index in range(1, shards)]
    cuts = np.searchsorted(place[order], np.array(edges, dtype=np.uint64))
    bounds = [0, *(int(cut) for cut in cuts), count]
    return order, [bound for index, bound in enumerate(bounds) if index == 0 or bound > bounds[index - 1]]


def _content(group: pa.Table) -> str:
    """A hash of all that a unit's records say."""
    digest = hashlib.sha256()
    for row in group.to_pylist():
        said = {name: value for name, value in row.items() if value is not None or name not in HANDED_OVER.names}
        digest.update(canonical_json({**said, "sha256": row["sha256"].hex()}))
    return digest.hexdigest()


def _processed(
    rows: Sequence[dict[str, Any]], sources: Sequence[Source], params: IngestParams
) -> Iterator[tuple[dict[str, Any], Processed | Outcome]]:
    """Rows with what became of them, in plan order, made by a few threads (the decoders free the GIL)."""

    def work(row: dict[str, Any]) -> Processed | Outcome:
        if row["duplicate_of"] is not None:
            return dropped("duplicate", f"same bytes as {row['duplicate_of']}")
        limit = params.image.limits.max_bytes
        if row["length"] > limit:  # known before it is read into memory
            return failed("too_many_bytes", "policy", f"{row['length']} bytes, the limit is {limit}")
        try:
            raw = sources[row["origin"]].read(_record(row))
        except OSError as error:
            return failed("unreadable", "transient", str(error))
        if hashlib.sha256(raw).digest() != row["sha256"]:
            return failed("changed_while_reading", "transient", "the bytes are not those of the scan; run again")
        return process(raw, params.image)

    with ThreadPoolExecutor(params.threads) as pool:
        for start in range(0, len(rows), WINDOW):
            window = rows[start : start + WINDOW]
            yield from zip(window, pool.map(work, window), strict=True)


def _record(row: dict[str, Any]) -> Record:
    return Record(**{name: row[name] for name in Record.__dataclass_fields__ if name in row})


def _sidecar_row(row: dict[str, Any]) -> dict[str, Any]:
    names = ("source", "split", "label", "label_name")
    return {name: row[name] for name in names} | {
        "key": content_key(row["sha256"]),
        "raw_sha256": row["sha256"].hex(),
        "parents": row.get("parents"),
    }


def _sample(row: dict[str, Any], made: Processed, sidecar_row: dict[str, Any], image: ImageParams) -> Sample | Outcome:
    """The sample to store; an outcome where its annotations are not true of its picture."""
    key = sidecar_row["key"]
    described = {
        "key": key,
        "source": row["source"],
        "width": made.width,
        "height": made.height,
        "src_width": made.src_width,
        "src_height": made.src_height,
    }
    described |= {name: row[name] for name in ("split", "label", "label_name", "caption") if row[name] is not None}
    if row.get("document") is not None:
        try:
            described = stored_document(json.loads(row["document"]), key, made, image) | described
        except ValueError as error:
            return failed("bad_annotations", detail=str(error))
    members = [(made.ext, made.data), ("json", canonical_json(described))]
    if row["label"] is not None:
        members.append(("cls", str(row["label"]).encode()))
    if row["caption"] is not None:
        members.append(("txt", row["caption"].encode()))
    sidecar_row |= {
        "width": made.width,
        "height": made.height,
        "src_width": made.src_width,
        "src_height": made.src_height,
        "src_format": made.src_format,
        "bytes": len(made.data),
        "pixel_sha256": made.pixel_sha256,
        "phash": made.phash,
        "decoder": made.decoder,
        "orientation": made.orientation,
    }
    return Sample(key, tuple(members), sidecar_row)
