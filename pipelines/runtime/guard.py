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
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from pipelines.config import Section
from pipelines.errors import StageStopped, UserError
from pipelines.runtime.inputs import pins_of, reading
from pipelines.runtime.job import Job
from pipelines.runtime.locks import PATIENCE, UNITS_LOCK, open_folder, owner, readers_of, sign, take
from pipelines.storage import Storage

ParamsT = TypeVar("ParamsT", bound=Section)

#: Seconds to wait for units of a run that was killed; their processes notice within a few.
GRACE = 60.0


@contextmanager
def only_run(job: Job[ParamsT], inputs: Mapping[str, Storage] = MappingProxyType({})) -> Iterator[Job[ParamsT]]:
    """Hold a stage's output, and its inputs for reading, for the time of the block; yields the job with its run's token."""
    job = replace(job, token=uuid.uuid4().hex)
    if not job.logs.is_local:
        admit_units(job, job.token)
        with reading(job, inputs):
            yield replace(job, pins=pins_of(inputs))
        return
    folder = job.logs.root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f"{job.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --data") from None
    shared = open_folder(job.output.root)
    try:
        if not take(handle, fcntl.LOCK_EX, PATIENCE):
            raise _taken(job, handle)
        if shared is not None and not take(shared, fcntl.LOCK_EX, PATIENCE):
            raise UserError(
                f"{job.output.url} is at work for another data folder that shares it; wait for that run or stop it"
            )
        sign(handle, inputs)
        admit_units(job, job.token)
        with reading(job, inputs):
            yield replace(job, pins=pins_of(inputs))
    finally:
        if shared is not None:
            os.close(shared)
        os.close(handle)


def _taken(job: Job[ParamsT], handle: int) -> UserError:
    """Who has the output: a run that writes it, or runs that read it."""
    if not take(handle, fcntl.LOCK_SH, 0):
        return UserError(
            f"another run of {job.name} (process {owner(handle)}) is writing {job.output.url}; wait for it or stop it"
        )
    readers = ", ".join(readers_of(job.logs.root, job.name)) or "a stage of another data folder"
    return UserError(
        f"{readers} is reading {job.output.url}, so {job.name} cannot rebuild it now; wait for it or stop it"
    )


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
    handle = os.open(Path(job.logs.root) / f"{job.name}{UNITS_LOCK}", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield take(handle, kind, GRACE)
    finally:
        os.close(handle)
