"""Opens what the stages left, finished or not, and never raises over it: what cannot be read is told in the report.

A stage counts only when it is finished (`stage.json`); files of an unfinished one would mix two runs. A file that is not
the one that the stage left counts as one that cannot be read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.errors import UserError
from pipelines.runtime.finished import Finished
from pipelines.runtime.ledger import PLAN_FOLDER, STAGE_FILE
from pipelines.runtime.units import LEDGER
from pipelines.shards.dataset import Dataset
from pipelines.shards.publish import STATS_FILE
from pipelines.storage import Storage

#: Stages that are kept apart by item, each item in a folder of its own.
ITEMS = {"datadream": ("zero_shot", "cls", "dset", "loft")}
#: What a report reads, in the order of the pipeline: STAGE or STAGE@ITEM.
READS = (
    *("ingest", "split", "augment", "squeeze", "generator"),
    *(f"{stage}@{item}" for stage, items in ITEMS.items() for item in items),
    *("cda", "relabel", "evaluate"),
)
#: Stages that many jobs do without.
OPTIONAL = frozenset({"augment", "generator", *(name for name in READS if "@" in name)})


def folder_of(name: str) -> str:
    """Where the output of STAGE or STAGE@ITEM lies in a data folder."""
    return name.replace("@", "/")


@dataclass(frozen=True)
class StageRecord:
    """What one stage says of itself. `counts` are samples by outcome, `reasons` by `outcome:class:reason`."""

    name: str
    state: Literal["done", "unfinished", "missing"]
    form: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    log: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.state == "done"


class Outputs:
    """The outputs under one data folder. `problems` collects a sentence for everything that could not be read."""

    def __init__(self, folders: Mapping[str, Storage], logs: Storage) -> None:
        self._folders = folders
        self._logs = logs
        self.problems: list[str] = []
        self._made: dict[str, Finished] = {}
        self.stages = {name: self._stage(name) for name in folders}

    @classmethod
    def under(cls, data: str) -> Outputs:
        """The usual layout: stage S in data/S, run facts in data/.limbeck."""
        return cls({name: Storage(f"{data}/{folder_of(name)}") for name in READS}, Storage(f"{data}/.limbeck"))

    def done(self, stage: str) -> bool:
        return stage in self.stages and self.stages[stage].done

    def json(self, stage: str, path: str) -> dict[str, Any]:
        """A JSON object of a finished stage (or STAGE@ITEM); empty when there is none."""
        return self._parsed(stage, path, self.raw(stage, path))

    def csv(self, stage: str, path: str) -> list[dict[str, str]]:
        """The rows of a CSV file of a finished stage."""
        raw = self.raw(stage, path)
        if raw is None:
            return []
        try:
            return [dict(row) for row in csv.DictReader(io.StringIO(raw.decode("utf-8")))]
        except (UnicodeDecodeError, csv.Error) as error:
            self._problem(stage, error, path)
            return []

    def files(self, stage: str, folder: str) -> list[str]:
        """Paths of the files below a folder of a finished stage."""
        try:
            return self._made[stage].paths(folder) if self.done(stage) else []
        except UserError as error:
            self._problem(stage, error)
            return []

    def raw(self, stage: str, path: str) -> bytes | None:
        """A file of a finished stage."""
        if not self.done(stage):
            return None
        try:
            return self._made[stage].read(path) if self._made[stage].has(path) else None
        except (UserError, OSError) as error:
            self._problem(stage, error)
            return None

    def dataset(self, stage: str, part: str = "") -> Dataset | None:
        """A published dataset of a finished stage."""
        try:
            return self._made[stage].dataset(part) if self.done(stage) else None
        except UserError as error:
            self._problem(stage, error)
            return None

    def stats(self, stage: str, part: str = "") -> dict[str, Any]:
        """`stats.json` of a dataset of a finished stage."""
        dataset = self.dataset(stage, part)
        if dataset is None:
            return {}
        try:
            return self._parsed(stage, STATS_FILE, dataset.file(STATS_FILE))
        except UserError as error:
            self._problem(stage, error)
            return {}

    def _stage(self, name: str) -> StageRecord:
        folder = self._folders[name]
        begun = folder.exists(f"{PLAN_FOLDER}/units.json") or folder.exists(LEDGER)
        state: Literal["unfinished", "missing"] = "unfinished" if begun else "missing"
        if not folder.exists(STAGE_FILE):
            return StageRecord(name, state)
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        try:
            made = Finished(folder, name)
            config = made.config()
            for marker in made.markers:
                # What was generated is looked at again when it is admitted: only that counts a sample.
                if not name.startswith("datadream@") or marker.name.startswith("kept/"):
                    counts.update(marker.counts)
                    reasons.update(marker.reasons)
        except UserError as error:
            self._problem(name, error)
            return StageRecord(name, state)
        self._made[name] = made
        return StageRecord(name, "done", made.form, config, counts, reasons, self._log(name))

    def _log(self, name: str) -> dict[str, Any]:
        path = f"{name}.json"
        return self._parsed(name, path, self._logs.read_bytes(path)) if self._logs.exists(path) else {}

    def _parsed(self, stage: str, path: str, raw: bytes | None) -> dict[str, Any]:
        if raw is None:
            return {}
        try:
            form = json.loads(raw)
            if not isinstance(form, dict):
                raise ValueError(f"holds {type(form).__name__}, not an object")
        except (ValueError, RecursionError) as error:
            self._problem(stage, error, path)
            return {}
        return form

    def _problem(self, stage: str, error: Exception, path: str = "") -> None:
        # The page must not hold a path of the machine.
        said = " ".join(str(error).split()).replace(self._folders[stage].url, folder_of(stage))
        self.problems.append(f"{folder_of(stage)}/{path} cannot be read: {said}" if path else said)


def content_digest(folder: Storage) -> str | None:
    """A hash of what a finished stage holds, from `stage.json` and the markers (which name every file's SHA-256).

    None when the stage is not finished. Two equal digests mean equal outputs, also after `limbeck retry`.
    """
    if not folder.exists(STAGE_FILE):
        return None
    digest = hashlib.sha256(folder.read_bytes(STAGE_FILE))
    for path in folder.list(LEDGER):
        digest.update(hashlib.sha256(folder.read_bytes(path)).digest())
    return digest.hexdigest()[:32]
