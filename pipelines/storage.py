"""Where bytes live: a folder at a path or an fsspec URL, with atomic writes and ranged reads.

Local paths are the default and get temp name, fsync, rename and a directory fsync, so that a file under its final name
is always whole. Object stores commit a put atomically themselves. The two JSON forms live here because every file that
is hashed or compared passes through them. How places are written is in `locations`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError
from pipelines.locations import is_url, local_path
from pipelines.redaction import redacted
from pipelines.remote import Remote, RemoteError
from pipelines.workspace import workspace

#: Marks files that are not committed; `list` never shows them and `sweep_temporary` removes them.
TEMPORARY_PREFIX = ".tmp-"
#: The whole form of such a name: nobody else's file has it by accident.
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}-")


#: Made once: `json.dumps` makes one for every value, which for a sample's few facts takes as long as writing them.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """The form that is hashed: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(value).encode()


def pretty_json(value: Any) -> bytes:
    """The form that is written for people and for diffs: sorted keys, two spaces, a newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def is_temporary(path: str) -> bool:
    """Whether a path is that of a file under construction."""
    return bool(_TEMPORARY.match(path.rsplit("/", 1)[-1]))


class Storage:
    """A folder at `url`, which is a path of this machine unless it begins with `scheme://`.

    Paths given to the methods are relative, with forward slashes. `url` is for people and records and holds no credentials;
    `location` is what opens the same storage elsewhere.
    """

    def __init__(self, url: str | Path) -> None:
        self.location = str(url)
        if is_url(self.location):
            bare = self.location.rstrip("/")
            self.location = f"{bare}//" if bare.endswith(":") else bare  # the root of a storage that has one
            self.url = redacted(self.location)
            try:
                self._fs, base = fsspec.core.url_to_fs(self.location)
            except (MemoryError, AssertionError):
                raise
            except Exception as error:  # an archive that is none, a driver that is missing, a URL that is no URL
                lines = redacted(str(error)).splitlines() or [type(error).__name__]
                raise UserError(f"cannot open storage {self.url!r}: {lines[0]}; check the address") from None
            self._base = base.rstrip("/") or "/"
            self._remote = Remote(self._fs, base)
        else:
            # Not through fsspec's parser, which reads `::` as a chain and a colon as a protocol.
            self._fs, self._base = LocalFileSystem(), str(local_path(self.location)).rstrip("/") or "/"
            self.url = self.location.rstrip("/") or "/"

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.location,)

    @cached_property
    def is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    @property
    def root(self) -> Path:
        """The folder as a local path; only for local storage."""
        assert self.is_local, f"{self.url} is not local"
        return Path(self._base)

    def child(self, relative: str) -> Storage:
        return Storage(f"{self.location.rstrip('/')}/{relative}") if relative else self

    def local_path(self, path: str) -> Path | None:
        """The file as a local path for memory maps, or None when the storage is remote."""
        return self.root / path if self.is_local else None

    def _full(self, path: str) -> str:
        if not self.is_local:
            return self._remote.full(path)
        return f"{self._base}/{path}" if path else self._base

    def exists(self, path: str = "") -> bool:
        if self.is_local:
            return bool(self._fs.exists(self._full(path)))
        with self._reachable():
            return self._remote.exists(path)

    def is_folder(self, path: str) -> bool:
        if self.is_local:
            return bool(self._fs.isdir(self._full(path)))
        with self._reachable():
            return self._remote.is_folder(path)

    def size(self, path: str) -> int:
        """Bytes of a file; -1 where a remote storage does not say."""
        return int(self._fs.size(self._full(path))) if self.is_local else self._remote.size(path)

    def serves_parts(self, path: str) -> bool:
        """Whether a file can be read from its middle, which not every web server allows."""
        if self.is_local:
            return True
        with self._reachable():
            return self._remote.serves_parts(path)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """A storage that cannot be asked at all is no place to work with."""
        try:
            yield
        except RemoteError as error:
            raise UserError(f"cannot look into {self.url}: {error.told}; check the address and credentials") from None

    def remove(self, path: str) -> None:
        """Remove a file."""
        if not self.is_local:
            self._fs.rm_file(self._full(path))
            return
        target = Path(self._full(path))
        target.unlink()
        sync(target.parent)  # gone for good before anything is built on its absence

    def subfolders(self) -> list[str]:
        """The names of the folders in this one, sorted."""
        if not self.exists():
            return []
        if self.is_local:
            return sorted(path.name for path in self.root.iterdir() if path.is_dir())
        entries = self._fs.ls(self._base, detail=True)
        return sorted(info["name"].rstrip("/").rsplit("/", 1)[-1] for info in entries if info["type"] == "directory")

    def list(self, folder: str = "") -> list[str]:
        """Relative paths of all committed files below `folder`, sorted."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of all committed files below `folder`, by relative path. Links to folders are not followed."""
        start = self._full(folder)
        prefix = len(self._base.rstrip("/")) + 1
        if not self.is_local:
            with self._reachable():
                return {name: size for name, size in self._remote.sizes(folder).items() if not is_temporary(name)}
        below = ((name[prefix:], size) for name, size in _local_sizes(start))
        return {name: size for name, size in below if name and not name.endswith("/") and not is_temporary(name)}

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, self._fs.open(self._full(path), "rb")) if self.is_local else self._remote.open(path)

    def read_bytes(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(self._full(path))) if self.is_local else self._remote.read(path)

    def pread(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, fewer only where the file ends."""
        if not self.is_local:
            return self._remote.pread(path, offset, length)
        return bytes(self._fs.cat_file(self._full(path), start=offset, end=offset + length))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file; a reader sees all of it or none."""
        if not self.is_local:
            self._fs.pipe_file(self._full(path), data)
            return
        temporary = self.temp_file(path)
        try:
            temporary.write_bytes(data)
            self.publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def temp_file(self, path: str) -> Path:
        """A local path to build `path` under, on the same filesystem when the storage is local."""
        name = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.rsplit('/', 1)[-1]}"
        if not self.is_local:
            return workspace() / name
        target = Path(self._full(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(name)

    def publish(self, local_file: Path, path: str) -> None:
        """Commit a finished temporary file under its final name; atomic."""
        if not self.is_local:
            self._fs.put_file(str(local_file), self._full(path))
            local_file.unlink()
            return
        target = Path(self._full(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(local_file)
        local_file.replace(target)
        sync(target.parent)

    def sweep_temporary(self, mine: Callable[[str], bool] = lambda path: True) -> set[str]:
        """Remove what killed writers left behind; call only when no writer is at work. Returns the folders it lay in.

        With `mine`, of a folder that several write to: takes the relative path a file would have had.
        """
        if not self.is_local or not self.root.is_dir():
            return set()
        folders = set()
        for path in list(self.root.rglob(f"{TEMPORARY_PREFIX}*")):
            relative = path.relative_to(self.root).as_posix()
            folder, slash, name = relative.rpartition("/")
            if is_temporary(name) and not path.is_dir() and mine(folder + slash + _TEMPORARY.sub("", name)):
                path.unlink(missing_ok=True)
                folders.add(folder)
        return folders

    def folders(self, folder: str) -> set[str]:
        """The folders below `folder` and itself, by relative path; object stores have none."""
        top = Path(self._full(folder))
        if not self.is_local or not top.is_dir():
            return set()
        below = [path for path in top.rglob("*") if path.is_dir() and not path.is_symlink()]
        return {path.relative_to(self.root).as_posix() for path in [top, *below]}

    def remove_empty_folders(self, folders: Iterable[str]) -> None:
        """Remove those of `folders` and of what they lie in that hold nothing: no file says that they were there."""
        if not self.is_local or not self.root.is_dir():
            return
        lie_in = {str(above) for folder in folders for above in (PurePosixPath(folder), *PurePosixPath(folder).parents)}
        for folder in sorted(lie_in - {"."}, reverse=True):
            path = self.root / folder
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()

    @contextmanager
    def replacing(self, path: str) -> Iterator[Path]:
        """`with storage.replacing("a.bin") as temporary:` builds a file and commits it if the block does not raise."""
        temporary = self.temp_file(path)
        try:
            yield temporary
            self.publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or a folder entry to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _local_sizes(start: str) -> Iterator[tuple[str, int]]:
    """Every file below a local folder, or the one file; a folder that may not be read is an error, not an empty one."""
    if not Path(start).is_dir():
        if os.path.lexists(start):
            yield start, os.lstat(start).st_size
        return
    pending = [start]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                try:
                    yield entry.path, entry.stat().st_size
                except OSError:  # gone meanwhile, or a link to nothing
                    if os.path.lexists(entry.path):
                        yield entry.path, 0


def open_url(url: str) -> BinaryIO:
    """Open one file at a path or any fsspec URL for reading."""
    try:
        if not is_url(url):
            return cast(BinaryIO, local_path(url).open("rb"))
        return cast(BinaryIO, fsspec.open(url, "rb").open())
    except FileNotFoundError:
        raise UserError(f"no file at {redacted(url)}") from None


def csv_bytes(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """A table for plots: a header, then one line per row; floats with nine significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row.get(name, "") for name in columns)
        writer.writerow([f"{value:.9g}" if isinstance(value, float) else value for value in values])
    return text.getvalue().encode()
