"""This process's own folder for files on their way to a remote storage.

A writer that is killed leaves its files behind. The folder holds a locked file for as long as its process lives, so that
others can tell a dead writer's folder from one in use, in containers that share the disk and not the process numbers too.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "limbeck-work-"
_LOCK = "lock"
#: By process: a forked child must not write into its parent's.
_folders: dict[int, tuple[Path, int]] = {}


def workspace() -> Path:
    """The folder, made at the first call; it goes with the process."""
    if os.getpid() not in _folders:
        sweep_workspaces()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        unseen = folder / f"{_LOCK}.new"  # nobody takes the lock for free before it is held
        handle = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unseen.rename(folder / _LOCK)
        _folders[os.getpid()] = (folder, handle)
        atexit.register(_leave, os.getpid())
    return _folders[os.getpid()][0]


def sweep_workspaces() -> int:
    """Remove the folders whose process is dead; returns how many."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # not ours, or just being made
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        except OSError:  # its process lives
            continue
        finally:
            os.close(handle)
    return removed


def _leave(process: int) -> None:
    if process == os.getpid() and process in _folders:
        folder, handle = _folders.pop(process)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
