"""`split`: one dataset -> train, val and test datasets, nested few-shot manifests, an optional long-tail profile.

A whole-set decision in two phases: the sidecars of the input (keys and labels, no pixels) reduce to one decision table,
and units copy the members of the rows they were given, byte for byte. Who goes where follows from a hash of the key, so
adding an image moves no other image between train and val.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from pipelines.config import Section
from pipelines.errors import UserError
from pipelines.runtime.execute import require_finished
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import PLAN_FOLDER
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.seeds import seed_for
from pipelines.shards.dataset import Dataset
from pipelines.shards.sample import Sample
from pipelines.storage import pretty_json

PARTS = ("train", "val", "test")
FEW_SHOT = "few_shot.json"
#: Sidecar columns that stay true of a copied sample.
CARRIED = (
    *("source", "label", "label_name", "width", "height", "src_width", "src_height", "src_format", "bytes"),
    *("raw_sha256", "pixel_sha256", "phash", "decoder", "orientation", "licence"),
)


class SplitParams(Section):
    """Parameters of `split`."""

    strategy: Literal["source", "random"] = Field("source", description="keep the source's own split, or draw one")
    validation: float = Field(0.1, ge=0, lt=1, description="fraction of each training class that becomes val")
    test: float = Field(0.0, ge=0, lt=1, description="fraction of each class that becomes test (strategy random)")
    few_shot: tuple[int, ...] = Field((1, 4, 16), description="shots per class of the nested manifests, from train")
    imbalance: float = Field(1.0, ge=1, description="largest over smallest class of train (long tail); 1 keeps all")
    shard_samples: int = Field(10_000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _fractions(self) -> SplitParams:
        if self.strategy == "source" and self.test > 0:
            raise ValueError("split.test is drawn only with strategy: random; the source's own test split is used")
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing for train")
        return self


class Split(Stage[SplitParams]):
    """Copies members; never decodes."""

    name = "split"
    version = 1
    summary = "dataset -> train, val and test datasets, few-shot manifests"
    Params = SplitParams
    upstream = ("ingest",)

    def plan(self, job: Job[SplitParams]) -> Plan:
        require_finished(job.input("ingest"), "ingest")
        dataset = Dataset.open(job.input("ingest"))
        rows = dataset.rows(["key", "split", "members", *CARRIED])
        if rows.num_rows == 0:
            raise UserError(
                f"{job.input('ingest').url} holds no kept samples; see limbeck info {job.input('ingest').url}"
            )
        decisions = decide(rows, job.params, job.run.seed)
        digests = [shard.sha256 for shard in dataset.shards]
        units: list[Unit] = []
        groups: list[pa.Table] = []
        for part in PARTS:
            chosen = np.flatnonzero(decisions == part)
            count = math.ceil(len(chosen) / job.params.shard_samples)
            for index, block in enumerate(np.array_split(chosen, count) if count else []):
                group = rows.take(pa.array(block))
                read = sorted(set(group["shard"].to_pylist()))
                payload = {
                    "part": part,
                    "group": len(groups),
                    "content": hashlib.sha256("".join(group["key"].to_pylist()).encode()).hexdigest(),
                    "shards": [digests[shard] for shard in read],
                }
                units.append(Unit(f"{part}/split-{index:06d}", payload))
                groups.append(group)
        facts = {"classes": dataset.classes, "parts": [p for p in PARTS if (decisions == p).any()]}
        table = pa.table({"key": rows["key"], "label": rows["label"], "decision": pa.array(decisions.tolist())})
        return Plan(units, {"rows": groups, "decisions": [table]}, facts)

    def open(self, job: Job[SplitParams]) -> Dataset:
        return Dataset.open(job.input("ingest"))

    def run(self, unit: Unit, worker: Dataset, output: UnitOutput, job: Job[SplitParams]) -> None:
        with job.output.open(f"{PLAN_FOLDER}/rows.parquet") as handle:
            rows = pq.ParquetFile(handle).read_row_group(unit.payload["group"]).to_pylist()
        with output.shard(unit.payload["part"]) as shard:
            for row in rows:
                members = tuple(worker.read(row["shard"], row["members"]).items())
                kept = {name: row[name] for name in CARRIED}
                shard.keep(Sample(row["key"], members, kept | {"split": unit.payload["part"]}))

    def finish(self, job: Job[SplitParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        manifests = few_shot(plan.tables["decisions"][0], job.params.few_shot, job.run.seed)
        job.output.write_bytes(FEW_SHOT, pretty_json(manifests))
        return publish_datasets(job.output, markers, plan.facts["classes"], {"name": "split"}, plan.facts["parts"])

    def identity_params(self, job: Job[SplitParams]) -> dict[str, Any]:
        """Units copy what their payload names; every parameter acts through the plan."""
        return {}


def decide(rows: pa.Table, params: SplitParams, seed: int) -> np.ndarray[Any, np.dtype[np.str_]]:
    """`train`, `val`, `test` or a reason to leave out, for every row."""
    source = np.array([name or "train" for name in rows["split"].to_pylist()])
    if params.strategy == "random":
        source[:] = "train"
    elif unknown := sorted(set(source) - set(PARTS)):
        raise UserError(
            f"the source splits {unknown} are none of {PARTS}; name them in ingest.sources or split at random"
        )
    decisions = source.copy().astype("<U12")
    labels = np.array([-1 if label is None else label for label in rows["label"].to_pylist()])
    rank = _ranks(rows["key"].to_pylist(), seed)
    for label in np.unique(labels):
        pool = np.flatnonzero((labels == label) & (source == "train"))
        pool = pool[np.argsort(rank[pool], kind="stable")]
        test = round(params.test * len(pool))
        held = 0 if "val" in source else round(params.validation * len(pool))
        decisions[pool[:test]] = "test"
        decisions[pool[test : test + held]] = "val"
    if params.imbalance > 1:
        _thin(decisions, labels, rank, params.imbalance)
    return decisions


def _ranks(keys: Sequence[str], seed: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A number per key that orders a class at random, for ever the same."""
    prefix = str(seed_for(seed, "split", "", "rank")).encode()
    digests = b"".join(hashlib.sha256(prefix + key.encode()).digest()[:8] for key in keys)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _thin(decisions: Any, labels: Any, rank: Any, imbalance: float) -> None:
    """Exponential long tail over class indices (Cui et al. 2019): class c keeps n_max * imbalance^(-c/(C-1))."""
    classes = [label for label in np.unique(labels) if label >= 0]
    pools = {label: np.flatnonzero((labels == label) & (decisions == "train")) for label in classes}
    largest = max(len(pool) for pool in pools.values())
    for place, label in enumerate(classes):
        allowed = int(largest * imbalance ** (-place / max(len(classes) - 1, 1)))
        pool = pools[label][np.argsort(rank[pools[label]], kind="stable")]
        decisions[pool[allowed:]] = "long_tail"


def few_shot(decisions: pa.Table, shots: Sequence[int], seed: int) -> dict[str, dict[str, list[str]]]:
    """Keys of k training images per class, nested: the 4-shot set is the head of the 16-shot set."""
    train = decisions.filter(pa.compute.equal(decisions["decision"], "train"))
    keys = np.array(train["key"].to_pylist())
    labels = np.array(train["label"].to_pylist())
    rank = _ranks(keys.tolist(), seed_for(seed, "split", "", "few_shot"))
    ordered = {
        str(label): keys[labels == label][np.argsort(rank[labels == label], kind="stable")].tolist()
        for label in sorted({label for label in labels.tolist() if label is not None})
    }
    return {str(k): {label: chosen[:k] for label, chosen in ordered.items()} for k in sorted(shots)}
