"""`ingest`: any source of images -> a dataset of clean, keyed, byte-stable shards.

Plan: scan every source (hash, no decode), name each record by its content, decide duplicates over the whole set, and
deal the records into shards by a hash of where they come from, so that changing one image touches one shard and a
sequential reader sees mixed classes. Run: the one safe image path in processes that may die (`images.isolation`), threads
in, plan order out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from pipelines.errors import UserError
from pipelines.outcomes import Outcome
from pipelines.redaction import redacted
from pipelines.runtime.code import WRITERS
from pipelines.runtime.in_hand import InHand
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.account import Met
from pipelines.sources import Source, open_source
from pipelines.sources.base import SAMPLE_PREFIX
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.records import captioned, deal, scan, without_unused
from pipelines.stages.ingest.twins import mark_twins
from pipelines.stages.ingest.worker import describe, process_rows, sidecar_row


class Ingest(Stage[IngestParams]):
    """Sources in, one dataset out."""

    name = "ingest"
    version = 2
    summary = "sources -> clean, keyed, byte-stable WebDataset shards"
    adds = "the data and what became of each image"
    Params = IngestParams
    code = ("pipelines.images", *WRITERS)
    plan_code = ("pipelines.sources",)
    draws = False

    def reads(self, params: IngestParams) -> dict[str, str]:
        named = {f"ingest.sources.{place}.path": source.path for place, source in enumerate(params.sources)}
        return {parameter: path for parameter, path in named.items() if not path.startswith(SAMPLE_PREFIX)}

    def embedded(self, params: IngestParams) -> tuple[str, ...]:
        named = (source.path for source in params.sources if source.path.startswith(SAMPLE_PREFIX))
        return tuple(path.removeprefix(SAMPLE_PREFIX) for path in named)

    def plan(self, job: Job[IngestParams]) -> Plan:
        params = job.params
        records, classes, passed = scan(params.sources, params.image.limits.max_bytes)
        if records.num_rows == 0:
            there = ", ".join(f"{count} {reason}" for reason, count in passed.most_common(6))
            places = ", ".join(redacted(source.path) for source in params.sources)
            raise UserError(f"no images in {places}{f' (passed over: {there})' if there else ''}; check ingest.sources")
        _hand_back()  # the batches of the scan
        if params.caption is not None:
            records = captioned(records, params.caption)
        records, anchors = mark_twins(records, params.duplicates, params.conflicts)
        records = without_unused(records)
        order, bounds = deal(records, anchors, params, job.run.seed)
        columns, schema = records.columns, records.schema
        del records  # column by column, so that the set is in memory once
        for place, column in enumerate(columns):
            columns[place] = column.take(pa.array(order))
        dealt = pa.table(columns, schema=schema)
        _hand_back()  # the columns as they were
        slices = (dealt.slice(a, b - a) for a, b in itertools.pairwise(bounds))
        rows = {f"ingest-{index:06d}": table for index, table in enumerate(slices)}
        units = [Unit(name, {"records": table.num_rows}) for name, table in rows.items()]
        facts = {"classes": classes, "records": dealt.num_rows, "passed_over": dict(sorted(passed.items()))}
        facts |= {"seen": dealt.num_rows + passed.total()}
        return Plan(units, rows=rows, facts=facts)

    def open(self, job: Job[IngestParams]) -> list[Source]:
        return [open_source(source) for source in job.params.sources]

    def run(self, unit: Unit, worker: list[Source], output: UnitOutput, job: Job[IngestParams]) -> None:
        rows, in_hand = output.rows(), InHand(output.scratch(), job.params.threads)
        with output.shard() as shard, in_hand, closing(process_rows(rows, worker, job.params, in_hand)) as processed:
            for count, (row, image) in enumerate(processed):
                described = sidecar_row(row)
                kept = image if isinstance(image, Outcome) else describe(row, image, described, job.params.image)
                if isinstance(kept, Outcome):
                    shard.reject(kept, described)
                else:
                    shard.keep(kept)
                if count % 256 == 0:
                    output.tick(count, len(rows), "")

    def finish(self, job: Job[IngestParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        met = Met(plan.facts["seen"], plan.facts["passed_over"])
        return publish_datasets(job.output, markers, plan.facts["classes"], {"name": "ingest"}, met={"": met})


def _hand_back() -> None:
    """Memory that arrow holds and nobody uses goes back to the system: a plan of many records is otherwise there twice."""
    pa.default_memory_pool().release_unused()
