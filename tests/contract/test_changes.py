"""What changed is done again and nothing else, and the folder then equals the folder of a clean run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipelines.config import RunParams
from pipelines.errors import UserError
from pipelines.runtime.finished import Finished
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.storage import Storage
from tests.contract.folders import Workplace, assert_same, no_runner
from tests.contract.toy import CLASSES, Toy, ToyParams


def test_a_finished_stage_starts_no_runner(done: Workplace, clean: dict[str, bytes]) -> None:
    assert done.run(no_runner)["ran"] == 0
    assert_same(done.tree(), clean)


def test_a_finished_stage_is_not_touched(done: Workplace) -> None:
    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in done.output.rglob("*")}

    before = stamps()
    done.run(no_runner)
    done.run(no_runner, verify=True)
    assert stamps() == before


def test_a_changed_source_runs_the_unit_that_reads_it(done: Workplace, workplaces: Callable[[], Workplace]) -> None:
    done.edit(3, "3.1", "changed")
    done.run()
    assert done.ran() == ["toy-000003"]
    fresh = workplaces()
    fresh.edit(3, "3.1", "changed")
    fresh.run()
    assert_same(done.tree(), fresh.tree())


def test_an_added_source_runs_only_its_own_unit(done: Workplace, workplaces: Callable[[], Workplace]) -> None:
    fresh = workplaces()
    for place in (done, fresh):
        (place.source / "999.txt").write_text("keep new")
        place.run()
    assert done.ran() == ["toy-000008"]
    assert_same(done.tree(), fresh.tree())


def test_what_a_smaller_plan_does_not_name_is_removed(done: Workplace, workplaces: Callable[[], Workplace]) -> None:
    fresh = workplaces()
    for place in (done, fresh):
        for index in (6, 7):
            (place.source / f"{index:03d}.txt").unlink()
    done.run(no_runner)
    fresh.run()
    assert_same(done.tree(), fresh.tree())


STRANGERS = ("shards/toy-000099.tar", ".hidden/file", "shards/.tmp-1-toy.tar", "plan/other.parquet", ".partial/notes")


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("state", ["finished", "unsealed", "changed"])
def test_a_stranger_s_file_is_named_and_never_removed(
    done: Workplace, clean: dict[str, bytes], name: str, state: str
) -> None:
    foreign = done.output / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"somebody's")
    if state != "finished":
        (done.output / "stage.json").unlink()
    before = done.tree()
    with pytest.raises(UserError, match=rf"holds 1 file \({name}\) that no record of Limbeck names.*move them away"):
        done.run(no_runner, job=done.job(size=200) if state == "changed" else None)
    assert_same(done.tree(), before)
    foreign.unlink()
    if foreign.parent.name in (".hidden", ".partial"):
        foreign.parent.rmdir()
    done.run(no_runner)
    assert_same(done.tree(), clean)


def test_what_systems_leave_in_folders_is_passed_over_and_stays(done: Workplace, clean: dict[str, bytes]) -> None:
    litter = {
        ".DS_Store": b"a",
        "shards/._toy-000001.tar": b"b",
        "Thumbs.db": b"c",
        ".gitignore": b"/x",
        "meta/.nfs0001": b"",
    }
    for name, content in litter.items():
        (done.output / name).write_bytes(content)
    done.run(no_runner)
    assert done.ran() == []
    for size in (200, 300):
        done.run(job=done.job(size=size))
    assert_same(done.tree(), clean | litter)


def test_what_a_killed_writer_left_does_not_survive_a_run(done: Workplace, clean: dict[str, bytes]) -> None:
    for folder in (done.output / "shards", done.root / ".limbeck"):
        (folder / f".tmp-{'0' * 32}-toy.run").write_bytes(b"half")
    (done.root / ".limbeck" / f".tmp-{'0' * 32}-ingest.run").write_bytes(b"another stage's, at work now")
    done.run(no_runner)
    assert_same(done.tree(), clean)
    assert [path.name for path in (done.root / ".limbeck").glob(".tmp-*")] == [f".tmp-{'0' * 32}-ingest.run"]


def test_what_a_worker_left_that_died_during_the_run_does_not_survive_it(
    workplace: Workplace, clean: dict[str, bytes]
) -> None:
    class Dying(Toy):
        __module__ = Toy.__module__  # what it writes is what the toy writes

        def run(self, unit: Unit, worker: dict[str, int], output: UnitOutput, job: Job[ToyParams]) -> None:
            output.storage.temp_file(f"shards/{unit.name}.tar").write_bytes(b"half a shard")
            super().run(unit, worker, output, job)

    workplace.run(stage=Dying())
    assert_same(workplace.tree(), clean)


def test_a_parameter_that_decides_bytes_runs_every_unit(done: Workplace, workplaces: Callable[[], Workplace]) -> None:
    fresh = workplaces()
    for place in (done, fresh):
        place.run(job=place.job(size=200))
    assert len(done.ran()) == 8
    assert_same(done.tree(), fresh.tree())


def test_a_parameter_that_decides_speed_runs_nothing_but_is_recorded(
    done: Workplace, workplaces: Callable[[], Workplace]
) -> None:
    fresh = workplaces()
    seal = (done.output / "stage.json").read_bytes()
    done.run(no_runner, job=done.job(batch=7))
    fresh.run(job=fresh.job(batch=7))
    assert json.loads((done.output / "config.resolved.json").read_text())["toy"]["batch"] == 7
    assert_same(done.tree(), fresh.tree())
    assert (done.output / "stage.json").read_bytes() == seal, "later stages name this one by its seal"


def test_a_parameter_that_only_the_reduce_reads_reaches_the_folder(workplaces: Callable[[], Workplace]) -> None:
    class Titled(Toy):
        def plan(self, job: Job[ToyParams]) -> Plan:
            return replace(super().plan(job), facts={"classes": CLASSES, "label": job.params.label})

        def finish(self, job: Job[ToyParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
            return publish_datasets(job.output, markers, CLASSES, {"name": plan.facts["label"]})

    place, fresh = workplaces(), workplaces()
    place.run(stage=Titled())
    place.run(no_runner, stage=Titled(), job=place.job(label="other"))
    assert json.loads((place.output / "index.json").read_text())["extra"]["name"] == "other"
    fresh.run(stage=Titled(), job=fresh.job(label="other"))
    index = "index.json"
    assert place.tree()[index] == fresh.tree()[index]


def test_a_new_version_of_the_stage_runs_every_unit(done: Workplace) -> None:
    class Newer(Toy):
        version = 2

    assert done.run(stage=Newer())["ran"] == 8


@pytest.mark.parametrize("damage", ["truncated", "removed", "longer"])
@pytest.mark.parametrize("path", ["shards/toy-000002.tar", "meta/toy-000002.parquet", "ledger/toy-000002.json"])
def test_damage_that_shows_in_a_size_runs_that_unit(
    done: Workplace, clean: dict[str, bytes], path: str, damage: str
) -> None:
    victim = done.output / path
    content = victim.read_bytes()
    if damage == "removed":
        victim.unlink()
    else:
        victim.write_bytes(content[:-7] if damage == "truncated" else content + b"!")
    done.run()
    assert done.ran() == ["toy-000002"]
    assert_same(done.tree(), clean)


def test_damage_that_shows_in_no_size_is_found_when_asked_to_verify(done: Workplace, clean: dict[str, bytes]) -> None:
    victim = done.output / "shards" / "toy-000005.tar"
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.write_bytes(content)
    assert done.run(no_runner)["ran"] == 0
    assert done.run(verify=True)["ran"] == 1
    assert done.ran() == ["toy-000005"]
    assert_same(done.tree(), clean)


@pytest.mark.parametrize(
    "marker",
    [
        "",
        "{}",
        "[]",
        "null",
        '"text"',
        '{"unit": 1}',
        '{"unit":"toy-000004","id":"x","files":[],"counts":[]}',
        "[" * 99999,
    ],
)
def test_a_damaged_marker_means_not_done(done: Workplace, clean: dict[str, bytes], marker: str) -> None:
    (done.output / "ledger" / "toy-000004.json").write_text(marker)
    done.run()
    assert done.ran() == ["toy-000004"]
    assert_same(done.tree(), clean)


def test_a_marker_under_another_units_name_counts_for_nobody(done: Workplace, clean: dict[str, bytes]) -> None:
    ledger = done.output / "ledger"
    (ledger / "toy-000001.json").write_bytes((ledger / "toy-000002.json").read_bytes())
    done.run()
    assert done.ran() == ["toy-000001"]
    assert_same(done.tree(), clean)


@pytest.mark.parametrize("name", ["index.json", "stats.json", "shards/sizes.json", "summary.json", "plan/rows.parquet"])
@pytest.mark.parametrize("removed", [True, False])
def test_a_lost_or_cut_description_is_made_again_without_running_units(
    done: Workplace, clean: dict[str, bytes], name: str, removed: bool
) -> None:
    victim = done.output / name
    victim.unlink() if removed else victim.write_bytes(victim.read_bytes()[:-1])
    done.run(no_runner)
    assert_same(done.tree(), clean)


@pytest.mark.parametrize("seal", ["", "{}", "[]", '{"files": 3}', '{"files": [1], "plan": 1}'])
def test_a_damaged_seal_is_made_again(done: Workplace, clean: dict[str, bytes], seal: str) -> None:
    (done.output / "stage.json").write_text(seal)
    done.run(no_runner)
    assert_same(done.tree(), clean)


def test_an_interrupted_detour_through_other_parameters_costs_only_the_units_it_touched(
    done: Workplace, clean: dict[str, bytes]
) -> None:
    """Wrong parameters, stopped after two units: going back must not do all the work again."""
    done.edit(2, "keep", "raise")
    with pytest.raises(Exception, match="no such sample"):
        done.run(job=done.job({"max_unit_errors": 1}, size=301))
    done.edit(2, "raise", "keep")
    done.ran()
    done.run()
    assert done.ran() == ["toy-000000", "toy-000001"]
    assert_same(done.tree(), clean)


def test_an_unfinished_output_is_no_input(workplace: Workplace) -> None:
    with pytest.raises(UserError, match="does not exist; run first: limbeck run toy"):
        Finished(Storage(workplace.output), "toy")
    workplace.edit(7, "keep", "raise")
    with pytest.raises(Exception, match="no such sample"):
        workplace.run()
    with pytest.raises(UserError, match="is unfinished; run first: limbeck run toy"):
        Finished(Storage(workplace.output), "toy")


def test_the_resolved_parameters_are_in_the_folder(done: Workplace) -> None:
    config = json.loads((done.output / "config.resolved.json").read_text())
    assert config["toy"] == {"size": 300, "title": "toy", "batch": 1, "label": ""}
    assert config["run"] == json.loads(RunParams().model_dump_json())
