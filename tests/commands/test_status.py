"""`limbeck status` and `limbeck info`: what is running, what is stale and why, and what a name stands for."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime.tally import Tally
from pipelines.runtime.units import Marker
from tests.commands.conftest import PARAMS, Limbeck, write_params
from tests.faults.making import lay, png

pytestmark = pytest.mark.usefixtures("project")


def stages(limbeck: Limbeck, *options: str) -> dict[str, dict[str, Any]]:
    return {one["stage"]: one for one in limbeck("status", "--json", *options).json["stages"]}


def test_a_stage_whose_lock_is_held_is_running(limbeck: Limbeck) -> None:
    limbeck("run", "ingest")
    handle = os.open("data/.limbeck/ingest.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        one = stages(limbeck)["ingest"]
        assert (one["state"], one["process"]) == ("running", str(os.getpid()))
        assert f"running (process {os.getpid()})" in limbeck("status").out
    finally:
        os.close(handle)
    assert stages(limbeck)["ingest"]["state"] == "done"


def test_a_reader_of_an_output_does_not_make_its_stage_run(limbeck: Limbeck) -> None:
    limbeck("run", "ingest")
    handle = os.open("data/.limbeck/ingest.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        assert stages(limbeck)["ingest"]["state"] == "done"
    finally:
        os.close(handle)


def test_a_stage_is_stale_when_its_input_was_made_again_and_done_once_it_has_followed(limbeck: Limbeck) -> None:
    limbeck("run", "ingest", "split")
    assert stages(limbeck)["split"]["state"] == "done"
    lay(Path(), {"photos/cat/new.png": png(77)})
    limbeck("run", "ingest")
    one = stages(limbeck)["split"]
    assert (one["state"], one["why"]) == ("stale", ["its input ingest was made again"])
    assert one["next"] == "limbeck run split"
    limbeck("run", "split")
    assert stages(limbeck)["split"]["state"] == "done"


def test_a_stage_is_stale_when_the_parameters_are_others_and_so_is_what_reads_it(limbeck: Limbeck) -> None:
    limbeck("run", "ingest", "split")
    write_params({**PARAMS, "ingest": {**PARAMS["ingest"], "shard_samples": 4}})
    found = stages(limbeck)
    assert found["ingest"]["why"] == ["its parameters are others now"]
    assert found["split"]["why"] == ["its input ingest is stale"]


def test_parameters_of_another_job_say_nothing_of_a_folder_they_did_not_make(limbeck: Limbeck) -> None:
    limbeck("run", "ingest", "--data", "out")
    write_params({**PARAMS, "ingest": {**PARAMS["ingest"], "shard_samples": 4}})
    assert stages(limbeck, "--data", "out")["ingest"]["state"] == "done"
    assert stages(limbeck, "--data", "out", "--params", "params.yaml")["ingest"]["state"] == "stale"


def test_parameters_that_are_not_valid_leave_a_status(limbeck: Limbeck) -> None:
    limbeck("run", "ingest")
    write_params({"ingest": {"sorces": []}})
    said = limbeck("status")
    assert said.code == 0
    assert "done" in said.out
    assert "nothing is compared with the parameters" in said.err


def test_a_sample_that_two_units_decided_on_is_counted_once() -> None:
    made = Marker("generated/a", "0", (), {"kept": 9, "failed": 1}, {"failed:transient:x": 1})
    admitted = Marker("kept/a", "0", (), {"kept": 6, "dropped": 3}, {"dropped:blank": 3})
    tally = Tally(counted="kept")
    tally.add(made)
    assert tally.line("dreams").startswith("dreams: 10 samples: kept 9, dropped 0, failed 1")
    tally.add(admitted)
    assert tally.line("dreams").startswith("dreams: 9 samples: kept 6, dropped 3, failed 0 (dropped:blank 3)")
    assert dict(tally.decided) == {"kept": 6, "dropped": 3}
    assert (tally.attempted, tally.transient) == (19, 1)  # what the breaker judges


@pytest.mark.parametrize("name", ["split", "split/train", "data/split", "data/split/train"])
def test_info_takes_a_stage_a_part_and_a_path(limbeck: Limbeck, name: str) -> None:
    limbeck("run", "ingest", "split")
    said = limbeck("info", name, "--json")
    assert said.code == 0, said.err
    urls = {one["url"] for one in said.json["datasets"]}
    assert "data/split/train" in urls
    assert len(urls) == (1 if name.endswith("train") else 3)


def test_info_takes_an_item(limbeck: Limbeck) -> None:
    said = limbeck("info", "datadream@cls")
    assert said.code == 2
    assert "data/datadream/cls" in said.err
    assert "limbeck run datadream@cls" in said.err


def test_info_says_what_a_stage_without_a_dataset_holds(limbeck: Limbeck) -> None:
    limbeck("run", "ingest", "report")
    (report,) = limbeck("info", "report", "--json").json["stages"]
    assert report["units"] == 1
    assert [file["path"] for file in report["files"]] == ["report.html"]
    assert report["files"][0]["bytes"] == Path("data/report/report.html").stat().st_size
    assert "report.html" in limbeck("info", "report").out
