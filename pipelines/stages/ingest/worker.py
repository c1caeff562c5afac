"""What a worker of `ingest` does with a record: decode it where it can do no harm, describe it, encode it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.images.documents import stored_document
from pipelines.images.isolation import Decoders
from pipelines.images.params import ImageParams
from pipelines.images.process import Processed
from pipelines.outcomes import Outcome, failed, internal_error
from pipelines.runtime.in_hand import InHand
from pipelines.shards.sample import Sample
from pipelines.sources import Record, Source
from pipelines.sources.base import unreadable
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.records import record_key
from pipelines.stages.ingest.trial import tried
from pipelines.stages.ingest.twins import Twins
from pipelines.storage import canonical_json

#: Records in flight between the reading thread and the writer of one unit.
WINDOW = 64
#: Records that a thread hands to a decoder at a time, and their bytes.
BATCH, BATCH_BYTES = 8, 1 << 20


def process_rows(
    rows: Sequence[dict[str, Any]], sources: Sequence[Source], params: IngestParams, in_hand: InHand
) -> Generator[tuple[dict[str, Any], Processed | Outcome], None, None]:
    """Rows with what became of them, in plan order. Threads read and hash, and wait for the processes that decode."""

    def work(places: range) -> list[Processed | Outcome]:
        """A few records at a time: decoders answer small pictures faster than one is asked for."""
        first = {rows[place]["sha256"] or place: place for place in reversed(places)}.values()
        # Copies wait until what they are copies of was tried: then they need not be read.
        images = {**tried_together(sorted(first)), **tried_together(sorted({*places} - {*first}))}
        return [images[place] for place in places]

    def tried_together(places: Sequence[int]) -> dict[int, Processed | Outcome]:
        raws = [encoded(place, rows[place]) for place in places]
        decoded = iter(decoders.process_all([raw for raw in raws if isinstance(raw, bytes)]))
        return {
            place: twins.settled(rows[place], next(decoded)) if isinstance(raw, bytes) else raw
            for place, raw in zip(places, raws, strict=True)
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


def sidecar_row(row: dict[str, Any]) -> dict[str, Any]:
    names = ("source", "split", "label", "label_name")
    return {name: row[name] for name in names} | {
        "key": record_key(row),
        "raw_sha256": row["sha256"] and row["sha256"].hex(),
        "parents": row.get("parents"),
    }


def describe(
    row: dict[str, Any], picture: Processed, sidecar_row: dict[str, Any], image: ImageParams
) -> Sample | Outcome:
    """`_sample`, with the boundary that makes a row of any error."""
    try:
        return _sample(row, picture, sidecar_row, image)
    except Exception as error:
        return internal_error(error)


def _sample(
    row: dict[str, Any], picture: Processed, sidecar_row: dict[str, Any], image: ImageParams
) -> Sample | Outcome:
    """The sample to store; an outcome where its annotations are not true of its picture."""
    key = sidecar_row["key"]
    described = {
        "key": key,
        "source": row["source"],
        "width": picture.width,
        "height": picture.height,
        "src_width": picture.src_width,
        "src_height": picture.src_height,
    }
    described |= {name: row[name] for name in ("split", "label", "label_name", "caption") if row[name] is not None}
    if row.get("document") is not None:
        try:
            described = stored_document(json.loads(row["document"]), key, picture, image) | described
        except ValueError as error:
            return failed("bad_annotations", detail=str(error))
    members = [(picture.ext, picture.data), ("json", canonical_json(described))]
    if row["label"] is not None:
        members.append(("cls", str(row["label"]).encode()))
    if row["caption"] is not None:
        members.append(("txt", row["caption"].encode()))
    sidecar_row |= {
        "width": picture.width,
        "height": picture.height,
        "src_width": picture.src_width,
        "src_height": picture.src_height,
        "src_format": picture.src_format,
        "bytes": len(picture.data),
        "pixel_sha256": picture.pixel_sha256,
        "phash": picture.phash,
        "decoder": picture.decoder,
        "orientation": picture.orientation,
        "notes": picture.notes,
    }
    return Sample(key, tuple(members), sidecar_row)
