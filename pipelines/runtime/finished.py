"""Reads the output of a finished stage, every file checked against the stage's seal.

`stage.json` names the files that no unit wrote, a marker those of its unit, an index those of its dataset; all three sign
themselves. Whatever a later stage takes from an earlier one comes through here or through `Dataset`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pipelines.errors import UserError
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE, all_markers, content_of
from pipelines.runtime.units import LEDGER, Marker
from pipelines.shards.checksum import FileSum, file_sum, read_signed, remedy, sum_of
from pipelines.shards.dataset import Dataset
from pipelines.shards.index import INDEX
from pipelines.storage import Storage, canonical_json


class Finished:
    """The output of `stage` (STAGE or STAGE@ITEM) in `storage`. Opening reads `stage.json`; nothing is kept open.

    Every method raises `UserError` with the next command when the stage is not finished, when a file is not there, or when it
    is not the one that the stage left.
    """

    def __init__(self, storage: Storage, stage: str) -> None:
        self.storage, self.stage = storage, stage
        try:
            raw = storage.read_bytes(STAGE_FILE)
        except (FileNotFoundError, NotADirectoryError):
            state = "is unfinished" if storage.exists(LEDGER) else "does not exist"
            raise UserError(f"the input {storage.url} {state}; run first: limbeck run {stage}") from None
        try:
            self.form = read_signed(raw)
            self.sealed = {file["path"]: FileSum(file["bytes"], file["sha256"]) for file in self.form["files"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{storage.url}/{STAGE_FILE} is damaged ({error}); {self._remedy}") from None

    @property
    def _remedy(self) -> str:
        return remedy(self.stage)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all files but the plan: the same where another plan or other code made the same."""
        files = [
            [path, recorded.sha256]
            for path, recorded in sorted(self.sealed.items())
            if not path.startswith(f"{PLAN_FOLDER}/")
        ]
        return hashlib.sha256(canonical_json([self.form["content"], files])).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage's `finish` said of its output; empty where it said nothing."""
        return dict(self.form.get("facts") or {})

    def read(self, path: str) -> bytes:
        """The content of a file."""
        recorded = self._sum(path)
        try:
            data = self.storage.read_bytes(path)
        except FileNotFoundError:
            raise self._missing(path) from None
        if sum_of(data) != recorded:
            raise self._changed(path)
        return data

    def json(self, path: str) -> Any:
        """The content of a JSON file."""
        return json.loads(self.read(path))

    def config(self) -> dict[str, Any]:
        """The parameters that the stage ran with, as resolved then."""
        try:
            return read_signed(self.storage.read_bytes(CONFIG_FILE))
        except FileNotFoundError:
            raise self._missing(CONFIG_FILE) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.storage.url}/{CONFIG_FILE} is damaged ({error}); {self._remedy}") from None

    def require(self, path: str) -> None:
        """Hash a file that is then read by other means, such as a memory map."""
        recorded = self._sum(path)
        try:
            actual = file_sum(self.storage, path)
        except FileNotFoundError:
            raise self._missing(path) from None
        if actual != recorded:
            raise self._changed(path)

    def dataset(self, part: str = "") -> Dataset | None:
        """The dataset in folder `part` of the output; None when the stage made none there."""
        path = f"{part}/{INDEX}" if part else INDEX
        if path not in self.sealed:
            return None
        self.require(path)
        return Dataset.open(self.storage.child(part), self.stage)

    def parts(self) -> list[str]:
        """The folders in which the stage made a dataset; its own folder is the empty name."""
        return sorted(path[: -len(INDEX)].rstrip("/") for path in self.sealed if f"/{path}".endswith(f"/{INDEX}"))

    def has(self, path: str) -> bool:
        """Whether the stage left such a file."""
        return path in self.sealed or path in self._of_units

    def paths(self, folder: str) -> list[str]:
        """Paths of the files below a folder that the stage left there, sorted."""
        return sorted(path for path in self.sealed | self._of_units if path.startswith(f"{folder}/"))

    def size(self, path: str) -> int:
        """Bytes of a file as the stage left it."""
        return self._sum(path).bytes

    def sha256(self, path: str) -> str:
        """SHA-256 (hex) of a file as the stage left it."""
        return self._sum(path).sha256

    @cached_property
    def markers(self) -> list[Marker]:
        """What the units left, by name."""
        markers = all_markers(self.storage)
        if len(markers) != self.form["units"]:
            raise UserError(
                f"{self.storage.url}/{LEDGER} has {len(markers)} sound markers of {self.form['units']}; {self._remedy}"
            )
        if content_of(markers) != self.form["content"]:
            raise UserError(
                f"the markers in {self.storage.url}/{LEDGER} are not those that {self.stage} left; {self._remedy}"
            )
        return markers

    @cached_property
    def _of_units(self) -> dict[str, FileSum]:
        return {file.path: FileSum(file.bytes, file.sha256) for marker in self.markers for file in marker.files}

    def _sum(self, path: str) -> FileSum:
        recorded = self.sealed.get(path) or self._of_units.get(path)
        if recorded is None:
            raise self._missing(path)
        return recorded

    def _missing(self, path: str) -> UserError:
        return UserError(f"{self.storage.url} has no {path} that {self.stage} left; {self._remedy}")

    def _changed(self, path: str) -> UserError:
        return UserError(
            f"{self.storage.url}/{path} is not the file that {self.stage} left (its SHA-256 is another); {self._remedy}"
        )
