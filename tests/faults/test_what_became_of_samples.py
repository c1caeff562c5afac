"""Luck is no result, and silence none either: what failed for a time is tried again, and every run says what it lost."""

from __future__ import annotations

import pytest

from pipelines.commands.runs import run_stage
from pipelines.commands.status import status_view
from pipelines.commands.tables import View
from pipelines.commands.views import plan_view
from pipelines.errors import StageStopped
from pipelines.stages import STAGES
from tests.contract import toy
from tests.contract.folders import Workplace, assert_same, no_runner, start_driver


@pytest.fixture(autouse=True)
def _toy_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "toy", "Toy")
    for command in ("runs", "views", "status"):
        monkeypatch.setattr(f"pipelines.commands.{command}.get_stage", lambda name: toy.Toy())


@pytest.fixture
def unlucky(workplace: Workplace) -> Workplace:
    """Two samples of two units fail for a time."""
    for index in (1, 6):
        workplace.edit(index, "keep", "transient")
    return workplace


class Healed(toy.Toy):
    """The network is back: what failed for a time is kept."""

    __module__ = toy.__name__  # by the same code

    def run(self, unit, worker, output, job):  # type: ignore[no-untyped-def]
        super().run(unit, worker, output, job)
        output._reasons = type(output._reasons)({r: n for r, n in output._reasons.items() if "transient" not in r})


def test_the_next_run_tries_again_what_failed_for_a_time_and_nothing_else(unlucky: Workplace) -> None:
    unlucky.run()
    before = unlucky.tree()
    unlucky.ran()
    assert unlucky.run()["ran"] == 2
    assert unlucky.ran() == ["toy-000001", "toy-000006"]
    assert_same(unlucky.tree(), before)


def test_it_is_done_when_nothing_fails_for_a_time_any_more(unlucky: Workplace) -> None:
    unlucky.run()
    assert unlucky.run(stage=Healed())["ran"] == 2
    assert unlucky.run(no_runner)["ran"] == 0


def test_what_is_tried_again_stays_until_it_is_replaced(unlucky: Workplace) -> None:
    class Broken(toy.Toy):
        __module__ = toy.__name__  # by the same code

        def run(self, *_: object) -> None:
            raise RuntimeError("not today")

    unlucky.run()
    before = unlucky.tree()
    with pytest.raises(StageStopped, match="not today"):
        unlucky.run(stage=Broken())
    unlucky.run()
    assert_same(unlucky.tree(), before)


def text_of(view: View) -> str:
    from io import StringIO

    from rich.console import Console

    said = StringIO()
    Console(file=said, width=240).print(*view.parts)
    return said.getvalue()


def test_plan_status_and_run_say_what_can_be_tried_again(unlucky: Workplace) -> None:
    said: list[str] = []
    run_stage(unlucky.job(), say=said.append)
    assert said == [
        "toy: 160 samples: kept 110, dropped 16, failed 34 (dropped:unwanted 16, failed:permanent:permanent_trouble 16, "
        "failed:policy:policy_trouble 16); 2 failed for a time, limbeck run toy tries them again"
    ]
    assert "done, 2 failed for a time: limbeck run toy" in text_of(status_view(str(unlucky.root)))
    planned = text_of(plan_view(unlucky.job()))
    assert "toy: 2 of 8 units to run" in planned
    assert planned.count("again: 1 failed for a time") == 2


def test_a_finished_stage_says_its_account_too(done: Workplace) -> None:
    said: list[str] = []
    assert "nothing to do" in run_stage(done.job(), say=said.append)
    assert said[0].startswith("toy: 160 samples: kept 112, dropped 16, failed 32 (")


@pytest.mark.parametrize(
    ("words", "code", "account", "sentence"),
    [
        (["keep"] * 9 + ["permanent"], 0, "kept 144, dropped 0, failed 16 (failed:permanent:permanent_trouble 16)", ""),
        (["keep", "permanent"], 3, "kept 80, dropped 0, failed 80", "50% of 160 samples failed (limit 45%)"),
        (["drop"], 3, "kept 0, dropped 160, failed 0", "none of 160 samples were kept"),
    ],
)
def test_the_command_prints_one_line_of_account_however_it_ends(
    workplace: Workplace, words: list[str], code: int, account: str, sentence: str
) -> None:
    for index in range(8):
        lines = "\n".join(f"{words[n % len(words)]} {n}.{index}" for n in range(20))
        (workplace.source / f"{index:03d}.txt").write_text(lines)
    driver = start_driver(workplace)
    out, said = (text.decode() for text in driver.communicate(timeout=60))
    assert driver.returncode == code, said
    (line,) = [line for line in out.splitlines() if line.startswith("toy: 160 samples: ")]
    assert account in line
    assert sentence in said


def test_an_empty_result_can_be_accepted(workplace: Workplace) -> None:
    for path in workplace.source.iterdir():
        path.write_text(path.read_text().replace("keep", "drop").replace("permanent", "drop").replace("policy", "drop"))
    with pytest.raises(StageStopped, match=r"--set run\.breaker\.min_kept=0"):
        workplace.run()
    workplace.run(job=workplace.job({"min_kept": 0}))
    assert workplace.stage_file()["facts"]["dataset"]["samples"] == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"units": 3}', '{"units": [1]}', "\xff", "[" * 9999])
@pytest.mark.parametrize(
    "victim", ["toy/plan/units.json", "toy/stage.json", "toy/ledger/toy-000001.json", ".limbeck/toy.json"]
)
def test_no_damaged_file_makes_status_plan_or_run_stumble(
    done: Workplace, clean: dict[str, bytes], victim: str, damage: str
) -> None:
    (done.root / victim).write_bytes(damage.encode("latin-1"))
    assert "toy" in text_of(status_view(str(done.root)))
    assert "toy" in text_of(plan_view(done.job()))
    run_stage(done.job(), say=lambda line: None)
    assert_same(done.tree(), clean)


def test_under_dvc_a_flipped_byte_is_found_and_made_good(
    done: Workplace, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would take the damage for the stage's result and put its hash into dvc.lock."""
    victim = done.output / "shards" / "toy-000005.tar"
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.write_bytes(content)
    assert "nothing to do" in run_stage(done.job(), say=lambda line: None)
    monkeypatch.setenv("DVC_STAGE", "toy")
    assert "1 of 8 units ran" in run_stage(done.job(), say=lambda line: None)
    assert_same(done.tree(), clean)


@pytest.mark.parametrize("name", ["stats.json", "plan/rows.parquet", "plan/names.txt", "summary.json"])
def test_under_dvc_damage_in_what_no_unit_wrote_is_found_too(
    done: Workplace, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = bytearray((done.output / name).read_bytes())
    content[len(content) // 2] ^= 1
    (done.output / name).write_bytes(content)
    monkeypatch.setenv("DVC_STAGE", "toy")
    run_stage(done.job(), say=lambda line: None)
    assert_same(done.tree(), clean)
