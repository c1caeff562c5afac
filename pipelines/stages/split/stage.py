"""`split`: one dataset -> train, val and test datasets, nested few-shot manifests, profiles of the training images.

A whole-set decision in two phases: the sidecars of the input (keys and labels, no pixels) reduce to one decision table,
and units copy the members of the rows they were given, byte for byte. Who goes where follows from a hash of the key, so
adding an image moves no other image between train and val.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from pipelines.artifacts.datasets import PARTS, open_part
from pipelines.artifacts.distinct import distinct_places
from pipelines.artifacts.few_shot import FEW_SHOT
from pipelines.artifacts.profiles import profile_file
from pipelines.errors import UserError
from pipelines.runtime.code import WRITERS
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.seeds import hash_ranks, seed_for
from pipelines.shards.account import Met
from pipelines.shards.dataset import Dataset
from pipelines.shards.sample import Sample
from pipelines.stages.split.params import SplitParams
from pipelines.stages.split.profiles import decide_profile, profile_facts, require_profiles
from pipelines.storage import pretty_json
from synth.datadream.fewshot import disef_sample, natural_key

#: Sidecar columns that stay true of a copied sample.
CARRIED = (
    *("source", "label", "label_name", "width", "height", "src_width", "src_height", "src_format", "bytes"),
    *("raw_sha256", "pixel_sha256", "phash", "decoder", "orientation", "licence", "notes"),
)


class Split(Stage[SplitParams]):
    """Copies members; never decodes."""

    name = "split"
    version = 3
    summary = "dataset -> train, val and test datasets, few-shot manifests"
    adds = "the training images and the class balance"
    Params = SplitParams
    upstream = ("ingest",)
    code = ("augment", "synth", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    draws = False

    def plan(self, job: Job[SplitParams]) -> Plan:
        dataset = open_part(job, "ingest")
        rows = dataset.rows(["key", "split", "members", *CARRIED])
        if rows.num_rows == 0:
            raise UserError(
                f"{job.input('ingest').url} holds no kept samples; see limbeck info {job.input('ingest').url}"
            )
        decisions = decide(rows, job.params, job.run.seed)
        rows = dataset.by_content(rows)
        units: list[Unit] = []
        tables: dict[str, pa.Table] = {}
        for part in PARTS:
            chosen = np.flatnonzero(decisions == part)
            count = math.ceil(len(chosen) / job.params.shard_samples)
            for index, block in enumerate(np.array_split(chosen, count) if count else []):
                units.append(Unit(f"{part}/split-{index:06d}", {"part": part}))
                tables[units[-1].name] = rows.take(pa.array(block))
        parts = [part for part in PARTS if (decisions == part).any()]
        counts = {str(name): int(count) for name, count in zip(*np.unique(decisions, return_counts=True), strict=True)}
        facts = {"classes": dataset.classes, "parts": parts, "decisions": counts, "seen": rows.num_rows}
        facts["few_shot"] = {name: getattr(job.params, f"few_shot{name}") for name in ("", "_seeds", "_order")}
        facts["seed"] = job.run.seed
        if job.params.profiles:
            facts["profiles"] = {name: one.model_dump(mode="json") for name, one in job.params.profiles.items()}
        columns = {name: rows[name] for name in ("key", "label", "source", "pixel_sha256")}
        table = pa.table(columns | {"decision": pa.array(decisions.tolist())})
        require_profiles(table, dataset.classes, job.params.profiles, job.run.seed)
        return Plan(units, tables={"decisions": table}, facts=facts, rows=tables)

    def open(self, job: Job[SplitParams]) -> Dataset:
        return open_part(job, "ingest")

    def run(self, unit: Unit, worker: Dataset, output: UnitOutput, job: Job[SplitParams]) -> None:
        with output.shard(unit.payload["part"]) as shard:
            for row in output.rows():
                members = tuple(worker.read(worker.place_of(row["shard"]), row["key"], row["members"]).items())
                kept = {name: row[name] for name in CARRIED}
                shard.keep(Sample(row["key"], members, kept | {"split": unit.payload["part"]}))

    def finish(self, job: Job[SplitParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        manifests = few_shot(plan.tables["decisions"], job.params, job.run.seed)
        job.output.write_bytes(FEW_SHOT, pretty_json(manifests))
        classes, profiles = plan.facts["classes"], {}
        for name, params in job.params.profiles.items():
            table = decide_profile(plan.tables["decisions"], classes, name, params, job.run.seed)
            with job.output.replacing(profile_file(name)) as temporary:
                pq.write_table(table, str(temporary), compression="zstd")
            profiles[name] = profile_facts(table, classes, params)
        met = {part: _met(plan.facts, part) for part in plan.facts["parts"]}
        sizes = publish_datasets(job.output, markers, classes, {"name": "split"}, plan.facts["parts"], met)
        return sizes | ({"profiles": profiles} if profiles else {})


def _met(facts: Mapping[str, Any], part: str) -> Met:
    """Every part meets all samples of the input, and passes over those that the decision table gives elsewhere."""
    others = {name: count for name, count in facts["decisions"].items() if name != part}
    return Met(facts["seen"], {f"in_{name}" if name in PARTS else name: count for name, count in others.items()})


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
        test = 0 if params.strategy == "auto" and "test" in source else round(params.test * len(pool))
        held = 0 if "val" in source else round(params.validation * len(pool))
        decisions[pool[:test]] = "test"
        decisions[pool[test : test + held]] = "val"
    if params.imbalance > 1:
        _thin(decisions, labels, rank, params.imbalance)
    return decisions


def _ranks(keys: Sequence[str], seed: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A number per key that orders a class at random, for ever the same."""
    return hash_ranks(keys, str(seed_for(seed, "split", "", "rank")))


def _thin(decisions: Any, labels: Any, rank: Any, imbalance: float) -> None:
    """Exponential long tail over class indices (Cui et al. 2019): class c keeps n_max * imbalance^(-c/(C-1))."""
    classes = [label for label in np.unique(labels) if label >= 0]
    pools = {label: np.flatnonzero((labels == label) & (decisions == "train")) for label in classes}
    largest = max(len(pool) for pool in pools.values())
    for place, label in enumerate(classes):
        allowed = int(largest * imbalance ** (-place / max(len(classes) - 1, 1)))
        pool = pools[label][np.argsort(rank[pools[label]], kind="stable")]
        decisions[pool[allowed:]] = "long_tail"


def few_shot(decisions: pa.Table, params: SplitParams, seed: int) -> dict[str, Any]:
    """Keys of the largest number of shots for each seed and class, best first: k shots are the head of a list, so they nest.

    From train alone, and never an image whose pixels are in val or test too: the same picture may have two keys. For the same reason
    no picture is chosen twice, and none that has two labels anywhere in the dataset.
    """
    is_train = pa.compute.equal(decisions["decision"], "train")
    held_out = pa.compute.is_in(decisions["decision"], value_set=pa.array(["val", "test"]))
    shown = decisions.filter(held_out)["pixel_sha256"].combine_chunks().drop_null()
    train = decisions.filter(
        pa.compute.and_(is_train, pa.compute.invert(pa.compute.is_in(decisions["pixel_sha256"], value_set=shown)))
    )
    columns = ("key", "label", "source", "pixel_sha256")
    rows = list(zip(*(train[name].to_pylist() for name in columns), strict=True))
    if params.few_shot_order == "natural":  # of the samples of one picture the first in that order stands for it
        rows.sort(key=lambda row: (natural_key(row[2]), row[2]))
    twofold = _pictures_of_two_labels(decisions)
    rows = [row for row in rows if row[3] not in twofold]
    members: dict[int, list[tuple[str, str]]] = {}
    for place in distinct_places([row[1] for row in rows], [row[3] for row in rows]):
        key, label, source, _ = rows[place]
        members.setdefault(label, []).append((key, source))
    most = max(params.few_shot, default=0)
    seeds = {
        str(draw): {
            str(label): keys[:most] for label, keys in sorted(_ordered(members, params, seed, draw, most).items())
        }
        for draw in params.few_shot_seeds
    }
    return {"order": params.few_shot_order, "shots": sorted(params.few_shot), "seeds": seeds}


def _pictures_of_two_labels(rows: pa.Table) -> set[str]:
    label_of: dict[str, int] = {}
    twofold: set[str] = set()
    for picture, label in zip(rows["pixel_sha256"].to_pylist(), rows["label"].to_pylist(), strict=True):
        if picture is not None and label is not None and label_of.setdefault(picture, label) != label:
            twofold.add(picture)
    return twofold


def _ordered(
    members: Mapping[int, Sequence[tuple[str, str]]], params: SplitParams, seed: int, draw: int, most: int
) -> dict[int, list[str]]:
    """The keys of each class, best first. Natural order knows no seed."""
    if params.few_shot_order == "natural":
        return {
            label: [key for key, source in sorted(members_of, key=lambda one: (natural_key(one[1]), one[1]))]
            for label, members_of in members.items()
        }
    if params.few_shot_order == "disef":
        flat = [(label, key) for label, members_of in members.items() for key, _ in members_of]
        drawn = disef_sample([label for label, _ in flat], most, draw)
        return {label: [flat[place][1] for place in places] for label, places in drawn.items()}
    own = seed_for(seed, "split", "" if draw == 0 else str(draw), "few_shot")
    ordered = {}
    for label, members_of in members.items():
        keys = [key for key, _ in members_of]
        ordered[label] = [keys[place] for place in np.argsort(_ranks(keys, own), kind="stable")]
    return ordered
