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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.runtime import checkpoints

ROOT = Path(__file__).parents[2]


def killed_again_and_again(
    run: Callable[..., Any], base: Path, name: str, output: Path, kills: int, longest: float
) -> None:
    """Call `run(base, name, data)`, which fills `output` = data/STAGE/ITEM, until it was killed so many times, each within `longest`
    seconds of its beginning."""
    delays, data = random.Random(0), output.parent.parent
    command = [sys.executable, "-m", "tests.stages.zygote", output.parent.name, run.__module__, str(base), name]
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
