"""Sections: a stage that is added as a folder appears on the page and on the console, and every block shows text as text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipelines.stages
from pipelines.report.page import render
from pipelines.stages import STAGES, outputs_under, sections
from pipelines.storage import pretty_json
from tests.report.folders import DataFolder
from tests.report.test_page import tags
from tests.report.test_stage import printed

STAGE = """
from pydantic import Field
from pipelines.config import Section
from pipelines.runtime.job import Plan, Stage

class ToyParams(Section):
    size: int = Field(1, description="of the toy")

class Toy(Stage[ToyParams]):
    name, version, summary, Params, upstream = "toy", 1, "a toy", ToyParams, ("split",)
    adds = "what the toy found"

    def plan(self, job):
        return Plan([])

    def run(self, unit, worker, output, job):
        pass
"""
SECTION = """
from pipelines.report.blocks import GroupedTable, NamedRow, Sentences
from pipelines.report.section import Section

def section(outputs, options):
    facts = outputs.json("toy", "metrics.json")
    if not facts:
        return None
    table = GroupedTable("Toys", "toy", ("worth",), [("all", [NamedRow("bear", (str(facts["worth"]),))])])
    note = Sentences([f"At most {options.samples_per_class} toys."])
    return Section("toys", "Toys", 11, f"The toy is worth {facts['worth']}.", [table, note], [table, note], facts)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataFolder]:
    """A data folder of a house that has one more stage, which is nothing but a folder and a line in the list."""
    for name, text in {"__init__": "", "stage": STAGE, "section": SECTION}.items():
        path = tmp_path / "house" / "toy" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(pipelines.stages, "__path__", [*pipelines.stages.__path__, str(tmp_path / "house")])
    monkeypatch.setitem(STAGES, "toy", "Toy")
    yield DataFolder(tmp_path / "data")
    for name in [name for name in sys.modules if name.startswith("pipelines.stages.toy")]:
        del sys.modules[name]


def html_of(folder: DataFolder) -> str:
    outputs = outputs_under(str(folder.root))
    return render(outputs, "t", 3, sections(outputs, 3)).decode()


def test_a_stage_that_is_a_folder_appears_on_the_page_and_on_the_console(toy: DataFolder) -> None:
    toy.ingest()
    assert "<b>toy</b> has not run; <code>limbeck run toy</code> adds what the toy found." in html_of(toy)
    toy.write("toy/metrics.json", pretty_json({"worth": 7}))
    toy.finish("toy", 1, {"size": 3})
    html = html_of(toy)
    assert [found["id"] for tag, found in tags(html) if tag == "section"].count("toys") == 1
    assert "<h1>The toy is worth 7.</h1>" in html
    assert "At most 3 toys." in html
    text = printed(toy.root)
    assert "bear" in text
    assert "The toy is worth 7." in text


def test_items_of_a_stage_are_the_folders_that_exist(toy: DataFolder) -> None:
    toy.ingest()
    for item in ("red", "blue"):
        toy.write(f"toy/{item}/metrics.json", pretty_json({"worth": item}))
        toy.finish(f"toy@{item}", 1, {})
    outputs = outputs_under(str(toy.root))
    assert [record.name for record in outputs.finished("toy")] == ["toy@blue", "toy@red"]
    assert outputs.json("toy@red", "metrics.json") == {"worth": "red"}
    assert "toy" not in outputs.stages
