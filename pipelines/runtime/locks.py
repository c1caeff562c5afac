"""File locks, which die with the process that holds them, and what a run writes into its lock for those who wait."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

#: Seconds to wait for a driver that is just dying, or that finds its stage done.
PATIENCE = 2.0
#: The lock of a stage's units ends so; that of its run in `.lock` alone.
UNITS_LOCK = ".units.lock"
_BYTES = 4096


def take(handle: int, kind: int, wait: float) -> bool:
    """Whether the lock was had within `wait` seconds; a filesystem without locks counts as had."""
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        except OSError:
            return True


def open_folder(folder: Path) -> int | None:
    """A handle to lock a folder by, whichever way it was reached: data folders may share one by a link. None without one."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def sign(handle: int, reads: Iterable[str]) -> None:
    """Say who holds a run's lock: its process, and the inputs it reads."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n{' '.join(reads)}\n".encode(), 0)


def owner(handle: int) -> str:
    """The process that signed a lock last."""
    return _signed(handle)[0] or "unknown"


def writer_of(path: Path) -> str | None:
    """The process of the run that holds a lock file to write; None when there is none."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if take(handle, fcntl.LOCK_SH, 0) else owner(handle)
    finally:
        os.close(handle)


def readers_of(folder: Path, name: str) -> list[str]:
    """The runs under way in `folder` that read the output of `name`, as `STAGE (process N)`."""
    readers = []
    for path in sorted(folder.glob("*.lock")):
        if path.name.endswith(UNITS_LOCK):
            continue
        handle = os.open(path, os.O_RDWR)
        try:
            process, *reads = _signed(handle)
            held = not take(handle, fcntl.LOCK_SH, 0)
        finally:
            os.close(handle)
        if held and name in reads:
            readers.append(f"{path.name.removesuffix('.lock')} (process {process})")
    return readers


def _signed(handle: int) -> list[str]:
    """The process and the names of inputs; nothing in a lock that is a folder."""
    try:
        process, _, reads = os.pread(handle, _BYTES, 0).decode(errors="replace").partition("\n")
    except IsADirectoryError:
        return [""]
    return [process.strip(), *reads.split()]
