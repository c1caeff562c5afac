"""Errors of the machine: no sample is to blame for them, and every further unit would meet them too."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import StageStopped

#: A full or read-only disk, missing rights, a dying disk, no more file handles.
MACHINE_ERRORS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
    }
)


@contextmanager
def machine_errors(stage: str, doing: str, place: str) -> Iterator[None]:
    """Turn such an error into `StageStopped`, one sentence; `place` is named when the error does not name a file."""
    try:
        yield
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        where = error.filename if isinstance(error.filename, str) else place
        raise StageStopped(
            f"{stage} stopped in {doing}: {error.strerror or error} ({where}). Nothing that was finished is lost: "
            f"mend it, then limbeck run {stage} goes on where it stopped"
        ) from error
