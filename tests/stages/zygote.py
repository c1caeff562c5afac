"""A process that has imported what a run of a stage needs, and forks one child per run: starting anew would take ten seconds.

Started with a stage, the module of a test that has `run(base, name, data)`, that base and name. Reads a data folder a line; answers
`began PID` when the child begins and `ended STATUS` when it is gone. `killed_again_and_again` starts it.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.runtime import checkpoints
from pipelines.runtime.serial import SerialRunner

ROOT = Path(__file__).parents[2]


def killed_again_and_again(
    run: Callable[..., Any],
    base: Path,
    name: str,
    output: Path,
    kills: int,
    longest: float,
    data: Path | None = None,
) -> None:
    """Call `run(base, name, data)`, which fills `output` = data/STAGE/ITEM, or data/STAGE where `data` is given, until it was killed so
    many times, each within `longest` seconds of its beginning."""
    delays, data = random.Random(0), data or output.parent.parent
    stage = output.relative_to(data).parts[0]
    command = [sys.executable, "-m", "tests.stages.zygote", stage, run.__module__, str(base), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        while kills:
            print(data, file=zygote.stdin, flush=True)
            word, pid = zygote.stdout.readline().split()
            assert word == "began"
            time.sleep(delays.uniform(0.0, longest))
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
            word, status = zygote.stdout.readline().split()
            assert (word, status in ("0", "9")) == ("ended", True)
            if status == "9":
                kills -= 1
            else:  # it got through: begin again, with the ledger gone but the files there
                for marker in (output / "ledger").rglob("*.json"):
                    marker.unlink()
        zygote.stdin.close()


_KILLED = """
import sys
from pipelines.commands.jobs import make_job
from pipelines.runtime.execute import execute
from pipelines.runtime.serial import SerialRunner
from pipelines.stages import get_stage
from tests.contract.limbeck_toy import _die_before
job = make_job(sys.argv[2], sys.argv[3], sys.argv[5:], sys.argv[4])
_die_before(int(sys.argv[1]))
execute(get_stage(job.stage), job, SerialRunner)
"""


def killed_before(change: int, name: str, data: Path, overrides: Sequence[str]) -> None:
    """Run STAGE or STAGE@ITEM with the parameters beside `data` in a process that kills itself before its `change`-th change of a file."""
    command = [
        sys.executable,
        "-c",
        _KILLED,
        str(change),
        name,
        str(data.parent / "params.yaml"),
        str(data),
        *overrides,
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


class Backwards(SerialRunner):
    """Runs the units of a wave from the last to the first, each by a worker of its own."""

    def run(self, stage: Any, job: Any, units: Any, tick: Any) -> Any:
        for unit in reversed(units):
            yield from SerialRunner(debug=True).run(stage, job, [unit], tick)


def main() -> None:
    stage, module, base, name = sys.argv[1:]
    checkpoints.INTERVAL = 0.0  # a checkpoint after every step
    importlib.import_module(f"pipelines.stages.{stage}.worker")
    run = importlib.import_module(module).run
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            print("began", os.getpid(), flush=True)
            run(Path(base), name, Path(line.strip()))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print("ended", status, flush=True)


if __name__ == "__main__":
    main()
