"""Opens what the stages left, finished or not, and never raises over it: what cannot be read is told in the report.

What there is to read follows from the stages that it is given and the folders that exist: STAGE@ITEM is data/STAGE/ITEM.
A stage counts only when it is finished (`stage.json`); files of an unfinished one would mix two runs. A file that is not
the one that the stage left counts as one that cannot be read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipelines.errors import UserError
from pipelines.runtime.finished import Finished
from pipelines.runtime.inputs import recorded_inputs
from pipelines.runtime.job import Stage
from pipelines.runtime.ledger import PLAN_FOLDER, STAGE_FILE
from pipelines.runtime.units import LEDGER
from pipelines.shards.dataset import Dataset
from pipelines.shards.index import INDEX
from pipelines.shards.publish import STATS_FILE
from pipelines.storage import Storage


def inner(form: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The JSON object under a key; empty when there is none."""
    value = form.get(key)
    return value if isinstance(value, dict) else {}


def inner_list(form: Mapping[str, Any], key: str) -> Sequence[Any]:
    """The JSON array under a key; empty when there is none."""
    value = form.get(key)
    return value if isinstance(value, list) else []


def object_of(text: Any) -> dict[str, Any]:
    """A JSON object from a text of a sidecar; empty when it is none."""
    try:
        form = json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError):
        return {}
    return form if isinstance(form, dict) else {}


def folder_of(name: str) -> str:
    """Where the output of STAGE or STAGE@ITEM lies in a data folder."""
    return name.replace("@", "/")


@dataclass(frozen=True)
class StageRecord:
    """What one stage, or one item of it, says of itself; `name` is STAGE or STAGE@ITEM.

    `kind` is the stage itself; `counts` are samples by outcome, `reasons` by `outcome:class:reason`.
    """

    name: str
    kind: Stage[Any]
    state: Literal["done", "unfinished", "missing"]
    form: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    log: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.name.partition("@")[0]

    @property
    def item(self) -> str:
        return self.name.partition("@")[2]

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def title(self) -> str:
        """What it is called where people read it."""
        return self.kind.titles.get(self.item) or self.name.replace("@", " ").replace("_", " ")

    @property
    def adds(self) -> str:
        """What it would add to a report."""
        return self.kind.adds.replace("{item}", self.item)


class Outputs:
    """The outputs under one data folder. `problems` collects a sentence for everything that could not be read."""

    def __init__(self, stages: Iterable[Stage[Any]], folder: Callable[[str], Storage], logs: Storage) -> None:
        """Look into the output of each of `stages`; `folder` says where that of a name lies."""
        self._logs = logs
        self.problems: list[str] = []
        self._finished: dict[str, Finished] = {}
        self._folders: dict[str, Storage] = {}
        self.stages: dict[str, StageRecord] = {}
        for stage in stages:
            for name, storage in _outputs_of(stage.name, folder(stage.name)).items():
                self._folders[name] = storage
                self.stages[name] = self._record(stage, name)

    @classmethod
    def under(cls, data: str, stages: Iterable[Stage[Any]]) -> Outputs:
        """The usual layout: stage S in data/S, run facts in data/.limbeck."""
        return cls(stages, lambda name: Storage(f"{data}/{name}"), Storage(f"{data}/.limbeck"))

    def finished(self, stage: str = "", product: str = "") -> list[StageRecord]:
        """The finished outputs of a stage, or of a kind of product: the stage's own, or those of its items."""
        return [
            record
            for record in self.stages.values()
            if record.done and (not stage or record.stage == stage) and (not product or record.kind.product == product)
        ]

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
            return self._finished[stage].paths(folder) if self.done(stage) else []
        except UserError as error:
            self._problem(stage, error)
            return []

    def inputs(self, stage: str) -> list[str]:
        """The outputs that a stage (or STAGE@ITEM) read in its last run, as its run recorded them."""
        return sorted(recorded_inputs(self._logs, stage))

    def size(self, stage: str, path: str) -> int | None:
        """Bytes of a file of a finished stage, unread; None where it has none."""
        known = self.done(stage) and self._finished[stage].has(path)
        return self._finished[stage].size(path) if known else None

    def raw(self, stage: str, path: str) -> bytes | None:
        """A file of a finished stage."""
        if not self.done(stage):
            return None
        try:
            return self._finished[stage].read(path) if self._finished[stage].has(path) else None
        except (UserError, OSError) as error:
            self._problem(stage, error)
            return None

    def dataset(self, stage: str, part: str = "") -> Dataset | None:
        """A published dataset of a finished stage."""
        try:
            return self._finished[stage].dataset(part) if self.done(stage) else None
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

    def parts(self, stage: str) -> list[str]:
        """The datasets of a finished stage, as `dataset` takes them."""
        sealed = self._finished[stage].sealed if self.done(stage) else {}
        return [path.removesuffix(INDEX).rstrip("/") for path in sealed if path == INDEX or path.endswith(f"/{INDEX}")]

    def _record(self, stage: Stage[Any], name: str) -> StageRecord:
        folder = self._folders[name]
        state: Literal["unfinished", "missing"] = "unfinished" if _is_begun(folder) else "missing"
        record = StageRecord(name, stage, state)
        if not folder.exists(STAGE_FILE):
            return record
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        try:
            finished = Finished(folder, name)
            config = finished.config()
            for marker in finished.markers:
                # What other units look at again is counted where they decide.
                if not stage.counted or marker.name.startswith(f"{stage.counted}/"):
                    counts.update(marker.counts)
                    reasons.update(marker.reasons)
        except UserError as error:
            self._problem(name, error)
            return record
        self._finished[name] = finished
        log = self._log(name)
        return replace(record, state="done", form=finished.form, config=config, counts=counts, reasons=reasons, log=log)

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


def _outputs_of(stage: str, folder: Storage) -> dict[str, Storage]:
    """The folders in which a stage, or items of it, have left something; the stage's own when there are none."""
    items = {f"{stage}@{item}": folder.child(item) for item in folder.subfolders()}
    begun = {name: child for name, child in items.items() if _is_begun(child)}
    return begun if begun and not _is_begun(folder) else {stage: folder, **begun}


def _is_begun(folder: Storage) -> bool:
    return any(folder.exists(path) for path in (STAGE_FILE, f"{PLAN_FOLDER}/units.json", LEDGER))


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
