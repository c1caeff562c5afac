"""A folder on another storage (a bucket, a web server, a zip), read as if it lay on a disk.

Storages differ in how they name files, what they know of them and what they raise. Here names are plain relative paths,
whatever a client raises is a `RemoteError` that says whether trying again can help, and a read gives the bytes that were
asked for or fails: never fewer, never others. Nothing is written here, and no message holds an address.
"""

from __future__ import annotations

import errno
import html
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote, unquote

from fsspec import AbstractFileSystem
from fsspec.archive import AbstractArchiveFileSystem

T = TypeVar("T")

#: Pauses before the second and the third try of what may pass, seconds.
_PAUSES = (0.2, 1.0)
#: After so many failures in a row nothing is tried twice any more, until something is read again.
_PATIENCE = 10
#: How deep folders of a web server are followed; one that links to itself has no end.
_MOST_DEEP = 32
_NO_PARTS = "the server sends whole files where a part was asked for (it takes no range requests)"
#: What stands in a bucket for a folder, beside empty keys that end in a slash.
_FOLDER_MARKER = "_$folder$"


class RemoteError(OSError):
    """A storage did not give what was asked for: `told` says why, `lasting` that trying again cannot help."""

    def __init__(self, told: str, lasting: bool) -> None:
        super().__init__(errno.EIO, told)
        self.told = told
        self.lasting = lasting


class Remote:
    """The folder `base` of an fsspec filesystem that is not the local one. Safe to share between threads."""

    def __init__(self, fs: AbstractFileSystem, base: str) -> None:
        cached = hasattr(
            fs, "_mkcache"
        )  # simplecache:: and its kin: they keep files, what lies behind them knows names
        self._fs = fs
        self._names = fs.fs if cached else fs
        self._web = "http" in _protocols(self._names)
        self._base = quote(base.rstrip("/"), safe="/%:@!$&'()*+,;=~?#[]") if self._web else base.rstrip("/")
        # Archives are read through one handle, and files are kept by one download at a time.
        one_at_a_time = cached or isinstance(fs, AbstractArchiveFileSystem)
        self._reading: Any = threading.RLock() if one_at_a_time else nullcontext()
        self._cached = cached
        self._failures = 0

    def full(self, path: str) -> str:
        """The name by which the filesystem knows a relative path."""
        if not path:
            return self._base
        quoted = quote(path) if self._web else path
        return f"{self._base}/{quoted}" if self._base else quoted

    def exists(self, path: str) -> bool:
        def look() -> bool:
            if not self._web:
                return bool(self._names.exists(self.full(path)))
            try:
                return bool(self._names.exists(self.full(path), strict=True))  # else a server that is down has no files
            except FileNotFoundError:
                return False

        return self._tried(look)

    def is_folder(self, path: str) -> bool:
        return self._tried(lambda: bool(self._names.isdir(self.full(path))))

    def size(self, path: str) -> int:
        """Bytes of a file; -1 where the storage does not say."""
        size = self._tried(lambda: self._names.info(self.full(path))["size"])
        return -1 if size is None else int(size)

    def sizes(self, folder: str) -> dict[str, int]:
        """Sizes (-1 where the storage does not say) of all files below a folder, by relative path."""
        if self._web:
            return dict.fromkeys(self._crawled(folder), -1)
        if not self.exists(folder):
            return {}

        def found() -> dict[str, dict[str, Any]]:
            self._names.invalidate_cache()
            return dict(self._names.find(self.full(folder), detail=True))

        files = {
            self._relative(name): int(info.get("size") or 0)
            for name, info in self._tried(found).items()
            if info.get("type", "file") != "directory" and not name.endswith(("/", _FOLDER_MARKER))
        }
        above = {name[:place] for name in files for place in range(len(name)) if name[place] == "/"}
        return {name: size for name, size in files.items() if name and (size or name not in above)}

    def serves_parts(self, path: str) -> bool:
        """Whether bytes from the middle of a file can be had without all that come before."""
        if not self._web or self._cached or 0 <= self.size(path) < 2:
            return True

        def second_byte() -> bool:
            try:
                with self._names.open(self.full(path), "rb", block_size=1024) as stream:
                    stream.seek(1)
                    return len(stream.read(1)) == 1
            except ValueError:  # how fsspec says that the server sent all of it
                return False

        return self._tried(second_byte)

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, _Stream(self._tried(lambda: self._fs.open(self.full(path), "rb")), self._tried))

    def read(self, path: str) -> bytes:
        return self._tried(lambda: bytes(self._fs.cat_file(self.full(path))))

    def pread(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on and no others; fewer only where the file ends."""

        def part() -> bytes:
            data = bytes(self._fs.cat_file(self.full(path), start=offset, end=offset + length))
            if len(data) > length:
                raise RemoteError(_NO_PARTS, True)
            if len(data) < length and not 0 <= self.size(path) < offset + length:
                raise RemoteError(f"{len(data)} of {length} bytes came", False)
            return data

        return self._tried(part) if length else b""

    def _relative(self, name: str) -> str:
        base = self._base.strip("/")
        inside = name.lstrip("/")
        return inside[len(base) :].lstrip("/") if base and inside.startswith(base) else inside

    def _crawled(self, folder: str) -> list[str]:
        """Files that the pages of a web server link to, below a folder. A page that cannot be had is an error, not empty."""
        paths: dict[str, None] = {}
        pending = [(self.full(folder), 0)]
        seen = set()
        while pending:
            page, depth = pending.pop()
            if page.rstrip("/") in seen or depth > _MOST_DEEP:
                continue
            seen.add(page.rstrip("/"))
            try:
                links = list(self._links(page))
            except FileNotFoundError:
                if depth:
                    raise RemoteError(f"it lists a folder that is not there: {self._plain(page)}", True) from None
                return []
            for name in links:
                if name.endswith("/"):
                    pending.append((name, depth + 1))
                else:
                    paths[self._plain(name)] = None
        return list(paths)

    def _plain(self, name: str) -> str:
        """The relative path of an address."""
        return unquote(name[len(self._base) :].strip("/"))

    def _links(self, page: str) -> Iterator[str]:
        """What a page links to below itself; links that sort the page (`?C=N;O=D`) are none."""
        for info in self._tried(lambda: self._names.ls(page, detail=True)):
            name = html.unescape(str(info["name"]))  # as it stands in the page
            inside = name.removeprefix(page.rstrip("/") + "/")
            if inside not in ("", name) and not set("?#").intersection(inside):
                yield name

    def _tried(self, do: Callable[[], T]) -> T:
        """What `do` gives, tried anew a little later where that can help. Missing files are a `FileNotFoundError`."""
        for pause in (*_PAUSES, None):
            try:
                with self._reading:
                    done = do()
            except (MemoryError, AssertionError):
                raise
            except Exception as error:  # every client has errors of its own; what they mean is told by `_meaning`
                meaning = _meaning(error)
                if not isinstance(meaning, RemoteError):
                    raise meaning from None
                self._failures += 1
                if meaning.lasting or pause is None or self._failures > _PATIENCE:
                    raise meaning from None
                time.sleep(pause)
            else:
                self._failures = 0
                return done
        raise AssertionError


class _Stream(io.RawIOBase):
    """A file of another storage, whose reads are tried anew like any other."""

    def __init__(self, stream: Any, tried: Callable[[Callable[[], Any]], Any]) -> None:
        self._stream = stream
        self._tried = tried

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def tell(self) -> int:
        return int(self._stream.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        start = self.tell()

        def piece() -> bytes:
            if self.tell() != start:
                self.seek(start)  # a try that failed may have read some; one that cannot go back fails again
            return bytes(self._stream.read(size))

        return cast(bytes, self._tried(piece))

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _meaning(error: Exception) -> OSError:
    """An error of any client as one of few: the file is missing, or a `RemoteError` without addresses in it."""
    if isinstance(error, RemoteError):
        return error
    cause = error.__cause__
    if isinstance(error, FileNotFoundError):
        if isinstance(cause, Exception) and getattr(cause, "status", 404) not in (404, 410):
            return _meaning(cause)  # fsspec calls a file missing whenever it could not ask for it
        if (
            isinstance(cause, Exception)
            and not hasattr(cause, "status")
            and not isinstance(cause, FileNotFoundError | KeyError)
        ):
            return _meaning(cause)
        return FileNotFoundError(errno.ENOENT, "no such file")
    status = getattr(error, "status", None)
    if isinstance(status, int):
        if status in (404, 410):
            return FileNotFoundError(errno.ENOENT, "no such file")
        lasting = 400 <= status < 500 and status not in (408, 425, 429)
        return RemoteError(f"the server answered {status}", lasting)
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return RemoteError("reading is not permitted", True)
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return RemoteError("this is a folder, not a file", True)
    if isinstance(error, TimeoutError):
        return RemoteError("no answer in time", False)
    if isinstance(error, ValueError) and "range requests" in str(error):
        return RemoteError(_NO_PARTS, True)
    module = type(error).__module__.partition(".")[0]
    if module in ("zipfile", "zlib", "tarfile") or isinstance(error, EOFError | RuntimeError | NotImplementedError):
        return RemoteError(f"the archive is damaged or encrypted here ({type(error).__name__})", True)
    if "DNS" in type(error).__name__:
        return RemoteError("there is no such host, or no network", False)
    if isinstance(error, ConnectionError) or "Connect" in type(error).__name__:
        return RemoteError("no connection, or one that broke off", False)
    return RemoteError(f"the storage failed ({type(error).__name__})", False)
