"""Units of a later wave read what earlier ones committed; items of a stage live apart."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from pipelines.config import PLAN_ONLY, SPEED_ONLY, RunParams, Section
from pipelines.errors import StageStopped
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ray_runner import RayRunner
from pipelines.runtime.serial import SerialRunner
from pipelines.runtime.units import Unit, UnitOutput


class Params(Section):
    words: Annotated[tuple[str, ...], PLAN_ONLY] = ("b", "a")
    broken: Annotated[bool, SPEED_ONLY] = False


class Relay(Stage[Params]):
    """Wave 0 writes each word, wave 1 joins them; planned in the wrong order on purpose. Units note who did them."""

    name, version, summary, Params = "relay", 1, "words -> a sentence", Params
    workers = "actors"

    def open(self, job: Job[Params]) -> str:
        return uuid.uuid4().hex

    def plan(self, job: Job[Params]) -> Plan:
        words = list(job.params.words)
        joined = Unit("join", {"words": words}, wave=1, kind="join")
        return Plan([joined, *(Unit(f"word-{word}", {"word": word}) for word in words)])

    def run(self, unit: Unit, worker: str, output: UnitOutput, job: Job[Params]) -> None:
        job.logs.write_bytes(f"done_by/{unit.name}", worker.encode())
        if unit.kind == "join":
            texts = [job.output.read_bytes(f"words/{word}.txt") for word in unit.payload["words"]]
            output.write("sentence.txt", b" ".join(texts))
        elif job.params.broken and unit.payload["word"] == "a":
            raise RuntimeError("no ink")
        else:
            output.write(f"words/{unit.payload['word']}.txt", unit.payload["word"].upper().encode())


class Fan(Relay):
    """One unit in wave 0, one for each word in wave 1, each of which lasts until another worker has begun the other."""

    def plan(self, job: Job[Params]) -> Plan:
        return Plan([Unit("first", {}), *(Unit(f"then-{word}", {}, wave=1) for word in job.params.words)])

    def run(self, unit: Unit, worker: str, output: UnitOutput, job: Job[Params]) -> None:
        job.logs.write_bytes(f"done_by/{unit.name}", worker.encode())
        deadline = time.monotonic() + 60
        while unit.name != "first" and len(job.logs.list("done_by")) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)


def job_in(folder: Path, item: str = "", **params: Any) -> Job[Params]:
    return Job("relay", Params(**params), RunParams(), str(folder), item=item)


def test_a_later_wave_reads_what_an_earlier_one_committed(tmp_path: Path) -> None:
    assert execute(Relay(), job_in(tmp_path), SerialRunner)["ran"] == 3
    assert (tmp_path / "relay/sentence.txt").read_bytes() == b"B A"


def workers_of(folder: Path) -> dict[str, str]:
    """Which worker did each unit."""
    return {path.name: path.read_text() for path in (folder / ".limbeck/done_by").iterdir()}


def test_a_worker_keeps_what_it_opened_from_wave_to_wave(tmp_path: Path) -> None:
    execute(Relay(), job_in(tmp_path), SerialRunner)
    assert len(set(workers_of(tmp_path).values())) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_workers_on_ray_stay_from_wave_to_wave_and_more_come_when_a_wave_has_room_for_them(tmp_path: Path) -> None:
    execute(Relay(), job_in(tmp_path), lambda: RayRunner(1))
    assert len(set(workers_of(tmp_path).values())) == 1
    folder = tmp_path / "wide"
    execute(Fan(), job_in(folder), lambda: RayRunner(2))
    by = workers_of(folder)
    assert by["first"] in {by["then-b"], by["then-a"]}
    assert by["then-b"] != by["then-a"]


def test_a_wave_does_not_begin_when_a_unit_before_it_failed(tmp_path: Path) -> None:
    with pytest.raises(StageStopped, match="1 unit\\(s\\) raised, first word-a: RuntimeError: no ink"):
        execute(Relay(), job_in(tmp_path, broken=True), SerialRunner)
    assert not (tmp_path / "relay/sentence.txt").exists()
    assert execute(Relay(), job_in(tmp_path), SerialRunner)["ran"] == 2
    assert (tmp_path / "relay/sentence.txt").read_bytes() == b"B A"


def test_a_wave_is_no_part_of_a_unit_s_identity() -> None:
    unit = Unit("join", {})
    assert unit.recipe("relay", 1, {}) == replace(unit, wave=3).recipe("relay", 1, {})


def test_items_have_folders_locks_and_logs_of_their_own(tmp_path: Path) -> None:
    for item in ("one", "two"):
        execute(Relay(), job_in(tmp_path, item, words=(item,)), SerialRunner)
    made = {path.parent.name: path.read_bytes() for path in tmp_path.glob("relay/*/sentence.txt")}
    assert made == {"one": b"ONE", "two": b"TWO"}
    assert {path.name for path in (tmp_path / ".limbeck").glob("*.json")} == {"relay@one.json", "relay@two.json"}
    assert job_in(tmp_path, "one").input("relay", "two").exists("sentence.txt")
