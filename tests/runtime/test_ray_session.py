"""How a run finds its Ray."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipelines.runtime import ray_session
from pipelines.runtime.ray_session import Head

PROGRAM = """
import signal
from pipelines.errors import UserError
from pipelines.runtime.ray_session import session
def mine(*_): pass
signal.signal(signal.SIGTERM, mine)
try:
    with session({workers}, 2, 1):
        import ray
        print(ray.cluster_resources()["CPU"], signal.getsignal(signal.SIGTERM) is mine)
    print(ray.is_initialized())
except UserError as error:
    print(error)
"""


def said(workers: int | None, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(workers=workers)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.ray
def test_a_local_session_has_room_for_the_workers_keeps_our_signal_handler_and_ends() -> None:
    assert said(3) == "6.0 True\nFalse\n"


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_a_user_error() -> None:
    text = said(None, RAY_ADDRESS="127.0.0.1:1")
    assert text.startswith("no Ray cluster at 127.0.0.1:1 (")
    assert text.endswith("unset RAY_ADDRESS to run on this machine\n")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_head_is_lost_when_it_has_not_answered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head()
    assert not head.lost()
    head._address = ("127.0.0.1", 1)
    assert not head.lost(), "it may be restarting"
    monkeypatch.setattr(ray_session, "HEAD_PATIENCE", 0.0)
    assert head.lost()
