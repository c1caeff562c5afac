"""Running a command, such as `dvc repro`, whose stages share one Ray that is started for them and stopped after them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

from pipelines.errors import UserError
from pipelines.runtime.ray_head import NoRay, local_head

#: What the first Ctrl-C, the second and every later one sends to the command.
_INSISTENCE = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def run_with_ray(command: Sequence[str], say: Callable[[str], None]) -> int:
    """Run `command` with a Ray of its own, or without one where Ray does not start; returns its exit code.

    `RAY_ADDRESS` in the environment is left as it is: that cluster serves, and nothing is started or stopped.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"there is no command {command[0]}; give one that runs stages, such as: limbeck ray -- dvc repro"
        )
    environment = dict(os.environ)
    with ExitStack() as head:
        if "RAY_ADDRESS" not in environment:
            try:
                environment |= head.enter_context(local_head())
                say("Ray runs on this machine for all stages, and is stopped after the last one")
            except NoRay as reason:
                say(
                    f"Ray does not start here ({reason}): every stage does its units one after another, with the same result"
                )
        return _run(command, environment)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Wait for a command, whose stages are interrupted and waited for when this process is."""
    # A group of its own, so that a signal for this process alone reaches the stage that runs below DVC. That a shell had Ctrl-C
    # ignored, as it does for what it starts in the background, would be inherited, and nobody below would hear of the signal.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)
    signal.signal(signal.SIGINT, inherited)
    interruptions = 0
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, _INSISTENCE[min(interruptions, 2)])
            interruptions += 1
    if interruptions:
        raise KeyboardInterrupt
    return code
