"""`python -m tests.contract.limbeck_toy run STAGE ...`: the real command line with the toy stage and ingest only.

Also functions for child processes that are forked from a clean server and die by SIGKILL at a chosen instant.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipelines import stages
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.storage import Storage
from tests.contract import toy


def run_serially(job: Job[Any], killed_before: int | None = None) -> None:
    """Run the toy stage; die before the storage is changed for the `killed_before`-th time."""
    if killed_before is not None:
        _die_before(killed_before)
    with Path(os.devnull).open("w") as silence:
        os.dup2(silence.fileno(), 2)
        execute(toy.Toy(), job, SerialRunner)


def _die_before(change: int) -> None:
    """Count every commit and removal; SIGKILL leaves no `finally` a chance."""
    changes = 0

    def counted(method: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes == change:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*args)

        return call

    for name in ("publish", "remove", "sweep_temporary", "remove_empty_folders"):
        setattr(Storage, name, counted(getattr(Storage, name)))


def main() -> None:
    """The command line, with a short list of stages."""
    from pipelines.cli import main as limbeck

    sys.modules["pipelines.stages.toy.stage"] = toy
    ingest = stages.STAGES["ingest"]
    stages.STAGES.clear()
    stages.STAGES.update({"toy": "Toy", "ingest": ingest})
    limbeck()


if __name__ == "__main__":
    main()
