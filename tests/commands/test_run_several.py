"""`limbeck run all` and `limbeck run ingest split`: in the order of the pipeline, and what nobody asked for is not begun."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.commands.asked import choose
from pipelines.stages import STAGES
from tests.commands.conftest import PARAMS, Limbeck, write_params

pytestmark = pytest.mark.usefixtures("project")


def test_stages_run_in_the_order_of_the_pipeline_however_they_are_named(limbeck: Limbeck) -> None:
    said = limbeck("run", "split", "ingest", "split")
    assert said.code == 0, said.err
    ended = [line.partition(":")[0] for line in said.out.splitlines() if "units ran" in line]
    assert ended == ["ingest", "split"]


def test_an_unknown_name_stops_before_any_stage(limbeck: Limbeck) -> None:
    said = limbeck("run", "ingest", "splitt")
    assert said.code == 2
    assert "did you mean split?" in said.err
    assert limbeck("status", "--json").json["stages"][0]["state"] == "not started"


def test_what_was_not_begun_is_said_when_a_stage_stops(limbeck: Limbeck) -> None:
    write_params({**PARAMS, "ingest": {"sources": [{"type": "folder", "path": "nowhere"}]}})
    said = limbeck("run", "ingest", "split")
    assert said.code == 2
    assert "not begun: split" in said.err


def test_items_are_each_taken_once_in_the_order_of_the_parameters() -> None:
    write_params({**PARAMS, "datadream": {"variants": ["cls", "zero_shot"]}})
    chosen = choose(["datadream@zero_shot", "datadream", "ingest"], "params.yaml")
    assert {stage: [job.name for job in jobs] for stage, jobs in chosen.jobs.items()} == {
        "ingest": ["ingest"],
        "datadream": ["datadream@cls", "datadream@zero_shot"],
    }
    assert chosen.skipped == ()


def test_all_is_what_has_a_section_what_that_needs_and_the_report(limbeck: Limbeck) -> None:
    said = limbeck("run", "all", "--set", "split.validation=0.3")
    assert said.code == 0, said.err
    ended = [line.partition(":")[0] for line in said.out.splitlines() if "units ran" in line]
    assert ended == ["ingest", "split", "report"]
    skipped = [line for line in said.out.splitlines() if "skipped" in line]
    assert [line.partition(":")[0] for line in skipped] == [stage for stage in STAGES if stage not in ended]
    assert "params.yaml does not ask for it; give it a section 'cda:', or: limbeck run cda --set" in said.out


@pytest.mark.parametrize(
    ("sections", "asked"),
    [
        ({"cda": None}, ["ingest", "split", "squeeze", "cda", "report"]),
        ({"evaluate": {"datadream": {}}}, ["ingest", "split", "generator", "datadream", "evaluate", "report"]),
        ({"augment": {"source": "ingest", "sets": {}}}, ["ingest", "augment", "report"]),
    ],
)  # fmt: skip
def test_what_a_section_needs_is_asked_for_with_it(sections: dict[str, Any], asked: list[str]) -> None:
    write_params({"ingest": PARAMS["ingest"], **sections})
    assert list(choose(["all"], "params.yaml").jobs) == asked


def test_the_commands_that_are_named_keep_the_options_of_the_one_that_was_given(limbeck: Limbeck) -> None:
    write_params(PARAMS, "my job.yaml")
    said = limbeck("run", "split", "--params", "my job.yaml", "--data", "out", "--set", "split.test=0.3")
    assert said.code == 2
    assert "run first: limbeck run ingest --params 'my job.yaml' --set split.test=0.3 --data out" in said.err
    assert "limbeck run ingest --data out" in limbeck("info", "ingest", "--data", "out").err
    assert "limbeck run ingest\n" in limbeck("run", "split").err
