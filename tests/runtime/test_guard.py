"""Only units of the run that holds the output may write into it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pipelines.errors import StageStopped
from pipelines.runtime.guard import no_units, only_run, require_current, stop_units, unit_at_work
from pipelines.runtime.serial import run_unit
from pipelines.runtime.units import Unit
from tests.contract.folders import Workplace
from tests.contract.toy import Toy


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "data", units=1)


def test_a_unit_of_an_earlier_run_does_not_begin(place: Workplace) -> None:
    with only_run(place.job()) as old:
        pass
    with only_run(place.job()), pytest.raises(StageStopped, match="was stopped or replaced"):
        run_unit(Toy(), old, Toy().open(old), Unit("toy-000000", {"group": 0, "file": ""}), "id")
    assert not place.output.exists()


def test_a_unit_that_was_stopped_does_not_commit(place: Workplace) -> None:
    class Stopped(Toy):
        def run(self, unit, worker, output, job):  # type: ignore[no-untyped-def]
            output.write("notes.txt", b"too late")
            stop_units(job)

    with only_run(place.job()) as job, pytest.raises(StageStopped, match="the unit gives way"):
        run_unit(Stopped(), job, None, Unit("toy-000000", {}), "id")
    assert place.tree() == {}


def test_a_new_run_waits_for_the_units_of_the_old_one(place: Workplace) -> None:
    with only_run(place.job()) as old:
        pass
    ended: list[float] = []

    def straggler() -> None:
        with unit_at_work(old):
            began.set()
            time.sleep(0.3)
            ended.append(time.monotonic())

    began = threading.Event()
    thread = threading.Thread(target=straggler)
    thread.start()
    began.wait()
    with only_run(place.job()) as new:
        assert ended
        assert time.monotonic() >= ended[0]
        require_current(new)
        with pytest.raises(StageStopped):
            require_current(old)
    thread.join()


def test_no_unit_begins_when_the_folder_is_being_sealed(place: Workplace) -> None:
    with only_run(place.job()) as job:
        no_units(job)
        with pytest.raises(StageStopped), unit_at_work(job):
            pass


def test_units_of_one_run_work_side_by_side(place: Workplace) -> None:
    with only_run(place.job()) as job, unit_at_work(job), unit_at_work(job):
        pass


def test_a_job_outside_of_a_run_needs_no_token(place: Workplace) -> None:
    with unit_at_work(place.job()):
        require_current(place.job())
