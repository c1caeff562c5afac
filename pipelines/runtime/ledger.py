"""The ledger: which units of a plan are done, judged from files alone.

A unit is done if its marker is there, carries the unit's identity, and every file it names has the size it names (with
`verify`, the SHA-256 too). What other code made of the same is told apart, since somebody may want to keep it. Nothing
else is remembered anywhere, so a run can be resumed by any process on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from pipelines.runtime.rows import PLAN_FOLDER as PLAN_FOLDER
from pipelines.runtime.units import LEDGER, Marker, Unit, identity_of, marker_path
from pipelines.storage import Storage, canonical_json

#: Written last by a finished stage; names the plan it finished.
STAGE_FILE = "stage.json"
CONFIG_FILE = "config.resolved.json"

_READERS = 16


class Ledger:
    """The markers of one stage's output, read once."""

    def __init__(self, storage: Storage, verify: bool = False) -> None:
        self._storage = storage
        self._verify = verify
        self._sizes = storage.sizes()
        #: markers met that do not say which code made their unit, as those of earlier releases
        self.unsigned = 0

    def marker(self, unit: Unit, recipe: str) -> Marker | None:
        """The unit's marker if what it names was made of the same, by whichever code, and is there; else None."""
        path = marker_path(unit.name)
        if path not in self._sizes:
            return None
        marker = read_marker(self._storage, path)
        if marker is not None and not marker.code:
            self.unsigned += 1
        if marker is None or marker.identity != identity_of(recipe, marker.code):
            return None
        return marker if self._files_check_out(marker) else None

    def _files_check_out(self, marker: Marker) -> bool:
        if any(self._sizes.get(entry.path) != entry.bytes for entry in marker.files):
            return False
        if not self._verify:
            return True
        return all(sha256_of(self._storage, entry.path) == entry.sha256 for entry in marker.files)

    def found(self, recipes: Mapping[str, str], units: Sequence[Unit]) -> dict[str, Marker]:
        """Markers of the units of a plan that were made of the same, by unit name; `marker.code` says by which code."""

        def look(unit: Unit) -> Marker | None:
            return self.marker(unit, recipes[unit.name])

        # Threads hide the latency of object stores and let hashing use the cores; local markers are quicker without.
        if self._storage.is_local and not self._verify:
            markers = [look(unit) for unit in units]
        else:
            with ThreadPoolExecutor(_READERS) as pool:
                markers = list(pool.map(look, units))
        return {marker.name: marker for marker in markers if marker is not None}


def read_marker(storage: Storage, path: str) -> Marker | None:
    """The marker in a file; a damaged one is none, so that its unit runs again."""
    try:
        marker = Marker.from_json(storage.read_bytes(path))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return marker if marker.path == path else None


def all_markers(storage: Storage) -> list[Marker]:
    """Every readable marker of an output folder, whatever plan it belongs to, by name."""
    markers = (read_marker(storage, path) for path in storage.list(LEDGER))
    return [marker for marker in markers if marker is not None]


def sha256_of(storage: Storage, path: str) -> str:
    """SHA-256 (hex) of a file."""
    with storage.open(path) as handle:
        return hashlib.file_digest(cast(Any, handle), "sha256").hexdigest()


def content_of(markers: Iterable[Marker]) -> str:
    """32 hex characters over the files of all units: with `files`, every byte of the output hangs on the seal."""
    form = sorted([entry.path, entry.bytes, entry.sha256] for marker in markers for entry in marker.files)
    return hashlib.sha256(canonical_json(form)).hexdigest()[:32]
