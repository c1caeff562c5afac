"""Which files in a stage's output are ours. Limbeck removes and replaces those and never another.

A file is ours if a record in the same folder names it, so that a folder that DVC restored or somebody copied is ours
still. `plan/names.txt` is that record: before anything is written under a new name, the name stands there; one that ends in
a slash is the scratch folder of a unit. Workers, who cannot share it, leave a claim of their own for what the plan does not
imply. The seal, the plan and the markers name files too: one damaged record loses nothing. What no record names is refused
before any work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE, read_marker
from pipelines.runtime.units import CLAIMS, HEAD, LEDGER, SCRATCH, implied_files, marker_path, scratch_path
from pipelines.storage import Storage

UNITS_FILE = f"{PLAN_FOLDER}/units.json"
NAMES_FILE = f"{PLAN_FOLDER}/names.txt"
#: What systems leave in any folder; passed over, never removed. Patterns of base names.
LITTER = (".DS_Store", "._*", "Thumbs.db", "desktop.ini", ".directory", ".nfs*", ".fuse_hidden*", ".gitignore")
#: A unit's scratch folder ends in its identity.
_SCRATCH_FOLDER = re.compile(rf"{re.escape(SCRATCH)}/.+?-[0-9a-f]{{32}}/")
_SHOWN = 3


def is_litter(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return any(fnmatchcase(name, pattern) for pattern in LITTER)


def names_of_unit(name: str, identity: str) -> tuple[str, ...]:
    """What a unit's name stands for: its marker, its shard and sidecar, its scratch folder."""
    return marker_path(name), *implied_files(name), f"{scratch_path(name, identity)}/"


def _is_named(path: str, names: Collection[str]) -> bool:
    """Whether `names` hold a path or the scratch folder it lies in."""
    scratch = _SCRATCH_FOLDER.match(path)
    return path in names or (scratch is not None and scratch[0] in names)


def strangers(output: Storage, present: Collection[str]) -> list[str]:
    """The files of `present` that no record names, sorted."""
    left = {path for path in present if not is_litter(path)}
    listed = _names(output, present)
    recorded = False
    for names in (listed, _sealed(output), _planned(output, listed is None), read_claims(output, present)):
        if names is not None:
            recorded = True
            left = {path for path in left if not _is_named(path, names)}
    for path in [path for path in present if path.startswith(f"{LEDGER}/")] if left else []:
        if (marker := read_marker(output, path)) is not None:
            recorded = True
            left -= {path, *(entry.path for entry in marker.files)}
    return sorted(left - {STAGE_FILE, CONFIG_FILE, UNITS_FILE, NAMES_FILE} if recorded else left)


def require_ours(job_name: str, output: Storage, present: Collection[str]) -> None:
    """Refuse an output that holds files of somebody else: `UserError` that names some."""
    foreign = strangers(output, present)
    if foreign:
        raise UserError(
            f"{output.url} holds {_counted(foreign)} that no record of Limbeck names, and {job_name} writes there; "
            "move them away, or choose another folder with --data"
        )


def described(foreign: Collection[str]) -> str:
    """`2 files (a, b)`, three names at the most."""
    return _counted(sorted(foreign))


def _counted(foreign: list[str]) -> str:
    more = ", ..." if len(foreign) > _SHOWN else ""
    return f"{len(foreign)} file{'s' if len(foreign) > 1 else ''} ({', '.join(foreign[:_SHOWN])}{more})"


class Names:
    """`plan/names.txt` of one run's driver: grows before files appear, and ends as the list of what is there."""

    def __init__(self, output: Storage, names: Iterable[str]) -> None:
        self._output = output
        self._names = set(names) | {NAMES_FILE}

    def add(self, names: Iterable[str]) -> None:
        """Name files before they are written."""
        new = set(names) - self._names
        if new:
            self._names |= new
            self.write()

    def settle(self, names: Iterable[str]) -> None:
        """From now on exactly these: whatever else there was is gone."""
        self._names = set(names) | {NAMES_FILE}
        self.write()

    def write(self) -> None:
        assert not any("\n" in name for name in self._names)
        self._output.write_bytes(NAMES_FILE, "\n".join([HEAD, *sorted(self._names), ""]).encode())

    def __contains__(self, path: str) -> bool:
        return _is_named(path, self._names)


class NamedStorage(Storage):
    """The output as `Stage.finish` sees it: a file is named before it is written."""

    def __init__(self, url: str | Path, names: Names, prefix: str = "") -> None:
        super().__init__(url)
        self._file_names, self._prefix = names, prefix

    def child(self, relative: str) -> Storage:
        if not relative:
            return self
        inner = super().child(relative)
        return NamedStorage(inner.location, self._file_names, f"{self._prefix}{relative}/")

    def write_bytes(self, path: str, data: bytes) -> None:
        self._file_names.add([self._prefix + path])
        super().write_bytes(path, data)

    def publish(self, local_file: Path, path: str) -> None:
        self._file_names.add([self._prefix + path])
        super().publish(local_file, path)


def read_claims(output: Storage, present: Iterable[str]) -> set[str] | None:
    """All that workers claimed, and the claims; None where they did not."""
    claims = {path: _listed(output, path) for path in present if path.startswith(f"{CLAIMS}/")}
    lists = [{path, *names} for path, names in claims.items() if names is not None]
    return set().union(*lists) if lists else None


def _names(output: Storage, present: Collection[str]) -> set[str] | None:
    return _listed(output, NAMES_FILE) if NAMES_FILE in present else None


def _listed(output: Storage, path: str) -> set[str] | None:
    """The names in a list of ours; None if the file is something else."""
    try:
        head, *names = output.read_bytes(path).decode().split("\n")
    except (FileNotFoundError, ValueError):
        return None
    return set(names) - {""} if head == HEAD else None


def _sealed(output: Storage) -> set[str] | None:
    """What `stage.json` names. Those of earlier releases hold no checksum and are ours nevertheless."""
    try:
        form = json.loads(output.read_bytes(STAGE_FILE))
        names = {entry["path"] for entry in form["files"]}
        return (
            names
            if all(isinstance(name, str) for name in names) and {"stage", "version", "plan", "facts"} <= form.keys()
            else None
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _planned(output: Storage, with_tables: bool) -> set[str] | None:
    """What `plan/units.json` implies: what the names of its units stand for; the tables beside it if nothing lists them."""
    units = read_units(output)
    if units is None:
        return None
    tables = {path for path in output.list(PLAN_FOLDER) if path.endswith(".parquet")} if with_tables else set()
    return tables.union(*(names_of_unit(unit["name"], unit["id"]) for unit in units))


def read_units(output: Storage) -> list[dict[str, Any]] | None:
    """The units of `plan/units.json`, each with `name`, `id` and `payload`; None if it is absent or damaged."""
    try:
        units = json.loads(output.read_bytes(UNITS_FILE))["units"]
        sound = all(isinstance(unit["name"], str) and isinstance(unit["id"], str) for unit in units)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return list(units) if sound and isinstance(units, list) else None


def planning_code(output: Storage) -> str | None:
    """The digest of the code that planned an output last; None where the plan is absent or damaged, or does not say."""
    try:
        code = json.loads(output.read_bytes(UNITS_FILE)).get("code")
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, RecursionError):
        return None
    return code if isinstance(code, str) else None
