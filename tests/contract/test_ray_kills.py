"""Workers that die under a living driver, and a driver that dies over living workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from pipelines.runtime.ray_runner import RayRunner
from tests.contract.folders import Workplace, assert_same, start_driver
from tests.contract.toy import Toy, ToyOnActors

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


class Killer(threading.Thread):
    """Kills processes that are at work on a unit, at random instants; the same unit twice at the most."""

    def __init__(self, place: Workplace, deaths: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.deaths = 0
        self._wanted = deaths
        self._folder = place.controls / "at_work"
        self._clock = random.Random(seed)
        self._per_unit: Counter[str] = Counter()
        self.over = False

    def run(self) -> None:
        while self.deaths < self._wanted and not self.over:
            time.sleep(self._clock.uniform(0.05, 0.3))
            marks = list(self._folder.glob("*")) if self._folder.exists() else []
            for mark in self._clock.sample(marks, len(marks)):
                if self._kill(mark):
                    break

    def _kill(self, mark: Path) -> bool:
        try:
            unit = mark.read_text()
            mark.unlink()
        except FileNotFoundError:
            return False
        if not unit or self._per_unit[unit] >= 2:
            return False
        os.kill(int(mark.name), signal.SIGKILL)
        self._per_unit[unit] += 1
        self.deaths += 1
        return True


@pytest.mark.parametrize("stage", [Toy(), ToyOnActors()], ids=["tasks", "actors"])
def test_workers_may_die_at_any_instant(workplace: Workplace, clean: dict[str, bytes], stage: Toy) -> None:
    workplace.delay(0.08)
    killer = Killer(workplace, deaths=6, seed=7)
    killer.start()
    try:
        workplace.run(lambda: RayRunner(3), stage=stage)
    finally:
        killer.over = True
        killer.join()
    assert killer.deaths == 6
    assert_same(workplace.tree(), clean)


def test_a_unit_that_kills_every_worker_is_named(workplace: Workplace) -> None:
    """As a unit does that needs more memory than there is; the others are finished."""
    workplace.edit(4, "keep", "die")
    with pytest.raises(Exception, match=r"toy-000004: its worker died 4 times"):
        workplace.run(lambda: RayRunner(2))
    assert len(list(workplace.output.glob("ledger/toy-*.json"))) == 7


def wait_for_work(place: Workplace, driver: subprocess.Popen[bytes], markers: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(place.output.glob("ledger/toy-*.json"))) < markers:
        assert driver.poll() is None, driver.stderr and driver.stderr.read().decode()
        assert time.monotonic() < deadline, "the driver does not get on"
        time.sleep(0.02)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_driver_may_die_over_its_workers(workplace: Workplace, clean: dict[str, bytes], seed: int) -> None:
    """The next run begins at once, in this process, while what the dead driver started may still be at work."""
    workplace.delay(0.06)
    driver = start_driver(workplace, "--runner", "ray", "--workers", "2")
    wait_for_work(workplace, driver, markers=seed)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    driver.kill()
    driver.wait()
    workplace.edit(7, "keep", "policy")  # so that a straggler of the old plan would leave the wrong bytes
    workplace.edit(7, "policy", "keep")
    workplace.run()
    assert_same(workplace.tree(), clean)
    time.sleep(1.0)
    assert_same(workplace.tree(), clean)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_run_on_ray_tidily(workplace: Workplace, clean: dict[str, bytes], name: str) -> None:
    workplace.delay(0.06)
    driver = start_driver(workplace, "--runner", "ray", "--workers", "2")
    wait_for_work(workplace, driver, markers=1)
    driver.send_signal(getattr(signal, name))
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said.decode()
    assert not (workplace.output / "index.json").exists()
    workplace.delay(0)
    workplace.run()
    assert_same(workplace.tree(), clean)


def test_a_dead_raylet_is_told_as_what_it_is(workplace: Workplace, clean: dict[str, bytes]) -> None:
    """No unit is to blame, and none needs more memory."""
    workplace.delay(0.06)
    driver = start_driver(workplace, "--runner", "ray", "--workers", "2")
    wait_for_work(workplace, driver, markers=1)
    for child in psutil.Process(driver.pid).children(recursive=True):
        if child.name() == "raylet":
            child.kill()
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 3, said.decode()
    assert "a Ray node or the head of the cluster died under it" in said.decode()
    assert "memory" not in said.decode()
    workplace.delay(0)
    workplace.run()
    assert_same(workplace.tree(), clean)
