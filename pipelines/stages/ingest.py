"""`ingest`: any source of images -> a dataset of clean, keyed, byte-stable shards.

Plan: scan every source (hash, no decode), name each record by its content, decide duplicates over the whole set, and
deal the records into shards by a hash of where they come from, so that changing one image touches one shard and a
sequential reader sees mixed classes. Run: the one safe image path in processes that may die (`images.isolation`), threads
in, plan order out.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.config import Section
from pipelines.errors import UserError
from pipelines.images.documents import stored_document
from pipelines.images.isolation import Decoders
from pipelines.images.params import ImageParams
from pipelines.images.process import Processed
from pipelines.outcomes import Outcome, failed, internal_error
from pipelines.redaction import redacted
from pipelines.runtime.in_hand import InHand
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import PLAN_FOLDER
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.account import Met
from pipelines.shards.sample import Sample
from pipelines.sources import Record, Source, SourceParams, open_source
from pipelines.sources.base import SAMPLE_PREFIX, unreadable
from pipelines.stages.ingest_plan import content, deal, record_key, scan, without_unused
from pipelines.stages.ingest_trial import tried
from pipelines.stages.ingest_twins import Twins, mark_twins
from pipelines.storage import canonical_json

#: Records in flight between the reading thread and the writer of one unit.
WINDOW = 64
#: Records that a thread hands to a decoder at a time, and their bytes.
BATCH, BATCH_BYTES = 8, 1 << 20


class IngestParams(Section):
    """Parameters of `ingest`."""

    sources: list[SourceParams] = Field(min_length=1, description="where the images come from, in order of precedence")
    image: ImageParams = ImageParams()
    order: Literal["shuffled", "source"] = Field("shuffled", description="order of samples over and inside shards")
    shard_samples: int = Field(10_000, ge=1, le=100_000, description="samples a shard holds at the most, about")
    shard_bytes: int = Field(256 << 20, ge=1 << 16, description="source bytes a shard holds at the most, about")
    duplicates: Literal["drop", "error"] = Field("drop", description="records with the same bytes as an earlier one")
    conflicts: Literal["first", "drop", "error"] = Field(
        "first", description="equal bytes under two labels of one source and split: keep the first, none, or stop"
    )
    threads: int = Field(2, ge=1, le=64, description="decoding threads of one worker; does not change the bytes")


class Ingest(Stage[IngestParams]):
    """Sources in, one dataset out."""

    name = "ingest"
    version = 2
    summary = "sources -> clean, keyed, byte-stable WebDataset shards"
    Params = IngestParams
    speed_only = frozenset({"threads"})

    def reads(self, params: IngestParams) -> dict[str, str]:
        named = {f"ingest.sources.{place}.path": source.path for place, source in enumerate(params.sources)}
        return {parameter: path for parameter, path in named.items() if not path.startswith(SAMPLE_PREFIX)}

    def plan(self, job: Job[IngestParams]) -> Plan:
        params = job.params
        records, classes, passed = scan(params.sources, params.image.limits.max_bytes)
        if records.num_rows == 0:
            there = ", ".join(f"{count} {reason}" for reason, count in passed.most_common(6))
            places = ", ".join(redacted(source.path) for source in params.sources)
            raise UserError(f"no images in {places}{f' (passed over: {there})' if there else ''}; check ingest.sources")
        _hand_back()  # the batches of the scan
        records, anchors = mark_twins(records, params.duplicates, params.conflicts)
        records = without_unused(records)
        order, bounds = deal(records, anchors, params, job.run.seed)
        columns, schema = records.columns, records.schema
        del records  # column by column, so that the set is in memory once
        for place, column in enumerate(columns):
            columns[place] = column.take(pa.array(order))
        dealt = pa.table(columns, schema=schema)
        _hand_back()  # the columns as they were
        groups = [dealt.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
        units = [
            Unit(f"ingest-{index:06d}", {"group": index, "rows": group.num_rows, "content": content(group)})
            for index, group in enumerate(groups)
        ]
        facts = {"classes": classes, "records": dealt.num_rows, "passed_over": dict(sorted(passed.items()))}
        facts |= {"seen": dealt.num_rows + passed.total()}
        return Plan(units, {"records": groups}, facts)

    def open(self, job: Job[IngestParams]) -> list[Source]:
        return [open_source(source) for source in job.params.sources]

    def run(self, unit: Unit, worker: list[Source], output: UnitOutput, job: Job[IngestParams]) -> None:
        with job.output.open(f"{PLAN_FOLDER}/records.parquet") as handle:
            rows = pq.ParquetFile(handle).read_row_group(unit.payload["group"]).to_pylist()
        in_hand = InHand(output.scratch(), job.params.threads)
        with output.shard() as shard, in_hand, closing(_processed(rows, worker, job.params, in_hand)) as processed:
            for count, (row, made) in enumerate(processed):
                sidecar_row = _sidecar_row(row)
                kept = made if isinstance(made, Outcome) else _described(row, made, sidecar_row, job.params.image)
                if isinstance(kept, Outcome):
                    shard.reject(kept, sidecar_row)
                else:
                    shard.keep(kept)
                if count % 256 == 0:
                    output.tick(count, len(rows), "")

    def finish(self, job: Job[IngestParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        met = Met(plan.facts["seen"], plan.facts["passed_over"])
        return publish_datasets(job.output, markers, plan.facts["classes"], {"name": "ingest"}, met={"": met})

    def identity_params(self, job: Job[IngestParams]) -> dict[str, Any]:
        """Only what decides the bytes of a planned record: the plan's content covers the rest."""
        return {"image": job.params.image.model_dump(mode="json")}


def _hand_back() -> None:
    """Memory that arrow holds and nobody uses goes back to the system: a plan of many records is otherwise there twice."""
    pa.default_memory_pool().release_unused()


def _processed(
    rows: Sequence[dict[str, Any]], sources: Sequence[Source], params: IngestParams, in_hand: InHand
) -> Generator[tuple[dict[str, Any], Processed | Outcome], None, None]:
    """Rows with what became of them, in plan order. Threads read and hash, and wait for the processes that decode."""

    def work(places: range) -> list[Processed | Outcome]:
        """A few records at a time: decoders answer small pictures faster than one is asked for."""
        first = {rows[place]["sha256"] or place: place for place in reversed(places)}.values()
        # Copies wait until what they are copies of was tried: then they need not be read.
        made = {**tried_together(sorted(first)), **tried_together(sorted({*places} - {*first}))}
        return [made[place] for place in places]

    def tried_together(places: Sequence[int]) -> dict[int, Processed | Outcome]:
        found = [encoded(place, rows[place]) for place in places]
        made = iter(decoders.process_all([raw for raw in found if isinstance(raw, bytes)]))
        return {
            place: twins.settled(rows[place], next(made)) if isinstance(raw, bytes) else raw
            for place, raw in zip(places, found, strict=True)
        }

    def encoded(place: int, row: dict[str, Any]) -> bytes | Outcome:
        """The bytes to decode, or what became of the record without them."""
        if row.get("problem") is not None:
            return Outcome(**row["problem"])
        if (fate := twins.known(row)) is not None:
            return fate
        limit = params.image.limits.max_bytes
        if row["length"] > limit:  # known before it is read into memory
            return failed("too_many_bytes", "policy", f"{row['length']} bytes, the limit is {limit}")
        try:
            return read(place, row)
        except OSError as error:
            return unreadable(error)
        except MemoryError:
            return failed("out_of_memory", "transient", "there was no memory to read it")
        except Exception as error:
            return internal_error(error)

    def read(place: int, row: dict[str, Any]) -> bytes | Outcome:
        record = _record(row)
        if place in in_hand.suspects and (outcome := tried(params.sources[row["origin"]], record)) is not None:
            return outcome
        with in_hand.holding(place):
            raw = sources[row["origin"]].read(record)
            if hashlib.sha256(raw).digest() != row["sha256"]:
                return failed("changed_while_reading", "transient", "the bytes are not those of the scan; run again")
        return raw

    twins = Twins(rows)
    pool = ThreadPoolExecutor(params.threads)
    with Decoders(params.image, params.threads) as decoders:
        try:
            batches = _batches(rows, params.threads)
            while window := list(itertools.islice(batches, WINDOW // BATCH)):
                for places, made in zip(window, pool.map(work, window), strict=True):
                    yield from zip((rows[place] for place in places), made, strict=True)
        finally:
            decoders.close()  # whoever waits for one gives up
            pool.shutdown(cancel_futures=True)


def _batches(rows: Sequence[dict[str, Any]], threads: int) -> Iterator[range]:
    """Places of rows in runs that one thread takes at a time: few where there are few, and none of many bytes."""
    most, start, held = min(BATCH, max(1, len(rows) // (4 * threads))), 0, 0
    for place, row in enumerate(rows):
        if place > start and (place - start >= most or held + row["length"] > BATCH_BYTES):
            yield range(start, place)
            start, held = place, 0
        held += row["length"]
    if start < len(rows):
        yield range(start, len(rows))


def _record(row: dict[str, Any]) -> Record:
    return Record(**{name: row[name] for name in Record.__dataclass_fields__ if name in row})


def _sidecar_row(row: dict[str, Any]) -> dict[str, Any]:
    names = ("source", "split", "label", "label_name")
    return {name: row[name] for name in names} | {
        "key": record_key(row),
        "raw_sha256": row["sha256"] and row["sha256"].hex(),
        "parents": row.get("parents"),
    }


def _described(
    row: dict[str, Any], made: Processed, sidecar_row: dict[str, Any], image: ImageParams
) -> Sample | Outcome:
    """`_sample`, with the boundary that makes a row of any error."""
    try:
        return _sample(row, made, sidecar_row, image)
    except Exception as error:
        return internal_error(error)


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
        "notes": made.notes,
    }
    return Sample(key, tuple(members), sidecar_row)
