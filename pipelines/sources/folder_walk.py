"""What lies in a folder, entry by entry: files to look at, what is passed over and why, what cannot be read.

Walking opens no file, so nothing in a folder can make it wait; names that are no UTF-8 are carried as Python's own escapes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from pipelines.outcomes import Outcome, failed
from pipelines.sources.base import digest, litter, too_many_bytes, unreadable
from pipelines.storage import Storage

#: Links to folders that one path may lead through; more is a maze.
_MOST_LINKS = 4
#: Files below this size are hashed out of memory.
_WHOLE = 1 << 20


@dataclass(slots=True)
class Listing:
    """`files` by relative path, sorted; what cannot be looked at, by path; and what is no file to look at, by reason."""

    files: list[str] = field(default_factory=list)
    problems: dict[str, Outcome] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)


def walk(storage: Storage, follow: bool) -> Listing:
    """All of a folder. `follow` says whether links may lead out of it, and to folders. OSError for the folder itself."""
    listing = Listing()
    if storage.is_local:
        _walk_local(storage.root, follow, listing)
    else:
        for name in storage.list():
            reason = next((reason for part in name.split("/") if (reason := litter(part))), None)
            if reason:
                listing.passed[reason] += 1
            else:
                listing.files.append(name)
    listing.files.sort()
    return listing


def _walk_local(root: Path, follow: bool, listing: Listing) -> None:
    inside = os.path.realpath(root)
    pending = [("", 0)]
    while pending:
        folder, links = pending.pop()
        try:
            with os.scandir(root / folder) as found:
                entries = list(found)
        except OSError as error:
            if not folder:
                raise
            listing.problems[f"{folder}/"] = unreadable(error)
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            reason = litter(entry.name)
            if reason is None and entry.is_symlink():
                reason = _link(entry, name, inside, follow, links, pending, listing)
            elif reason is None and entry.is_dir(follow_symlinks=False):
                pending.append((name, links))
            elif reason is None and entry.is_file(follow_symlinks=False):
                listing.files.append(name)
            elif reason is None:
                reason = "not_a_file"  # a pipe or a device: opening it could wait for ever
            if reason is not None:
                listing.passed[reason] += 1


def _link(
    entry: os.DirEntry[str],
    name: str,
    inside: str,
    follow: bool,
    links: int,
    pending: list[tuple[str, int]],
    listing: Listing,
) -> str | None:
    """Deal with a link: queue or list what it leads to, or give the reason for passing it over."""
    target = os.path.realpath(entry.path)
    here = target == inside or target.startswith(inside.rstrip("/") + "/")
    try:
        kind = entry.stat().st_mode
    except OSError as error:
        if not (follow or here):
            return "link_not_followed"
        listing.problems[name] = unreadable(error)
        return None
    if stat.S_ISDIR(kind):
        if not follow:
            return "link_not_followed"
        if links == _MOST_LINKS or (os.path.realpath(Path(entry.path).parent) + "/").startswith(target + "/"):
            return "link_loop"
        pending.append((name, links + 1))
        return None
    if not stat.S_ISREG(kind):
        return "not_a_file"
    if not (follow or here):
        return "link_not_followed"
    listing.files.append(name)
    return None


def read_regular(path: Path, most: int = -1) -> bytes:
    """The first `most` bytes of a regular file, or all; OSError for anything else, at once."""
    with _open_regular(path) as handle:
        return _read(handle, most)


def _open_regular(path: Path) -> FileIO:
    """A regular file, open for reading; OSError for anything else, at once: a pipe put there is not waited for.

    Without a buffer: who reads a small file whole, would pay for the buffer as much as for the file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return FileIO(handle)
    os.close(handle)
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _read(handle: FileIO, most: int) -> bytes:
    """What `most` bytes of a buffered file would be: the kernel may give less at a time than it is asked for."""
    if most < 0:
        return handle.readall()
    data = handle.read(most)
    while len(data) < most and (more := handle.read(most - len(data))):
        data += more
    return data


def read_file(storage: Storage, file: str, most: int = -1) -> bytes:
    """The bytes of a file (of a local one, `most` at the most); OSError where it is none, at once."""
    path = storage.local_path(file)
    return storage.read_bytes(file) if path is None else read_regular(path, most)


def hash_file(storage: Storage, file: str, limit: int | None) -> tuple[int, bytes] | Outcome:
    """(length, sha256) of a file; an outcome, and nothing is read, where it has more than `limit` bytes."""
    path = storage.local_path(file)
    if path is None:
        size = storage.size(file)
        if limit is not None and size > limit:
            return too_many_bytes(size, limit)
        data = storage.read_bytes(file)
        if size not in (-1, len(data)):
            return failed("unreadable", "transient", f"{len(data)} of {size} bytes came")
        return digest(data)
    with _open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if limit is not None and size > limit:
            return too_many_bytes(size, limit)
        if size < _WHOLE:
            return digest(handle.readall())  # `file_digest` takes a buffer that costs more than a small file
        sha256 = hashlib.file_digest(handle, "sha256").digest()
        return handle.tell(), sha256


def readable(name: str) -> str:
    """A name for people and tables: bytes that are no UTF-8 are shown as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stored_name(name: str) -> str:
    """A relative path as it can stand in a table; one that is no UTF-8 is quoted byte by byte after two slashes."""
    plain = readable(name)
    return plain if plain == name else "//" + quote(os.fsencode(name))


def native_name(stored: str) -> str:
    """The path that `stored_name` was given."""
    return os.fsdecode(unquote_to_bytes(stored[2:])) if stored.startswith("//") else stored
