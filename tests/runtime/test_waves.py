"""Units of a later wave read what earlier ones committed; items of a stage live apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunParams, Section
from pipelines.errors import StageStopped
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.serial import SerialRunner
from pipelines.runtime.units import Unit, UnitOutput


class Params(Section):
    words: tuple[str, ...] = ("b", "a")
    broken: bool = False


class Relay(Stage[Params]):
    """Wave 0 writes each word, wave 1 joins them; planned in the wrong order on purpose."""

    name, version, summary, Params = "relay", 1, "words -> a sentence", Params

    def plan(self, job: Job[Params]) -> Plan:
        words = list(job.params.words)
        return Plan([Unit("join", {"words": words}, wave=1), *(Unit(f"word-{word}", {"word": word}) for word in words)])

    def identity_params(self, job: Job[Params]) -> dict[str, Any]:
        return {}

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[Params]) -> None:
        if unit.name == "join":
            texts = [job.output.read_bytes(f"words/{word}.txt") for word in unit.payload["words"]]
            output.write("sentence.txt", b" ".join(texts))
        elif job.params.broken and unit.payload["word"] == "a":
            raise RuntimeError("no ink")
        else:
            output.write(f"words/{unit.payload['word']}.txt", unit.payload["word"].upper().encode())


def job_in(folder: Path, item: str = "", **params: Any) -> Job[Params]:
    return Job("relay", Params(**params), RunParams(), str(folder), item=item)


def test_a_later_wave_reads_what_an_earlier_one_committed(tmp_path: Path) -> None:
    assert execute(Relay(), job_in(tmp_path), SerialRunner)["ran"] == 3
    assert (tmp_path / "relay/sentence.txt").read_bytes() == b"B A"


def test_a_wave_does_not_begin_when_a_unit_before_it_failed(tmp_path: Path) -> None:
    with pytest.raises(StageStopped, match="1 unit\\(s\\) raised, first word-a: RuntimeError: no ink"):
        execute(Relay(), job_in(tmp_path, broken=True), SerialRunner)
    assert not (tmp_path / "relay/sentence.txt").exists()
    assert execute(Relay(), job_in(tmp_path), SerialRunner)["ran"] == 2
    assert (tmp_path / "relay/sentence.txt").read_bytes() == b"B A"


def test_a_wave_is_no_part_of_a_unit_s_identity() -> None:
    unit = Unit("join", {})
    assert unit.identity("relay", 1, {}) == replace(unit, wave=3).identity("relay", 1, {})


def test_items_have_folders_locks_and_logs_of_their_own(tmp_path: Path) -> None:
    for item in ("one", "two"):
        execute(Relay(), job_in(tmp_path, item, words=(item,)), SerialRunner)
    made = {path.parent.name: path.read_bytes() for path in tmp_path.glob("relay/*/sentence.txt")}
    assert made == {"one": b"ONE", "two": b"TWO"}
    assert {path.name for path in (tmp_path / ".limbeck").glob("*.json")} == {"relay@one.json", "relay@two.json"}
    assert job_in(tmp_path, "one").input("relay", "two").exists("sentence.txt")
