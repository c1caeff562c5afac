"""Opens what the stages left, finished or not, and never raises over it: what cannot be read is told in the report.

A stage counts only when it is finished (`stage.json`); files of an unfinished one would mix two runs.
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
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE
from pipelines.runtime.units import LEDGER
from pipelines.shards.dataset import Dataset
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
        self.stages = {name: self._stage(name) for name in folders}

    @classmethod
    def under(cls, data: str) -> Outputs:
        """The usual layout: stage S in data/S, run facts in data/.limbeck."""
        return cls({name: Storage(f"{data}/{folder_of(name)}") for name in READS}, Storage(f"{data}/.limbeck"))

    def done(self, stage: str) -> bool:
        return stage in self.stages and self.stages[stage].done

    def json(self, stage: str, path: str) -> dict[str, Any]:
        """A JSON object of a finished stage (or STAGE@ITEM); empty when there is none."""
        return self._json(self._folders[stage], path) if self.done(stage) else {}

    def csv(self, stage: str, path: str) -> list[dict[str, str]]:
        """The rows of a CSV file of a finished stage."""
        raw = self._bytes(self._folders[stage], path) if self.done(stage) else None
        if raw is None:
            return []
        try:
            return [dict(row) for row in csv.DictReader(io.StringIO(raw.decode("utf-8")))]
        except (UnicodeDecodeError, csv.Error) as error:
            self._problem(self._folders[stage], path, error)
            return []

    def files(self, stage: str, folder: str) -> list[str]:
        """Paths of the files below a folder of a finished stage."""
        return self._folders[stage].list(folder) if self.done(stage) else []

    def raw(self, stage: str, path: str) -> bytes | None:
        """A file of a finished stage."""
        return self._bytes(self._folders[stage], path) if self.done(stage) else None

    def dataset(self, stage: str, part: str = "") -> Dataset | None:
        """A published dataset of a finished stage."""
        if not self.done(stage) or not self._folders[stage].child(part).exists("index.json"):
            return None
        try:
            return Dataset.open(self._folders[stage].child(part))
        except UserError as error:
            self.problems.append(str(error))
            return None

    def stats(self, stage: str, part: str = "") -> dict[str, Any]:
        """`stats.json` of a dataset of a finished stage."""
        return self._json(self._folders[stage].child(part), "stats.json") if self.done(stage) else {}

    def _stage(self, name: str) -> StageRecord:
        folder = self._folders[name]
        form = self._json(folder, STAGE_FILE)
        if not form:
            begun = folder.exists(f"{PLAN_FOLDER}/units.json") or folder.exists(LEDGER)
            return StageRecord(name, "unfinished" if begun else "missing")
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        # What was generated is looked at again when it is admitted: only that counts a sample.
        for path in folder.list(f"{LEDGER}/kept" if name.startswith("datadream@") else LEDGER):
            marker = self._json(folder, path)
            for total, key in ((counts, "counts"), (reasons, "reasons")):
                part = marker.get(key)
                total.update(
                    {str(k): v for k, v in part.items() if isinstance(v, int)} if isinstance(part, dict) else {}
                )
        log = self._json(self._logs, f"{name}.json")
        return StageRecord(name, "done", form, self._json(folder, CONFIG_FILE), counts, reasons, log)

    def _json(self, folder: Storage, path: str) -> dict[str, Any]:
        raw = self._bytes(folder, path)
        if raw is None:
            return {}
        try:
            form = json.loads(raw)
            if not isinstance(form, dict):
                raise ValueError(f"holds {type(form).__name__}, not an object")
        except (ValueError, RecursionError) as error:
            self._problem(folder, path, error)
            return {}
        return form

    def _bytes(self, folder: Storage, path: str) -> bytes | None:
        if not folder.exists(path):
            return None
        try:
            return folder.read_bytes(path)
        except OSError as error:
            self._problem(folder, path, error)
            return None

    def _problem(self, folder: Storage, path: str, error: Exception) -> None:
        where = f"{folder.url.rsplit('/', 1)[-1]}/{path}"  # the page must not hold a path of the machine
        self.problems.append(f"{where} cannot be read: {' '.join(str(error).split())}")


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
