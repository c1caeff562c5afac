"""Who may write into a stage's output: one run at a time, and no unit of a run that is gone.

A run holds a file lock, which dies with its process. That is not enough with workers in other processes: when a driver
is killed, its last units may go on for a moment, and what they write must not land in the output of the next run. So
every run has a token, and a unit holds a shared lock while it works and begins only if the token is still its run's.
A new run takes that lock alone, which waits for the stragglers, and then changes the token. A unit looks at the token
again before it commits, which on storage without locks (object stores, some network disks) is all the protection.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipelines.config import Section
from pipelines.errors import StageStopped, UserError
from pipelines.runtime.job import Job

ParamsT = TypeVar("ParamsT", bound=Section)

#: Seconds to wait for a driver that is just dying.
PATIENCE = 2.0
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
        handle = os.open(folder / f"{job.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --data") from None
    try:
        if not _lock(handle, fcntl.LOCK_EX, PATIENCE):
            owner = os.pread(handle, 32, 0).decode(errors="replace") or "unknown"
            raise UserError(
                f"another run of {job.name} (process {owner}) is writing {job.output.url}; wait for it or stop it"
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
                f"units of an earlier run of {job.name} are still writing {job.output.url} after {GRACE:.0f} s; "
                f"stop their processes, then limbeck run {job.name}"
            )
        job.logs.write_bytes(_token_path(job), token.encode())


def no_units(job: Job[ParamsT]) -> None:
    """Wait until no unit is at work, and let none begin: the output is this process's alone."""
    admit_units(job, "none")


def stop_units(job: Job[ParamsT]) -> None:
    """Ask units of this run that are still at work to give up; does not wait for them."""
    job.logs.write_bytes(_token_path(job), b"stopped")


@contextmanager
def unit_at_work(job: Job[ParamsT]) -> Iterator[None]:
    """Held while a unit writes; `StageStopped` if its run is over."""
    with _units_lock(job, fcntl.LOCK_SH):
        require_current(job)
        yield


def require_current(job: Job[ParamsT]) -> None:
    """Called by units at work now and then, and before they commit: raises `StageStopped` if their run is over."""
    if job.token and job.logs.read_bytes(_token_path(job)).decode() != job.token:
        raise StageStopped(f"this run of {job.name} was stopped or replaced; the unit gives way")


def _token_path(job: Job[ParamsT]) -> str:
    return f"{job.name}.run"


@contextmanager
def _units_lock(job: Job[ParamsT], kind: int) -> Iterator[bool]:
    if not job.token or not job.logs.is_local:
        yield True
        return
    handle = os.open(Path(job.logs.root) / f"{job.name}.units.lock", os.O_RDWR | os.O_CREAT, 0o644)
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
