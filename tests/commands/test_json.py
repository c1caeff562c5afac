"""`--json`: one document on standard output, with keys that scripts may rely on; and `--version`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import __version__
from tests.commands.conftest import Limbeck
from tests.faults.making import lay, png

pytestmark = pytest.mark.usefixtures("project")


def test_the_version_is_one_line(limbeck: Limbeck) -> None:
    assert limbeck("--version").out == f"limbeck {__version__}\n"


def test_a_plan_lists_every_unit_with_its_state(limbeck: Limbeck) -> None:
    (plan,) = limbeck("plan", "ingest", "--json").json["plans"]
    assert (plan["stage"], plan["output"], plan["to_run"]) == ("ingest", str(Path("data/ingest").absolute()), 1)
    (unit,) = plan["units"]
    assert unit.keys() == {"name", "id", "state", "other_code", "failed", "payload"}
    assert unit["state"] == "to run"
    limbeck("run", "ingest")
    (plan,) = limbeck("plan", "ingest", "--json").json["plans"]
    assert [unit["state"] for unit in plan["units"]] == ["done"]


def test_lint_and_info_and_show_and_doctor_print_one_document(limbeck: Limbeck) -> None:
    limbeck("run", "ingest")
    sound = limbeck("lint", "data/ingest", "--json")
    assert (sound.code, sound.json["ok"], sound.json["samples"], sound.json["findings"]) == (0, True, 10, [])
    (dataset,) = limbeck("info", "ingest", "--json").json["datasets"]
    assert (dataset["samples"], dataset["classes"], dataset["account"]["seen"]) == (10, ["cat", "dog"], 10)
    found = limbeck("show", "", "--json").json
    assert found["found"] == 10
    assert {one["row"]["label_name"] for one in found["samples"]} == {"cat", "dog"}
    checks = limbeck("doctor", "--json").json
    assert checks.keys() == {"ok", "checks"}
    assert {"check", "ok", "result", "advice"} == checks["checks"][0].keys()


def test_what_is_wrong_is_in_the_document_and_in_the_exit_code(limbeck: Limbeck) -> None:
    limbeck("run", "ingest")
    next(Path("data/ingest/shards").glob("*.tar")).write_bytes(b"no tar")
    said = limbeck("lint", "data/ingest", "--json")
    assert said.code == 3
    assert said.json["ok"] is False
    assert said.json["findings"][0].keys() == {"severity", "code", "where", "message"}


def test_an_error_is_a_sentence_and_no_document(limbeck: Limbeck) -> None:
    said = limbeck("results", "--json")
    assert (said.code, said.out) == (2, "")
    assert "limbeck run all" in said.err


def test_names_that_came_from_outside_move_no_cursor(limbeck: Limbeck) -> None:
    lay(Path(), {"photos/\x1b[31mred/one.png": png(99)})
    limbeck("run", "ingest")
    said = limbeck("info", "ingest", "--json")
    assert "\x1b" not in said.out
    assert "\x1b[31mred" in said.json["datasets"][0]["classes"]
