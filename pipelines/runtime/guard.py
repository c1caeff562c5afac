"""Who may write into a stage's output: one run at a time, and no unit of a run that is gone.

A run holds a file lock, which dies with its process. That is not enough with workers in other processes: when a driver
is killed, its last units may go on for a moment, and what they write must not land in the output of the next run. So
every run has a token, and a unit holds a shared lock while it works and begins only if the token is still its run's.
A new run takes that lock alone, which waits for the stragglers, and then changes the token. On storage without locks
(object stores, some network disks) only the token is looked at, again just before a unit commits.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipelines.config import Section
from pipelines.errors import StageStopped, UserError
from pipelines.runtime.job import Job

ParamsT = TypeVar("ParamsT", bound=Section)

#: Seconds to wait for units of a run that was killed; their processes notice within a few.
GRACE = 60.0


@contextmanager
def only_run(job: Job[ParamsT]) -> Iterator[Job[ParamsT]]:
    """Hold a stage's output for the time of the block; yields the job with the token of this run."""
    job = replace(job, token=uuid.uuid4().hex)
    if not job.logs.is_local:
        admit_units(job, job.token)
        yield job
        return
    folder = job.logs.root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f"{job.stage}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --data") from None
    try:
        if not _lock(handle, fcntl.LOCK_EX, wait=0):
            owner = os.pread(handle, 32, 0).decode(errors="replace") or "unknown"
            raise UserError(
                f"another run of {job.stage} (process {owner}) is writing {job.output.url}; wait for it or stop it"
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        admit_units(job, job.token)
        yield job
    finally:
        os.close(handle)


def admit_units(job: Job[ParamsT], token: str) -> None:
    """Wait until no unit is at work, then let only units of the run `token` begin."""
    with _units_lock(job, fcntl.LOCK_EX) as locked:
        if not locked:
            raise StageStopped(
                f"units of an earlier run of {job.stage} are still writing {job.output.url} after {GRACE:.0f} s; "
                f"stop their processes, then limbeck run {job.stage}"
            )
        job.logs.write_bytes(_token_path(job), token.encode())


def no_units(job: Job[ParamsT]) -> None:
    """Nothing that is still under way anywhere may write any more."""
    admit_units(job, "none")


@contextmanager
def unit_at_work(job: Job[ParamsT]) -> Iterator[Callable[[], None]]:
    """Held while a unit writes. Yields a check to call before the commit; raises `StageStopped` if the run is over."""
    with _units_lock(job, fcntl.LOCK_SH):
        _check(job)
        yield (lambda: None) if job.logs.is_local else (lambda: _check(job))


def _check(job: Job[ParamsT]) -> None:
    if job.token and job.logs.read_bytes(_token_path(job)).decode() != job.token:
        raise StageStopped(f"another run of {job.stage} has taken over {job.output.url}; this one gives way")


def _token_path(job: Job[ParamsT]) -> str:
    return f"{job.stage}.run"


@contextmanager
def _units_lock(job: Job[ParamsT], kind: int) -> Iterator[bool]:
    if not job.token or not job.logs.is_local:
        yield True
        return
    handle = os.open(Path(job.logs.root) / f"{job.stage}.units.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _lock(handle, kind, GRACE)
    finally:
        os.close(handle)


def _lock(handle: int, kind: int, wait: float) -> bool:
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
