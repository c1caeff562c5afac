"""What every source promises, and what all of them need: a storage, hashing that keeps order, what stands beside an image.

What a label says is told by `pipelines.sources.labels`.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import posixpath
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pipelines import sample
from pipelines.errors import UserError
from pipelines.outcomes import Outcome, failed
from pipelines.remote import RemoteError
from pipelines.storage import Storage, canonical_json

T = TypeVar("T")

#: Threads that read and hash during a scan; both free the GIL.
HASH_THREADS = 4
SAMPLE_PREFIX = "sample:"
#: Addresses, and paths of another system.
_NO_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|[A-Za-z]:[/\\]")
#: Errors that are of the file and not of the moment.
_LASTING = frozenset(
    {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.EINVAL}
)


#: A file or member beside an image that is larger is no description of one image.
MAX_SIDE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded image and where to find it again.

    `source` is a stable locator for people, relative to the source's path. `file` (relative), `offset`, `length`
    (bytes) and `row` (-1 where there are no rows) are what `Source.read` needs. `label` is an index into the names that
    the record's own file states, `label_name` the name there; either may be absent, and where there is a name it is what
    counts. `sha256` (32 bytes) is of exactly the bytes that `read` returns.

    `document` is a JSON object that belongs into the sample's `json`, with COCO dicts of the upright picture under
    `annotations`; `parents` are the keys of what the image was made from. Both are absent for most sources.

    `problem` says why this record cannot be used (it cannot be read, its label or caption says nothing sensible, ...): a
    source yields it all the same, and it becomes a row. `sha256` is absent then where the bytes could not be read.
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
    sha256: bytes | None
    document: str | None = None
    parents: tuple[str, ...] | None = None
    problem: Outcome | None = None


def bad_record(source: str, problem: Outcome, split: str | None, row: int = -1, offset: int = 0) -> Record:
    """The record of what was met at `source` but has no bytes to be had."""
    return Record(source, "", offset, 0, row, None, None, split, None, None, problem=problem)


class Source(Protocol):
    """A place with images. Built from parameters only: any process can build one and `read` what another found.

    Everything met has a fate: it is in a `Record`, be it one with a `problem`, or counted by `passed_over`.
    """

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """All records, streamed, in an order set by the data alone. `UserError` when the place is not as said.

        Images of more than `max_bytes` are neither read nor hashed: they have the problem `too_many_bytes`.
        """

    def read(self, record: Record) -> bytes:
        """The encoded bytes of a record. Needs no scan before it; safe from several threads. OSError when it cannot."""

    def classes(self) -> list[str]:
        """Class names that the source states, by index; records may name others. Empty when it states none."""

    def passed_over(self) -> Counter[str]:
        """What the last scan met that is no record, by reason (`hidden`, `link_not_followed`, ...)."""


def resolve(path: str) -> str:
    """The URL behind a parameter's `path`: `sample:NAME` is a data set inside this package."""
    if not path.startswith(SAMPLE_PREFIX):
        return path
    name = path.removeprefix(SAMPLE_PREFIX)
    if name not in sample.names():
        raise UserError(f"no embedded sample {name!r}; there is {', '.join(sample.names())}")
    return str(sample.folder(name))


#: What operating systems and their tools leave in folders, in lower case.
_LITTER = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "#snapshot", "lost+found"}
    | {"$recycle.bin", "system volume information", "__pycache__"}
)


def litter(name: str) -> str | None:
    """Why a file or folder of this name (no path) is passed over unseen: `hidden`, `system_file`, or not at all."""
    if name.startswith("."):
        return "hidden"
    return "system_file" if name.lower() in _LITTER else None


def is_hidden(path: str) -> bool:
    """Whether any part of a relative path starts with a dot."""
    return any(part.startswith(".") for part in path.split("/"))


def escapes(path: str) -> bool:
    """Whether a path that came from data points out of the folder it is relative to, or is no plain path.

    A colon is a character like any other here: cameras and logs put times into names, and nothing is ever unpacked.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return not parts or parts[0] == "/" or ".." in parts or "\0" in path or "://" in path


def inside(storage: Storage, file: str, path: str) -> str | Outcome:
    """A `path` that stands in `file`, relative to the storage; an outcome, and nothing is read, where it leads out of it.

    Colons, backslashes and dots are parts of names here: nothing but the storage's own folder is ever joined to it.
    """
    if not path:
        return failed("empty", detail="the path is empty")
    if path.startswith("/") and storage.is_local:
        plain = os.path.relpath(path, storage.root)
    else:
        plain = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
    outside = "\0" in path or _NO_PATH.match(path) or plain.startswith("/") or plain.split("/")[0] == ".."
    if not outside and storage.is_local:  # a link may lead out, too
        outside = not (storage.root / plain).resolve().is_relative_to(storage.root.resolve())
    if outside:
        return failed("path_outside", detail=f"the path {path[:200]!r} leads out of the folder of this source")
    return plain


def read_object(raw: bytes, where: str) -> dict[str, Any] | Outcome:
    """The JSON object of a file or member beside an image, fit to be written again; empty for other JSON.

    An outcome when it is no JSON, has a number JSON cannot hold (NaN, 1e999), half a surrogate, or is huge.
    """
    if len(raw) > MAX_SIDE_BYTES:
        return failed("bad_json", "policy", f"{where} has {len(raw)} bytes, the limit is {MAX_SIDE_BYTES}")
    try:
        document = json.loads(raw)
        canonical_json(document)
    except UnicodeError:
        return failed("bad_json", detail=f"{where} is no text in UTF-8")
    except (ValueError, RecursionError) as error:
        return failed("bad_json", detail=f"{where} cannot be read: {error}"[:300])
    return document if isinstance(document, dict) else {}


def caption_from(value: object) -> str | Outcome | None:
    """The caption that a value of a table, a member's bytes or a JSON value says; `bad_caption` for what is no text."""
    if isinstance(value, bytes | str) and len(value) > MAX_SIDE_BYTES:
        return failed("bad_caption", "policy", f"the caption has {len(value)} bytes, the limit is {MAX_SIDE_BYTES}")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8-sig")  # Windows writes a mark first
        except UnicodeDecodeError as error:
            return failed(
                "bad_caption", detail=f"the caption is no text in UTF-8: {error.reason} at byte {error.start}"
            )
    if value is None or not isinstance(value, str):
        problem = f"a caption is text, not {type(value).__name__}"
        return None if value is None else failed("bad_caption", detail=problem)
    try:
        value.encode()
    except UnicodeEncodeError:
        return failed("bad_caption", detail="the caption holds half a surrogate, which no file can store")
    return value


def handed_over(facts: dict[str, Any]) -> str | None:
    """The `document` of a record from what stands beside its image: all of it, when there are COCO annotations in it."""
    return canonical_json(facts).decode() if "annotations" in facts else None


def too_many_bytes(size: int, limit: int) -> Outcome:
    """What becomes of an image of `size` bytes where `limit` is the most."""
    return failed("too_many_bytes", "policy", f"{size} bytes, the limit is {limit}")


def unreadable(error: OSError) -> Outcome:
    """Why bytes could not be read, in words that hold on any machine (no path of this one)."""
    if isinstance(error, FileNotFoundError):
        return failed("missing_file", detail="there is no such file")
    if isinstance(error, RemoteError):
        return failed("unreadable", "permanent" if error.lasting else "transient", error.told)
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return failed("unreadable", "permanent" if error.errno in _LASTING else "transient", reason)


class Hashed(NamedTuple, Generic[T]):
    """An item and what its bytes are: `length` and `sha256`, or the `problem` for which they cannot be read."""

    item: T
    length: int
    sha256: bytes | None
    problem: Outcome | None


def hash_in_order(
    items: Iterable[T], load: Callable[[T], tuple[int, bytes] | Outcome], window: int = 64
) -> Iterator[Hashed[T]]:
    """Each item with (length, sha256 digest) as `load` gives them, from a few threads, in the order of `items`.

    `load` may give an outcome, or raise OSError, for bytes that cannot be read. At most `window` items are under way,
    so memory does not grow with the source. A thread takes a few at a time: handing over one costs as much as hashing it.
    """

    def hashed(some: list[T]) -> list[Hashed[T]]:
        return [hashed_one(item) for item in some]

    def hashed_one(item: T) -> Hashed[T]:
        try:
            loaded = load(item)
        except OSError as error:
            loaded = unreadable(error)
        return Hashed(item, 0, None, loaded) if isinstance(loaded, Outcome) else Hashed(item, *loaded, None)

    remaining, few = iter(items), max(1, window // (2 * HASH_THREADS))
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        waiting: deque[Future[list[Hashed[T]]]] = deque()
        try:
            while some := list(itertools.islice(remaining, few)):
                waiting.append(pool.submit(hashed, some))
                if len(waiting) >= window // few:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def digest(data: bytes) -> tuple[int, bytes]:
    """(length, sha256) of bytes."""
    return len(data), hashlib.sha256(data).digest()
