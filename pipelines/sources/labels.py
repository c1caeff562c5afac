"""What a label says: a number is an index, text is a name, and names belong to the file or folder that states them.

The rule, for every source:

| the value | is |
| --- | --- |
| none, -1, NaN of a float column | no label |
| a whole number (1.0 and a decimal 1.00 are) | an index into the names of its own file; without names any index up to a million |
| text | a name; where names are stated, one of them, digits or not |
| digits of a `.cls` member | an index: such a member is text because it cannot be anything else |
| anything else (a bool, 0.5, a list, an index or a name that is not there) | `bad_label`: a row, not the end |
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pipelines.errors import UserError
from pipelines.outcomes import Outcome, failed
from pipelines.sources.base import unreadable
from pipelines.sources.folder_walk import read_file
from pipelines.storage import Storage

CLASSES_FILE = "classes.json"
#: Folder of the tars in a dataset of ours; its `classes.json` lies one folder up.
_SHARDS = "shards"
#: Indices from here on are damage where no names say how many classes there are.
MOST_UNNAMED = 1_000_000
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Label:
    """What one record's label says: an index (as its file counts), a name, neither, or why it cannot be read."""

    index: int | None = None
    name: str | None = None
    problem: Outcome | None = None


class Names(Sequence[str]):
    """Class names by index, as one place states them; empty where it states none. Looking a name up is quick."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = tuple(names)
        self._index = {name: index for index, name in enumerate(self._names)}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._names[index]

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def index_of(self, name: str) -> int | None:
        return self._index.get(name)


NO_NAMES = Names()


def label_from(value: object, names: Names, member: bool = False) -> Label:
    """The label that `value` says by the rule above; `member` for the text of a `.cls` member. Never raises."""
    if value is None:
        return Label()
    if isinstance(value, str):
        return _from_text(value, names, member)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return bad_label(f"a label is a number or text, not {type(value).__name__}")
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return Label()
        if not math.isfinite(value) or value % 1:
            return bad_label(f"{value} is no whole number")
        value = int(value)
    return _from_index(value, names)


def bad_label(detail: str) -> Label:
    return Label(problem=failed("bad_label", detail=detail))


def _from_index(index: int, names: Names) -> Label:
    if index == -1:
        return Label()
    most = len(names) or MOST_UNNAMED
    if not 0 <= index < most:
        shown = str(index) if abs(index) < 10**20 else "a number of more than 20 digits"
        of = f"the {most} classes" if names else "and no names say how many classes there are"
        return bad_label(f"the index {shown} is outside 0..{most - 1}, {of}")
    return Label(index, names[index] if names else None)


def _from_text(text: str, names: Names, member: bool) -> Label:
    short = text.strip()
    if member and _WHOLE.fullmatch(short):
        return _from_index(int(short), names)
    for said in (text, short):
        if said in names:
            return Label(names.index_of(said), said)
    if names:
        return bad_label(f"{_shown(text)} is text, so a name, and none of {_few(names)}")
    if not short:
        return bad_label("the label is empty")
    if member and _NUMBER.fullmatch(short):
        return bad_label(f"{_shown(text)} is no whole number, and no class names are stated")
    try:
        text.encode()
    except UnicodeEncodeError:
        return bad_label(f"the name {_shown(text)} is no text in UTF-8")
    return Label(None, short if member else text)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def _few(names: Sequence[str]) -> str:
    listed = ", ".join(ascii(name) for name in names[:8])
    return listed + (f", ... ({len(names)} classes)" if len(names) > 8 else "")


class StatedNames:
    """The class names for each file of a source: `classes` for all, else the nearest `classes.json` at or above the file.

    Nearest of the file's own folder and those above it, up to the source's folder; for a folder called `shards` also
    the one it lies in, which is how datasets of ours are laid out.
    """

    def __init__(self, storage: Storage, classes: Sequence[str] | None = None) -> None:
        self._storage = storage
        self._for_all = None if classes is None else Names(classes)
        self._found: dict[str, Names] = {}

    def of(self, file: str) -> Names:
        """Names by index for a file (relative path)."""
        return self._for_all if self._for_all is not None else self._of_folder(file.rpartition("/")[0])

    def merged(self, files: Iterable[str]) -> list[str]:
        """All names of the files, each once, in the order they are stated."""
        if self._for_all is not None:
            return list(self._for_all)
        return merge(self._of_folder(folder) for folder in dict.fromkeys(file.rpartition("/")[0] for file in files))

    def _of_folder(self, folder: str) -> Names:
        if folder not in self._found:
            names = _read_names(self._storage, folder)
            if names is None and folder:
                names = self._of_folder(folder.rpartition("/")[0])
            elif names is None:
                names = self._above_shards()
            self._found[folder] = NO_NAMES if names is None else names
        return self._found[folder]

    def _above_shards(self) -> Names | None:
        here = self._storage
        if here.is_local:
            return _read_names(Storage(here.root.parent), "") if here.root.name == _SHARDS else None
        above, _, last = here.location.rpartition("/")
        return _read_names(Storage(above), "") if last == _SHARDS else None


def merge(lists: Iterable[Iterable[str]]) -> list[str]:
    """Every name once, in the order of first mention."""
    order: dict[str, None] = {}
    for names in lists:
        order.update(dict.fromkeys(names))
    return list(order)


def stated(names: object, where: str) -> Names:
    """A list of names as `where` states it; `UserError`, one sentence, when it is no list of distinct texts."""
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{where} is not a list of names; repair it or give `classes`")
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise UserError(f"{where} names {_shown(twice)} twice; repair it or give `classes`")
    try:
        json.dumps(names, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} holds a name that is no text in UTF-8; repair it or give `classes`") from None
    return Names(names)


def _read_names(storage: Storage, folder: str) -> Names | None:
    path = f"{folder}/{CLASSES_FILE}" if folder else CLASSES_FILE
    local = storage.local_path(path)
    if not (storage.exists(path) if local is None else os.path.lexists(local)):
        return None
    where = f"{storage.url}/{path}"
    try:
        raw = read_file(storage, path)
    except OSError as error:
        reason = unreadable(error).detail
        raise UserError(f"{where} cannot be read ({reason}); repair it, move it away or give `classes`") from None
    try:
        names = json.loads(raw)
    except (ValueError, RecursionError):
        names = None
    return stated(names, where)
