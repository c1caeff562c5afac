"""`limbeck ray`: one Ray for a command, stopped however the command ends, and none where Ray does not start.

Most of it is tried with a stand-in for the package `ray`, which leaves a file while it is up.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.commands.local_ray import run_with_ray
from pipelines.errors import UserError
from pipelines.runtime import ray_head

STAND_IN = """
import os, pathlib
from types import SimpleNamespace
up = pathlib.Path(os.environ["STAND_IN"], "up")
def init(**options): up.write_text(str(os.getpid()))
def shutdown(): up.unlink()
def remote(**options): return lambda function: SimpleNamespace(remote=function)
def get(value, timeout): return value
def get_runtime_context(): return SimpleNamespace(gcs_address="127.0.0.1:1")
"""
DVC_FILE = "stages: {one: {cmd: COMMAND, outs: [done]}}\n"
#: A stage that says when it is at work, and ends tidily when it is interrupted.
STAGE = """
import os, pathlib, signal, sys, time
here = pathlib.Path(os.environ["STAND_IN"])
(here / "at_work").write_text(os.environ["RAY_ADDRESS"])
if sys.argv[1:] == ["fail"]:
    sys.exit(7)
try:
    time.sleep(300)
except KeyboardInterrupt:
    (here / "tidy").write_text("Ray is " + ("up" if (here / "up").exists() else "gone"))
    sys.exit(130)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `ray` is the stand-in, and no cluster is named."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/ray.py").write_text(STAND_IN)
    (tmp_path / "stage.py").write_text(STAGE)
    repository = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'packages'}:{repository}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def telling(place: Path) -> list[str]:
    """A command that writes down which Ray it was given."""
    code = (
        f"import os, pathlib; pathlib.Path({str(place / 'given')!r}).write_text(os.environ.get('RAY_ADDRESS', 'none'))"
    )
    return [sys.executable, "-c", code]


def wait_until(true: Callable[[], bool], driver: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        assert driver is None or driver.poll() is None, driver.communicate()
        time.sleep(0.02)


def test_a_command_is_given_the_address_and_ray_ends_with_it(place: Path) -> None:
    said: list[str] = []
    assert run_with_ray(telling(place), said.append) == 0
    assert (place / "given").read_text() == "127.0.0.1:1"
    assert said == ["Ray runs on this machine for all stages, and is stopped after the last one"]
    assert not (place / "up").exists()


def test_a_cluster_that_is_named_serves_and_nothing_is_started(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head.example:6379")
    (place / "packages/ray.py").write_text("raise AssertionError('imported')")
    said: list[str] = []
    assert run_with_ray(telling(place), said.append) == 0
    assert (place / "given").read_text() == "head.example:6379"
    assert said == []


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        ("raise ImportError('No module named ray')", "No module named ray"),
        ("def init(**options): raise OSError('no room in\\n/dev/shm')", "no room in /dev/shm"),
        ("import os\ndef init(**options): os._exit(3)", "its process ended with code 3"),
    ],
)
def test_where_ray_does_not_start_one_line_says_so_and_the_command_runs(place: Path, package: str, reason: str) -> None:
    (place / "packages/ray.py").write_text(package)
    said: list[str] = []
    assert run_with_ray(telling(place), said.append) == 0
    assert (place / "given").read_text() == "none"
    assert said == [
        f"Ray does not start here ({reason}): every stage does its units one after another, with the same result"
    ]


def test_a_ray_that_hangs_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "packages/ray.py").write_text(STAND_IN + "\nimport time\ndef get(value, timeout): time.sleep(300)")
    monkeypatch.setattr(ray_head, "START_PATIENCE", 5.0)
    monkeypatch.setattr(ray_head, "END_PATIENCE", 0.1)
    said: list[str] = []
    assert run_with_ray(telling(place), said.append) == 0
    assert "it was not up after 5 s" in said[0]
    pid = int((place / "up").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_command_that_is_not_there_is_a_user_error(place: Path) -> None:
    with pytest.raises(UserError, match="no command nosuch"):
        run_with_ray(["nosuch"], print)
    assert not (place / "up").exists()


def repro(place: Path, *stage: str, in_background: bool = False) -> subprocess.Popen[str]:
    """`limbeck ray -- dvc repro` of the one stage, in a process of its own, which ignores Ctrl-C as a shell's background job does."""
    pytest.importorskip("dvc", reason="DVC is not installed: limbeck[dvc]")
    (place / "dvc.yaml").write_text(DVC_FILE.replace("COMMAND", " ".join([sys.executable, "stage.py", *stage])))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=place, check=True)
    ignoring = "trap '' INT; " if in_background else ""
    ray = [sys.executable, "-m", "pipelines", "ray", "--", sys.executable, "-m", "dvc", "repro"]
    return subprocess.Popen(
        ["sh", "-c", f'{ignoring}exec "$@"', "sh", *ray],
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(("name", "in_background"), [("SIGINT", False), ("SIGTERM", False), ("SIGTERM", True)])
def test_a_signal_ends_the_stage_below_dvc_tidily_and_then_ray(place: Path, name: str, in_background: bool) -> None:
    driver = repro(place, in_background=in_background)
    wait_until((place / "at_work").exists, driver)
    driver.send_signal(getattr(signal, name))  # to this process alone, as a service manager does
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert (place / "tidy").read_text() == "Ray is up"  # a stage needs its workers until it has ended
    assert not (place / "up").exists()


def test_a_stage_that_fails_ends_ray_and_the_code_is_that_of_the_command(place: Path) -> None:
    driver = repro(place, "fail")
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 255, said  # DVC's
    assert (place / "at_work").read_text() == "127.0.0.1:1"
    assert not (place / "up").exists()


def test_ray_ends_when_who_started_it_is_killed(place: Path) -> None:
    waiting = [sys.executable, "stage.py"]
    driver = subprocess.Popen([sys.executable, "-m", "pipelines", "ray", "--", *waiting], cwd=place, process_group=0)
    wait_until((place / "at_work").exists)
    driver.kill()
    driver.wait()
    wait_until(lambda: not (place / "up").exists())


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.ray
def test_a_real_head_serves_several_runs_and_is_gone_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: limbeck[ray]")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    program = (
        "import ray, os\nfrom pipelines.runtime.ray_session import session\n"
        "with session(None, 1, 1): print(ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid())"
    )
    with ray_head.local_head() as joined_by:
        assert answers(joined_by["RAY_ADDRESS"])
        for _ in range(2):
            run = [sys.executable, "-c", program]
            ran = subprocess.run(run, capture_output=True, text=True, env={**os.environ, **joined_by})
            assert ran.stdout == "True\n", ran.stderr
    assert not answers(joined_by["RAY_ADDRESS"])
