"""What a stage reads, held still: each finished input is pinned by the hash of its seal and locked against being rebuilt.

The lock is shared, so that many stages read one input, and lasts as long as the run. Where there are no locks (object
stores, read-only and some network disks) the pin is the protection: units look at it before they commit, the driver before
it seals.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.errors import StageStopped, UserError
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.runtime.locks import PATIENCE, open_folder, owner, take
from pipelines.storage import Storage, pretty_json


def inputs_of(stage: Stage[Any], job: Job[Any]) -> dict[str, Storage]:
    """The finished outputs that a stage may read, by STAGE or STAGE@ITEM."""
    folders = {}
    for name in stage.inputs(job):
        upstream, _, item = name.partition("@")
        folder = job.input(upstream, item)
        if folder.exists(STAGE_FILE):
            folders[name] = folder
        elif not item:
            items = {inner: folder.child(inner) for inner in folder.subfolders()}
            folders |= {f"{name}@{inner}": part for inner, part in items.items() if part.exists(STAGE_FILE)}
    return folders


def pins_of(inputs: Mapping[str, Storage]) -> tuple[tuple[str, str, str], ...]:
    """(name, location, SHA-256 of the seal) of every input."""
    pins = ((name, folder.location, seal_of(folder)) for name, folder in sorted(inputs.items()))
    return tuple((name, location, seal) for name, location, seal in pins if seal is not None)


def require_pinned(job: Job[Any]) -> None:
    """Raise `StageStopped` if an input is not any more what it was when the run began."""
    for name, location, seal in job.pins:
        folder = Storage(location)
        if seal_of(folder) != seal:
            raise StageStopped(
                f"{job.name}: its input {name} ({folder.url}) was changed while the stage ran, so what was read of it may be of "
                f"two kinds and is not used; let it finish (limbeck run {name}), then: limbeck run {job.name}"
            )


def record_inputs(job: Job[Any]) -> None:
    """Write among the logs which inputs the output is made of, for `limbeck status`; nothing else depends on it."""
    recorded = {name: seal for name, _, seal in job.pins}
    if recorded_inputs(job.logs, job.name) != recorded:
        job.logs.write_bytes(inputs_file(job.name), pretty_json(recorded))


def recorded_inputs(logs: Storage, name: str) -> dict[str, str]:
    """What `record_inputs` wrote of STAGE or STAGE@ITEM; empty where it is absent or damaged."""
    try:
        recorded = json.loads(logs.read_bytes(inputs_file(name)))
        return {str(upstream): str(seal) for upstream, seal in recorded.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def inputs_file(name: str) -> str:
    """Where among the logs the inputs of STAGE or STAGE@ITEM are named."""
    return f"{name}.inputs.json"


@contextmanager
def reading(job: Job[Any], inputs: Mapping[str, Storage]) -> Iterator[None]:
    """Hold every local input against a run that would rebuild it."""
    with ExitStack() as held:
        handles = [(name, handle) for name, folder in inputs.items() for handle in _open_locks(name, folder)]
        for _, handle in handles:
            held.callback(os.close, handle)
        for name, handle in handles:
            if not take(handle, fcntl.LOCK_SH, PATIENCE):
                raise UserError(
                    f"{name}, an input of {job.name}, is being written by another run (process {owner(handle)}); wait for it, "
                    f"then: limbeck run {job.name}"
                )
        yield


def _open_locks(name: str, folder: Storage) -> list[int]:
    """The locks of the runs that write an input, as far as there are any to hold: in its data folder, and the folder itself."""
    if not folder.is_local:
        return []
    data = folder.root.parents[name.count("@")]
    locks = []
    with suppress(OSError):  # a folder that was copied here alone, or may not be written to
        locks.append(os.open(Path(data) / ".limbeck" / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644))
    if (shared := open_folder(folder.root)) is not None:
        locks.append(shared)
    return locks


def seal_of(folder: Storage) -> str | None:
    """SHA-256 (hex) of the seal of a finished output; None where there is none."""
    try:
        return hashlib.sha256(folder.read_bytes(STAGE_FILE)).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
