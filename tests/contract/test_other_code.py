"""What becomes of units that other code made: made again, or kept and said so."""

from __future__ import annotations

import pytest

from pipelines.commands.runs import code_lines
from pipelines.runtime.code import code_digest
from pipelines.runtime.execute import prepare
from pipelines.runtime.ledger import all_markers
from pipelines.shards.checksum import read_signed, signed_bytes
from pipelines.storage import Storage
from tests.contract.folders import Workplace, no_runner
from tests.contract.toy import Toy


@pytest.fixture
def other(done: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A finished stage whose code is another now."""
    monkeypatch.setattr(Toy, "code", ("tests.contract.pictures",))
    return done


def codes(place: Workplace) -> set[str]:
    return {marker.code for marker in all_markers(Storage(place.output))}


def test_what_other_code_made_is_made_again(other: Workplace) -> None:
    before = codes(other)
    assert other.run()["ran"] == 8
    assert len(other.ran()) == 8
    assert codes(other) == {code_digest(Toy())} != before


def test_what_other_code_made_is_told_of_with_both_commands(other: Workplace) -> None:
    (line,) = code_lines(other.job(), prepare(Toy(), other.job()))
    assert line == (
        "toy: 8 of 8 units were made by other code and are made again; to keep what is there instead: "
        "limbeck run toy --keep-code"
    )


def test_what_is_kept_is_done_and_the_seal_says_which_code_made_it(other: Workplace) -> None:
    before = other.tree()
    form = other.run(no_runner, keep_code=True)
    (made_by,) = codes(other)
    assert form["code"] == other.stage_file()["code"] == {made_by: 8}
    assert made_by != code_digest(Toy())
    assert [name for name, data in other.tree().items() if data != before[name]] == ["plan/units.json", "stage.json"]


def test_what_was_kept_stays_so_until_the_code_changes_again(other: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    other.run(no_runner, keep_code=True)
    assert other.run(no_runner)["ran"] == 0
    monkeypatch.setattr(Toy, "code", ("tests.contract.folders",))
    assert other.run()["ran"] == 8


def test_new_units_beside_kept_ones_are_counted_apart(other: Workplace) -> None:
    other.edit(3, "3.1", "changed")
    assert other.run(keep_code=True)["ran"] == 1
    assert other.ran() == ["toy-000003"]
    assert sorted(other.stage_file()["code"].values()) == [1, 7]
    (line,) = code_lines(other.job(), prepare(Toy(), other.job()))
    assert line == "toy: 7 of 8 units that other code made are kept"


def test_keeping_survives_a_run_that_stopped(other: Workplace) -> None:
    other.edit(3, "keep", "raise")
    with pytest.raises(Exception, match="no such sample"):
        other.run(keep_code=True)
    other.edit(3, "raise", "keep")
    other.ran()
    assert other.run()["ran"] == 1
    assert other.ran() == ["toy-000003"]


def test_a_kept_unit_that_is_tried_again_is_this_code_s(other: Workplace) -> None:
    other.run(no_runner, keep_code=True)
    other.run(again={"toy-000002"})
    assert other.stage_file()["code"][code_digest(Toy())] == 1
    assert sorted(other.stage_file()["code"].values()) == [1, 7]
    assert other.run(no_runner)["ran"] == 0


def test_what_an_earlier_release_left_is_made_again_and_told(done: Workplace) -> None:
    for path in (done.output / "ledger").glob("*.json"):
        form = read_signed(path.read_bytes())
        path.write_bytes(signed_bytes({name: form[name] for name in form if name not in ("code", "kind")}))
    (line,) = code_lines(done.job(), prepare(Toy(), done.job(), keep_code=True))
    assert line == "toy: 8 of 8 units were made by an earlier release, whose code is not recorded, and are made again"
    assert done.run(keep_code=True)["ran"] == 8
