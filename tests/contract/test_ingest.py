"""The contract once more with the real `ingest`: equal bytes, least work after a change, kill -9 of the command."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from pipelines.runtime.execute import execute
from pipelines.runtime.ray_runner import RayRunner
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.lint import lint
from pipelines.stages.ingest.stage import Ingest
from tests.contract.folders import assert_same, no_runner, tree
from tests.contract.pictures import ingest_job, picture, write_params, write_pictures


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures; not to be changed. The path is part of the parameters, so every run reads this one."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "source")


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed serial run leaves."""
    data = tmp_path_factory.mktemp("expected")
    execute(Ingest(), ingest_job(source, data), SerialRunner)
    return tree(data / "ingest")


def test_every_picture_has_an_outcome(source: Path, tmp_path: Path) -> None:
    execute(Ingest(), ingest_job(source, tmp_path), SerialRunner)
    stats = json.loads((tmp_path / "ingest" / "stats.json").read_text())
    assert stats["attempted"] == 62
    assert stats["outcomes"] == {"kept": 56, "dropped": 2, "failed": 4}
    report = lint(str(tmp_path / "ingest"))
    assert report.ok, report.findings


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_and_serial_leave_the_same_bytes(source: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    execute(Ingest(), ingest_job(source, tmp_path), lambda: RayRunner(2))
    assert_same(tree(tmp_path / "ingest"), expected)


def test_the_number_of_decoding_threads_changes_no_data(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    execute(Ingest(), ingest_job(source, tmp_path, threads=5), SerialRunner)
    found = tree(tmp_path / "ingest")
    config = "config.resolved.json"
    assert found.pop(config) != expected[config]
    assert_same(found, {name: content for name, content in expected.items() if name != config})


def test_a_changed_picture_runs_only_the_units_that_read_it(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source")
    job = ingest_job(source, tmp_path / "data")
    execute(Ingest(), job, SerialRunner)
    before = tree(tmp_path / "data" / "ingest")
    changed = source / "bark" / "000.jpg"
    changed.write_bytes(cv2.imencode(".jpg", picture(200))[1].tobytes())
    result = execute(Ingest(), job, SerialRunner)
    assert result["units"] > 4
    assert result["ran"] == 1
    after = tree(tmp_path / "data" / "ingest")
    shards = [name for name in after if name.startswith("shards/") and name.endswith(".tar")]
    assert sum(after[name] != before[name] for name in shards) == 1
    execute(Ingest(), ingest_job(source, tmp_path / "fresh"), SerialRunner)
    assert_same(after, tree(tmp_path / "fresh" / "ingest"))
    assert execute(Ingest(), job, no_runner)["ran"] == 0


def test_a_removed_picture_frees_its_copy_to_be_kept(tmp_path: Path) -> None:
    """A duplicate's fate hangs on another file: both units run, whichever shard they are in."""
    source = write_pictures(tmp_path / "source")
    job = ingest_job(source, tmp_path / "data")
    execute(Ingest(), job, SerialRunner)
    (source / "leaf" / "copy.png").unlink()
    assert execute(Ingest(), job, SerialRunner)["ran"] <= 3
    execute(Ingest(), ingest_job(source, tmp_path / "fresh"), SerialRunner)
    assert_same(tree(tmp_path / "data" / "ingest"), tree(tmp_path / "fresh" / "ingest"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_command_may_be_killed_and_repeated(
    source: Path, tmp_path: Path, expected: dict[str, bytes], seed: int
) -> None:
    parameters = write_params(tmp_path / "params.yaml", source)
    command = [sys.executable, "-m", "pipelines", "run", "ingest", "--params", str(parameters), "--data", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    output = tmp_path / "ingest"
    clock = random.Random(seed)
    while not (output / "plan" / "units.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(clock.uniform(0, 0.15))
    process.kill()
    process.wait()
    again = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert again.returncode == 0, again.stderr
    assert_same(tree(output), expected)
