"""The ledger: which units of a plan are done, judged from files alone.

A unit is done if its marker is there, carries the unit's identity, and every file it names has the size it names (with
`verify`, the SHA-256 too). Nothing else is remembered anywhere, so a run can be resumed by any process on any machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from pipelines.runtime.units import LEDGER, Marker, Unit, marker_path
from pipelines.storage import Storage

#: Written last by a finished stage; names the plan it finished.
STAGE_FILE = "stage.json"
PLAN_FOLDER = "plan"
CONFIG_FILE = "config.resolved.json"


class Ledger:
    """The markers of one stage's output, read once."""

    def __init__(self, storage: Storage, verify: bool = False) -> None:
        self._storage = storage
        self._verify = verify
        self._sizes = storage.sizes()

    def marker(self, unit: Unit, identity: str) -> Marker | None:
        """The unit's marker if the unit is done, else None."""
        path = marker_path(unit.name)
        if path not in self._sizes:
            return None
        try:
            marker = Marker.from_json(json.loads(self._storage.read_bytes(path)))
        except (ValueError, KeyError, TypeError):
            return None  # a damaged marker is no marker: the unit runs again
        return marker if marker.identity == identity and self._files_check_out(marker) else None

    def _files_check_out(self, marker: Marker) -> bool:
        if any(self._sizes.get(entry.path) != entry.bytes for entry in marker.files):
            return False
        if not self._verify:
            return True
        return all(_sha256(self._storage, entry.path) == entry.sha256 for entry in marker.files)

    def done(self, identities: Mapping[str, str], units: Sequence[Unit]) -> dict[str, Marker]:
        """Markers of the finished units of a plan by unit name."""
        found = ((unit.name, self.marker(unit, identities[unit.name])) for unit in units)
        return {name: marker for name, marker in found if marker is not None}


def all_markers(storage: Storage) -> list[Marker]:
    """Every readable marker of an output folder, whatever plan it belongs to, by name."""
    return [Marker.from_json(json.loads(storage.read_bytes(path))) for path in storage.list(LEDGER)]


def forget(storage: Storage, unit_name: str) -> None:
    """Make a unit undone; its files stay until the unit has run again."""
    storage.remove(marker_path(unit_name))


def _sha256(storage: Storage, path: str) -> str:
    with storage.open(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
