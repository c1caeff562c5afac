"""One local Ray for several runs of stages, in a process of its own.

That process ends, and the Ray with it, when its standard input does: whoever started it may be killed in any way.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines.errors import LimbeckError
from pipelines.runtime.ray_session import start_local

#: Seconds for Ray to start and to run a first task; and to end.
START_PATIENCE, END_PATIENCE = 120.0, 20.0


class NoRay(LimbeckError):
    """Ray does not start on this machine; the text is the reason."""


@contextmanager
def local_head() -> Iterator[dict[str, str]]:
    """Start a Ray for the time of the block; yields the environment variables by which others join it. Raises `NoRay`."""
    # In a process group of its own: Ctrl-C is for the runs, and those that end tidily still need their workers.
    head = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    )
    try:
        yield _joined_by(head)
    finally:
        _end(head)


def _joined_by(head: subprocess.Popen[str]) -> dict[str, str]:
    """What the process says of itself, within `START_PATIENCE`."""
    assert head.stdout is not None
    ready, _, _ = select.select([head.stdout], [], [], START_PATIENCE)
    if not ready:
        raise NoRay(f"it was not up after {START_PATIENCE:.0f} s")
    line = head.stdout.readline()
    if not line:
        raise NoRay(f"its process ended with code {head.wait()}")
    form: dict[str, str] = json.loads(line)
    if "error" in form:
        raise NoRay(form["error"])
    return form


def _end(head: subprocess.Popen[str]) -> None:
    """Let the process shut its Ray down, and kill both when that takes too long."""
    assert head.stdin is not None
    assert head.stdout is not None
    with suppress(OSError):
        head.stdin.close()
    try:
        head.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
    head.stdout.close()


def _answer() -> bool:
    return True


def _serve() -> None:
    """Start Ray, have it run a task, say its address or why there is none, and wait for standard input to end."""
    logging.disable(logging.CRITICAL)
    try:
        import ray

        start_local(None, {})
        # A head whose workers cannot start would let every stage wait for ever.
        ray.get(ray.remote(num_cpus=0)(_answer).remote(), timeout=START_PATIENCE / 2)
        said = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        # Ray may have settled on tokens for what it started, and tells only its own process.
        said |= {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if name in os.environ}
    except Exception as error:
        said = {"error": (" ".join(str(error).split()) or type(error).__name__)[:200]}
    print(json.dumps(said), flush=True)
    if "error" not in said:
        sys.stdin.read()
        ray.shutdown()


if __name__ == "__main__":
    _serve()
