"""Runs that stop before their end: each says why in one sentence, and what was finished stays finished."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from augment.errors import MethodError
from pipelines.commands.runs import retry_stage
from pipelines.errors import StageStopped, UserError
from pipelines.runtime import guard
from pipelines.runtime.execute import Runner
from pipelines.runtime.ray_runner import RayRunner
from pipelines.runtime.serial import SerialRunner
from pipelines.storage import Storage
from tests.contract import toy
from tests.contract.folders import Workplace, assert_same, no_runner, start_driver
from tests.contract.limbeck_toy import run_serially


@pytest.fixture
def failing(workplace: Workplace) -> Workplace:
    """A source of which two lines in three fail for good."""
    for path in workplace.source.iterdir():
        path.write_text("\n".join(f"{word} {n}" for n in range(10) for word in ("keep", "permanent", "policy")))
    return workplace


def test_too_many_failures_stop_the_run_before_its_end(failing: Workplace) -> None:
    with pytest.raises(StageStopped) as stop:
        failing.run(job=failing.job({"min_attempted": 60}))
    sentence = str(stop.value)
    assert "67% of 60 samples failed (limit 45%), last in toy-000001" in sentence
    assert "failed:permanent:permanent_trouble 20" in sentence
    assert "limbeck info --failed toy" in sentence
    assert "run.breaker.max_failed" in sentence
    assert failing.ran() == ["toy-000000", "toy-000001"]
    assert not (failing.output / "index.json").exists()


def test_a_stopped_run_does_not_slip_through_when_run_again(failing: Workplace) -> None:
    for _ in range(2):
        with pytest.raises(StageStopped, match="samples failed"):
            failing.run(job=failing.job({"min_attempted": 60}))
    assert failing.ran() == ["toy-000000", "toy-000001", "toy-000002"]


def test_a_set_too_small_to_judge_on_the_way_is_judged_at_the_end(failing: Workplace) -> None:
    with pytest.raises(StageStopped, match="67% of 240 samples failed"):
        failing.run(job=failing.job({"min_attempted": 10_000}))
    assert len(failing.ran()) == 8
    assert not (failing.output / "index.json").exists()


def test_a_raised_limit_lets_the_run_end_with_what_was_done(failing: Workplace) -> None:
    with pytest.raises(StageStopped):
        failing.run()
    failing.ran()
    failing.run(job=failing.job({"max_failed": 0.9}))
    assert len(failing.ran()) < 8
    assert failing.stage_file()["facts"]["dataset"]["samples"] == 80


def test_transient_failures_have_their_own_limit_and_their_own_advice(workplace: Workplace) -> None:
    for path in workplace.source.iterdir():
        path.write_text("\n".join(f"{word} {n}" for n in range(15) for word in ("keep", "transient")))
    with pytest.raises(StageStopped, match=r"50% of 210 samples failed for a time \(limit 20%\)") as stop:
        workplace.run()
    assert "limbeck run toy tries those again" in str(stop.value)


@pytest.mark.parametrize("runner", [lambda: SerialRunner(), lambda: RayRunner(2)], ids=["serial", "ray"])
def test_an_error_of_a_method_is_the_users_with_its_parameters_and_its_unit(
    workplace: Workplace, runner: Callable[[], Runner]
) -> None:
    workplace.edit(2, "keep", "refuse")
    with pytest.raises(UserError, match=r"^toy\.title \(toy-000002\): no method for [^\n]+$") as raised:
        workplace.run(runner)
    assert "run the stage again" not in str(raised.value)


@pytest.mark.parametrize("hook", ["plan", "check", "open", "finish"])
def test_an_error_of_a_method_outside_of_the_units_is_the_users_too(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    def refuse(*_: object) -> None:
        raise MethodError("no such network")

    monkeypatch.setattr(toy.Toy, hook, refuse)
    with pytest.raises(UserError, match=r"^toy: no such network$"):
        workplace.run()


@pytest.mark.parametrize(
    ("word", "advice"), [("raise", "run the stage again to retry"), ("slip", "would fail in the same way")]
)
def test_a_unit_is_to_be_run_again_only_where_that_may_help(workplace: Workplace, word: str, advice: str) -> None:
    workplace.edit(2, "keep", word)
    with pytest.raises(StageStopped, match=r"1 unit\(s\) raised, first toy-000002") as stop:
        workplace.run()
    assert advice in str(stop.value)
    assert ("run the stage again" in str(stop.value)) == (word == "raise")


def test_units_that_raise_in_a_row_stop_the_run(workplace: Workplace) -> None:
    for index in (2, 3, 4):
        workplace.edit(index, "keep", "raise")
    with pytest.raises(
        StageStopped, match=r"3 unit\(s\) raised, first toy-000002: RuntimeError: no such sample: "
    ) as stop:
        workplace.run()
    assert "errors/toy" in str(stop.value)
    assert workplace.ran()[-1] == "toy-000004"
    trace = (workplace.root / ".limbeck" / "errors" / "toy" / "toy-000003.txt").read_text()
    assert "Traceback" in trace
    assert "no such sample" in trace


def test_one_unit_that_raises_costs_that_unit_and_the_publication(
    workplace: Workplace, clean: dict[str, bytes]
) -> None:
    workplace.edit(2, "keep", "raise")
    with pytest.raises(StageStopped, match=r"1 unit\(s\) raised, first toy-000002"):
        workplace.run()
    assert len(workplace.ran()) == 8
    assert not (workplace.output / "index.json").exists()
    workplace.edit(2, "raise", "keep")
    workplace.run()
    assert workplace.ran() == ["toy-000002"]
    assert_same(workplace.tree(), clean)
    assert not (workplace.root / ".limbeck" / "errors" / "toy").exists()


def test_debugging_shows_the_first_error_as_it_is(workplace: Workplace) -> None:
    workplace.edit(2, "keep", "raise")
    with pytest.raises(RuntimeError, match="no such sample"):
        workplace.run(lambda: SerialRunner(debug=True))


def test_a_unit_that_raises_leaves_no_half_made_file(workplace: Workplace) -> None:
    workplace.edit(0, "keep", "raise")
    with pytest.raises(StageStopped):
        workplace.run(job=workplace.job({"max_unit_errors": 1}))
    assert not [
        path for path in workplace.output.rglob("*") if path.is_file() and path.parent.name in ("shards", "meta")
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_that_was_stopped_on_ray_can_be_followed_at_once(workplace: Workplace, clean: dict[str, bytes]) -> None:
    """The other workers are in the middle of units when the breaker trips."""
    workplace.delay(0.05)
    workplace.edit(0, "keep", "raise")
    with pytest.raises(StageStopped, match=r"toy-000000: RuntimeError: no such sample") as stop:
        workplace.run(lambda: RayRunner(3), job=workplace.job({"max_unit_errors": 1}))
    assert "Traceback (" not in str(stop.value)
    workplace.edit(0, "raise", "keep")
    workplace.delay(0)
    workplace.run()
    assert_same(workplace.tree(), clean)
    time.sleep(1.0)
    assert_same(workplace.tree(), clean)


def test_retry_runs_the_units_with_failures_of_that_class_and_no_other(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.commands.runs.get_stage", lambda name: toy.Toy())
    for index in (1, 6):
        workplace.edit(index, "keep", "transient")
    workplace.run()
    before = workplace.tree()
    workplace.ran()
    line = retry_stage(workplace.job(), "transient")
    assert line.startswith("retried 2 samples in 2 units. toy: 2 of 8 units ran")
    assert workplace.ran() == ["toy-000001", "toy-000006"]
    assert_same(workplace.tree(), before)


def test_retry_without_such_failures_runs_nothing(done: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.commands.runs.get_stage", lambda name: toy.Toy())
    assert "no sample failed with a transient error" in retry_stage(done.job(), "transient")
    assert done.ran() == []
    with pytest.raises(UserError, match="--class takes transient, permanent, policy"):
        retry_stage(done.job(), "temporary")


def test_what_is_retried_stays_until_it_is_replaced(done: Workplace, clean: dict[str, bytes]) -> None:
    class Broken(toy.Toy):
        __module__ = toy.__name__  # by the same code

        def run(self, *_: object) -> None:
            raise RuntimeError("not today")

    with pytest.raises(StageStopped, match="not today"):
        done.run(stage=Broken(), again={"toy-000003"})
    done.run(no_runner)
    assert_same(done.tree(), clean)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_run_tidily(workplace: Workplace, clean: dict[str, bytes], name: str) -> None:
    workplace.delay(0.03)
    driver = start_driver(workplace)
    while not list(workplace.output.glob("ledger/toy-*.json")):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(getattr(signal, name))
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said.decode()
    assert "interrupted; what was finished is kept" in said.decode()
    assert "Traceback (" not in said.decode()
    assert not [found for found in workplace.tree() if ".tmp-" in found], "nothing half-made is left"
    assert not (workplace.output / "index.json").exists()
    finished = len(list(workplace.output.glob("ledger/toy-*.json")))
    workplace.delay(0)
    assert workplace.run()["ran"] == 8 - finished
    assert_same(workplace.tree(), clean)


@pytest.mark.parametrize(
    ("word", "code", "sentence"),
    [
        ("keep", 0, "toy: 8 of 8 units ran"),
        ("raise", 3, "stopped: toy: 1 unit(s) raised"),
    ],
)
def test_the_exit_code_says_how_a_run_ended(workplace: Workplace, word: str, code: int, sentence: str) -> None:
    workplace.edit(7, "keep", word)
    driver = start_driver(workplace)
    out, said = driver.communicate(timeout=60)
    assert driver.returncode == code, said.decode()
    assert sentence in (out + said).decode()
    assert "Traceback (" not in said.decode()


def test_a_second_run_gets_one_sentence(
    forks: ForkServerContext, workplace: Workplace, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    workplace.delay(0.02)
    first = forks.Process(target=run_serially, args=(workplace.job(),))
    first.start()
    while not list(workplace.output.glob("ledger/toy-*.json")):
        time.sleep(0.01)
    with pytest.raises(UserError, match=rf"another run of toy \(process {first.pid}\) is writing"):
        workplace.run()
    first.join()
    assert first.exitcode == 0
    assert_same(workplace.tree(), clean)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("victim", ["plan/units.json", "shards/toy-000002.tar", "ledger/toy-000002.json", "index.json"])
def test_a_disk_that_fails_gives_one_sentence_and_loses_nothing(
    workplace: Workplace, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, victim: str, number: int
) -> None:
    commit = Storage.publish

    def fail(self: Storage, local_file: Path, path: str) -> None:
        if path == victim:
            raise OSError(number, os.strerror(number))
        commit(self, local_file, path)

    monkeypatch.setattr(Storage, "publish", fail)
    with pytest.raises(
        StageStopped, match=rf"toy stopped in .*: {os.strerror(number)} .*mend it, then limbeck run toy"
    ):
        workplace.run()
    assert not (workplace.output / "index.json").exists()
    assert not [name for name in workplace.tree() if ".tmp-" in name]
    monkeypatch.undo()
    workplace.run()
    assert_same(workplace.tree(), clean)


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = Workplace(tmp_path / "data")
    job = place.job()
    blocked = job.__class__(job.stage, job.params, job.run, str(tmp_path / "file"))
    with pytest.raises(
        UserError, match=r"file is a file, and toy needs a folder there; .* choose another folder with --data"
    ):
        place.run(job=blocked)


def test_stragglers_that_never_end_are_told_of(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, workplaces: Callable[[], Workplace]
) -> None:
    monkeypatch.setattr(guard, "GRACE", 0.1)
    with (
        guard.only_run(workplace.job()) as job,
        guard.unit_at_work(job),
        pytest.raises(StageStopped, match="units of an earlier run of toy are still writing"),
    ):
        guard.no_units(job)
