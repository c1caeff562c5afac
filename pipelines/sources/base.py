"""What every source promises, and the two things all of them need: a storage and hashing that keeps order."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

from pipelines import sample
from pipelines.errors import UserError
from pipelines.storage import Storage, canonical_json

T = TypeVar("T")

#: Threads that read and hash during a scan; both free the GIL.
HASH_THREADS = 4
IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "pgm", "ppm", "pbm", "avif"})
SAMPLE_PREFIX = "sample:"


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded image and where to find it again.

    `source` is a stable locator for people, relative to the source's path. `file` (relative), `offset`, `length`
    (bytes) and `row` (-1 where there are no rows) are what `Source.read` needs. `label` indexes `Source.classes()`
    when there are class names; it may be absent. `sha256` (32 bytes) is of exactly the bytes that `read` returns.

    `document` is a JSON object that belongs into the sample's `json`, with COCO dicts of the upright picture under
    `annotations`; `parents` are the keys of what the image was made from. Both are absent for most sources.
    """

    source: str
    file: str
    offset: int
    length: int
    row: int
    label: int | None
    label_name: str | None
    split: str | None
    caption: str | None
    sha256: bytes
    document: str | None = None
    parents: tuple[str, ...] | None = None


class Source(Protocol):
    """A place with images. Built from parameters only: any process can build one and `read` what another found."""

    def scan(self) -> Iterator[Record]:
        """All records, streamed, in an order set by the data alone. `UserError` when the place is not as said."""

    def read(self, record: Record) -> bytes:
        """The encoded bytes of a record. Needs no scan before it; safe from several threads."""

    def classes(self) -> list[str]:
        """Class names by label; empty when the source has none."""


def resolve(path: str) -> str:
    """The URL behind a parameter's `path`: `sample:NAME` is a data set inside this package."""
    if not path.startswith(SAMPLE_PREFIX):
        return path
    name = path.removeprefix(SAMPLE_PREFIX)
    if name not in sample.names():
        raise UserError(f"no embedded sample {name!r}; there is {', '.join(sample.names())}")
    return str(sample.folder(name))


def open_files(path: str, endings: tuple[str, ...], what: str) -> tuple[Storage, list[str]]:
    """The storage and the sorted files of a `path` that is one file or a folder of files with one of `endings`."""
    url = resolve(path).rstrip("/")
    if url.lower().endswith(endings):
        parent, _, name = url.rpartition("/")
        storage = Storage(parent or ("/" if url.startswith("/") else "."))
        if not storage.exists(name):
            raise UserError(f"no {what} at {path}; check the path of this source")
        return storage, [name]
    storage = Storage(url)
    files = [name for name in storage.list() if name.lower().endswith(endings) and not is_hidden(name)]
    if not files:
        raise UserError(f"no {what} ({' or '.join(endings)}) at {path}; check the path of this source")
    return storage, files


def classes_beside(storage: Storage) -> list[str]:
    """The names in a `classes.json` in the source's folder; empty when there is none."""
    if not storage.exists("classes.json"):
        return []
    try:
        names = json.loads(storage.read_bytes("classes.json"))
    except ValueError:
        names = None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{storage.url}/classes.json is not a list of names; repair it or give `classes`")
    return names


def is_hidden(path: str) -> bool:
    """Whether any part of a relative path starts with a dot."""
    return any(part.startswith(".") for part in path.split("/"))


def escapes(path: str) -> bool:
    """Whether a path that came from data points out of the folder it is relative to, or is no plain path."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in path


def label_from(value: object, classes: list[str], where: str) -> tuple[int | None, str | None]:
    """(label, class name) of a label given as an index or as a name; `UserError` naming `where` if it does not fit."""
    if value is None:
        return None, None
    text = str(value).strip()
    if text in classes:
        return classes.index(text), text
    try:
        label = int(text)
    except ValueError:
        hint = f"it is none of {', '.join(classes[:8])}" if classes else "give the class names in `classes`"
        raise UserError(f"{where}: the label {text!r} is not a number, and {hint}") from None
    if label < 0 or (classes and label >= len(classes)):
        raise UserError(f"{where}: label {label} is outside 0..{len(classes) - 1}, the {len(classes)} classes")
    return label, classes[label] if classes else None


def read_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a file or member beside an image; empty for other JSON, `UserError` for what is no JSON."""

    def refused(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        found = json.loads(raw, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read ({error}); repair or remove it") from None
    return found if isinstance(found, dict) else {}


def handed_over(facts: dict[str, Any]) -> str | None:
    """The `document` of a record from what stands beside its image: all of it, when there are COCO annotations in it."""
    return canonical_json(facts).decode() if "annotations" in facts else None


def hash_in_order(
    items: Iterable[T], load: Callable[[T], tuple[int, bytes]], window: int = 64
) -> Iterator[tuple[T, int, bytes]]:
    """Each item with (length, sha256 digest) as `load` gives them, from a few threads, in the order of `items`.

    At most `window` items are under way, so memory does not grow with the source.
    """
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        waiting: deque[tuple[T, Future[tuple[int, bytes]]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(load, item)))
                if len(waiting) >= window:
                    first, future = waiting.popleft()
                    yield first, *future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, *future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def digest(data: bytes) -> tuple[int, bytes]:
    """(length, sha256) of bytes."""
    return len(data), hashlib.sha256(data).digest()
