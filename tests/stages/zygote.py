"""A process that has imported what a run of `datadream` needs, and forks one child per run: starting anew would take ten seconds.

Reads a data folder a line; answers `began PID` when the child begins and `ended STATUS` when it is gone. Started by test_datadream.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipelines.runtime import checkpoints
from pipelines.stages.datadream import worker as _imported  # noqa: F401  what a run needs
from tests.stages.test_datadream import run


def main() -> None:
    base = Path(sys.argv[1])
    checkpoints.INTERVAL = 0.0  # a checkpoint after every step
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            print("began", os.getpid(), flush=True)
            run(base, "cls", Path(line.strip()))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print("ended", status, flush=True)


if __name__ == "__main__":
    main()
