"""The same plan gives the same folder, whoever does the work and in whatever order it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipelines.runtime import ray_runner
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.ray_runner import RayRunner
from pipelines.runtime.serial import SerialRunner
from pipelines.runtime.units import Unit
from pipelines.shards.lint import lint
from pipelines.storage import Storage
from tests.contract.folders import Workplace, assert_same, no_runner
from tests.contract.toy import Toy, ToyOnActors, ToyParams


def test_two_serial_runs_leave_equal_folders(workplace: Workplace, clean: dict[str, bytes]) -> None:
    workplace.run()
    assert_same(workplace.tree(), clean)


def test_the_folder_is_a_sound_dataset(workplace: Workplace) -> None:
    workplace.run()
    report = lint(str(workplace.output))
    assert report.ok, report.findings
    assert report.samples == workplace.stage_file()["facts"]["dataset"]["samples"] > 0


def test_the_folder_says_nothing_of_where_it_was_made(workplace: Workplace, clean: dict[str, bytes]) -> None:
    workplace.run()
    for name, content in workplace.tree().items():
        assert str(workplace.root).encode() not in content, name


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_ray_leaves_the_folder_that_serial_leaves(workplace: Workplace, clean: dict[str, bytes], workers: int) -> None:
    workplace.delay(0.01)
    assert workplace.run(lambda: RayRunner(workers))["ran"] == 8
    assert_same(workplace.tree(), clean)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_of_actors_leaves_the_folder_that_serial_leaves(
    workplace: Workplace, clean: dict[str, bytes], workers: int
) -> None:
    workplace.delay(0.01)
    assert workplace.run(lambda: RayRunner(workers), stage=ToyOnActors())["ran"] == 8
    assert_same(workplace.tree(), clean)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_more_actors_than_there_is_room_for_do_not_wait_for_ever(
    workplace: Workplace, clean: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    workplace.run(lambda: RayRunner(50), stage=ToyOnActors())
    assert_same(workplace.tree(), clean)
    assert "50 workers wanted, there is room for 5" in caplog.text


def test_a_worker_process_opens_the_stage_anew_in_every_run(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process outlives a run in a long session; what it had opened may have changed on disk since."""
    monkeypatch.setattr(ray_runner, "_open_workers", {})
    monkeypatch.setattr(ray_runner, "run_unit", lambda stage, job, worker, *rest: worker)
    jobs = [replace(workplace.job(), token=token) for token in ("first", "first", "second")]
    opened = [ray_runner.run_unit_in_worker(Toy(), job, Unit("toy-000000", {}), "") for job in jobs]
    assert opened[0] is opened[1] is not opened[2]


def test_an_output_in_an_object_store_holds_the_same_bytes(
    workplaces: Callable[[], Workplace], clean: dict[str, bytes]
) -> None:
    place = workplaces()
    bucket = f"memory://contract-{place.root.name}-{id(place)}"
    job = Job("toy", ToyParams(), place.job().run, bucket, {"source": str(place.source)})
    assert execute(Toy(), job, SerialRunner)["ran"] == 8
    found = {name: job.output.read_bytes(name) for name in job.output.list()}
    assert_same(found, {name: content for name, content in clean.items() if not name.endswith("/")})
    assert execute(Toy(), job, no_runner)["ran"] == 0
    for path in Storage(bucket).list():
        Storage(bucket).remove(path)
