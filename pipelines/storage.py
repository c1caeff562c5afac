"""Where bytes live: a folder at an fsspec URL, with atomic writes and ranged reads.

Local paths are the default and get temp name, fsync, rename and a directory fsync, so that a file under its final name
is always whole. Object stores commit a put atomically themselves. The two JSON forms live here because every file that
is hashed or compared passes through them.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError

#: Marks files that are not committed; `list` never shows them and `sweep_temporary` removes them.
TEMPORARY_PREFIX = ".tmp-"


def canonical_json(value: Any) -> bytes:
    """The form that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pretty_json(value: Any) -> bytes:
    """The form that is written for people and for diffs: sorted keys, two spaces, a newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


class Storage:
    """A folder at `url`. Paths given to the methods are relative, with forward slashes."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/") or "/"
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UserError(f"cannot open storage {self.url!r}: {error}") from error
        self._base = self._base.rstrip("/") or "/"

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.url,)

    @cached_property
    def is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    @property
    def root(self) -> Path:
        """The folder as a local path; only for local storage."""
        assert self.is_local, f"{self.url} is not local"
        return Path(self._base)

    def child(self, relative: str) -> Storage:
        return Storage(f"{self.url}/{relative}") if relative else self

    def local_path(self, path: str) -> Path | None:
        """The file as a local path for memory maps, or None when the storage is remote."""
        return self.root / path if self.is_local else None

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    def exists(self, path: str = "") -> bool:
        return bool(self._fs.exists(self._full(path)))

    def is_folder(self, path: str) -> bool:
        return bool(self._fs.isdir(self._full(path)))

    def size(self, path: str) -> int:
        return int(self._fs.size(self._full(path)))

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds."""
        self._fs.rm(self._full(path), recursive=True)
        if self.is_local:
            sync(Path(self._full(path)).parent)  # gone for good before anything is built on its absence

    def list(self, folder: str = "") -> list[str]:
        """Relative paths of all committed files below `folder`, sorted."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of all committed files below `folder`, by relative path."""
        start = self._full(folder)
        if not self._fs.exists(start):
            return {}
        self._fs.invalidate_cache()
        prefix = len(self._base.rstrip("/")) + 1
        found = self._fs.find(start, detail=True).items()
        below = ((name[prefix:], info["size"]) for name, info in found)
        return {name: int(size) for name, size in below if TEMPORARY_PREFIX not in name}

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, self._fs.open(self._full(path), "rb"))

    def read_bytes(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(self._full(path)))

    def pread(self, path: str, offset: int, length: int) -> bytes:
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
            return Path(tempfile.gettempdir()) / name
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

    def sweep_temporary(self) -> int:
        """Remove what killed writers left behind; call only when no writer is at work. Returns the count."""
        if not self.is_local or not self.root.is_dir():
            return 0
        stale = list(self.root.rglob(f"{TEMPORARY_PREFIX}*"))
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def remove_empty_folders(self) -> None:
        """Folders hold no data; ones left empty would make two equal outputs look different."""
        if not self.is_local or not self.root.is_dir():
            return
        folders = [path for path in self.root.rglob("*") if path.is_dir() and not path.is_symlink()]
        for folder in sorted(folders, reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()

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


def open_url(url: str) -> BinaryIO:
    """Open one file at any fsspec URL for reading."""
    try:
        return cast(BinaryIO, fsspec.open(url, "rb").open())
    except FileNotFoundError as error:
        raise UserError(f"no file at {url}") from error
