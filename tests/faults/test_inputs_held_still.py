"""An input that is rebuilt while it is read never becomes half of a sealed result."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunParams, Section
from pipelines.errors import StageStopped, UserError
from pipelines.runtime import guard, inputs
from pipelines.runtime.execute import execute
from pipelines.runtime.finished import Finished
from pipelines.runtime.guard import only_run
from pipelines.runtime.inputs import inputs_of
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.serial import SerialRunner
from pipelines.runtime.units import Marker, Unit, UnitOutput
from tests.contract.folders import Workplace, assert_same, tree


class Params(Section):
    word: str = "a"


class Copy(Stage[Params]):
    """Two units that copy what `toy` made; `meanwhile` is what somebody does at a certain moment."""

    name, version, summary, Params, upstream = "copy", 1, "toy -> a copy", Params, ("toy",)

    def __init__(self, moment: str = "", meanwhile: Any = None) -> None:
        self._moment, self._meanwhile = moment, meanwhile

    def _now(self, moment: str) -> None:
        if moment == self._moment:
            self._meanwhile()

    def plan(self, job: Job[Params]) -> Plan:
        Finished(job.input("toy"), "toy")
        return Plan([Unit(f"copy-{number}", {"number": number}) for number in range(2)])

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[Params]) -> None:
        self._now(unit.name)
        output.write(f"{unit.name}.json", job.input("toy").read_bytes("summary.json"))

    def finish(self, job: Job[Params], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        self._now("finish")
        job.output.write_bytes("index.json", b"{}")
        return {}


def copy_job(place: Workplace, **inputs_: str) -> Job[Params]:
    return Job("copy", Params(), RunParams(), str(place.root), inputs_)


def run_copy(place: Workplace, stage: Copy | None = None, **inputs_: str) -> dict[str, Any]:
    return execute(stage or Copy(), copy_job(place, **inputs_), SerialRunner)


@pytest.mark.parametrize("moment", ["copy-0", "copy-1", "finish"])
@pytest.mark.parametrize("change", ["rebuilt", "removed"])
def test_an_input_that_changes_stops_the_stage_and_nothing_is_sealed(done: Workplace, moment: str, change: str) -> None:
    """As on storage without locks: whoever changes it asks nobody."""

    def meanwhile() -> None:
        seal = done.output / "stage.json"
        seal.write_bytes(seal.read_bytes() + b" ") if change == "rebuilt" else seal.unlink()

    seal = (done.output / "stage.json").read_bytes()
    with pytest.raises(StageStopped, match=r"copy: its input toy \(.*toy\) was changed while the stage ran"):
        run_copy(done, Copy(moment, meanwhile))
    output = done.root / "copy"
    assert not (output / "stage.json").exists()
    assert not (output / "index.json").exists()
    committed = {path.stem for path in (output / "ledger").glob("*.json")} if (output / "ledger").exists() else set()
    assert committed == {"copy-0": set(), "copy-1": {"copy-0"}, "finish": {"copy-0", "copy-1"}}[moment]
    (done.output / "stage.json").write_bytes(seal)
    assert run_copy(done)["ran"] == 2 - len(committed)


def test_two_stages_read_one_input_side_by_side(done: Workplace) -> None:
    with only_run(copy_job(done), inputs_of(Copy(), copy_job(done))):
        other = replace(copy_job(done), stage="other")
        with only_run(other, inputs_of(Copy(), other)) as job:
            assert [name for name, *_ in job.pins] == ["toy"]


def test_whoever_would_rebuild_an_input_is_told_who_reads_it(done: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    before = tree(done.output)
    with (
        only_run(copy_job(done), inputs_of(Copy(), copy_job(done))),
        pytest.raises(UserError, match=r"copy \(process \d+\) is reading .*toy, so toy cannot rebuild it now"),
    ):
        done.run()
    assert_same(tree(done.output), before)


def test_a_reader_from_another_data_folder_holds_the_input_too(
    done: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    job = Job("copy", Params(), RunParams(), str(tmp_path / "elsewhere"), {"toy": str(done.output)})
    with (
        only_run(job, inputs_of(Copy(), job)),
        pytest.raises(UserError, match="a stage of another data folder is reading"),
    ):
        done.run()


def test_an_input_that_is_being_written_is_waited_for_and_told(
    done: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "PATIENCE", 0.1)
    with (
        only_run(done.job()),
        pytest.raises(UserError, match=r"toy, an input of copy, is being written by another run \(process \d+\)"),
    ):
        run_copy(done)


def test_a_writer_that_is_done_in_a_moment_stops_no_reader(done: Workplace) -> None:
    began, go = threading.Event(), threading.Event()

    def write() -> None:
        with only_run(done.job()):
            began.set()
            go.wait(0.3)

    writer = threading.Thread(target=write)
    writer.start()
    began.wait()
    assert run_copy(done)["ran"] == 2
    writer.join()


def test_items_and_named_inputs_are_pinned_too(tmp_path: Path) -> None:
    for item in ("one", "two"):
        execute(Copy0(), Job("copy0", Params(), RunParams(), str(tmp_path), item=item), SerialRunner)
    elsewhere = tmp_path / "elsewhere"
    execute(Copy0(), Job("toy", Params(), RunParams(), str(elsewhere)), SerialRunner)

    class Both(Copy):
        upstream = ("copy0", "toy", "absent")

    job = Job("copy", Params(), RunParams(), str(tmp_path), {"toy": str(elsewhere / "toy")})
    with only_run(job, inputs_of(Both(), job)) as held:
        assert [name for name, *_ in held.pins] == ["copy0@one", "copy0@two", "toy"]


class Copy0(Copy):
    """Makes something of nothing."""

    name, upstream = "copy0", ()

    def plan(self, job: Job[Params]) -> Plan:
        return Plan([Unit("copy0", {})])

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[Params]) -> None:
        output.write("summary.json", b"{}")


def test_an_input_in_an_object_store_is_pinned_without_a_lock(done: Workplace) -> None:
    bucket = f"memory://pinned-{id(done)}"
    execute(Copy0(), Job("toy", Params(), RunParams(), bucket), SerialRunner)

    def meanwhile() -> None:
        Job("toy", Params(), RunParams(), bucket).output.write_bytes("stage.json", b"{}")

    with pytest.raises(StageStopped, match="was changed while the stage ran"):
        run_copy(done, Copy("copy-1", meanwhile), toy=f"{bucket}/toy")
