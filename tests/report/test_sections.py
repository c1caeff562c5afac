"""Sections: a stage that is added as a folder appears on the page and on the console, every block shows text as text, and no
damaged file of any stage takes the page with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipelines.stages
from pipelines.evaluation import EVALUATIONS
from pipelines.report.blocks import (
    Bar,
    Bars,
    Beside,
    Block,
    BoxGrid,
    Charts,
    ClassStrip,
    ClassStrips,
    Definitions,
    Folded,
    GroupedTable,
    NamedRow,
    Picture,
    Preformatted,
    Sentences,
    Sheet,
    Shown,
    SourceStrips,
    Table,
)
from pipelines.report.page import render
from pipelines.report.section import Section
from pipelines.report.svg import Dot, Series, dot_chart, line_chart
from pipelines.stages import STAGES, outputs_under, sections
from pipelines.storage import pretty_json
from tests.report.dreaming import dream_folder
from tests.report.folders import DataFolder
from tests.report.test_page import tags
from tests.report.test_stage import printed
from tests.sealing import seal

STAGE = """
from pydantic import Field
from pipelines.config import Section
from pipelines.runtime.job import Plan, Stage

class ToyParams(Section):
    size: int = Field(1, description="of the toy")

class Toy(Stage[ToyParams]):
    name, version, summary, Params, upstream = "toy", 1, "a toy", ToyParams, ("split",)
    adds = "what the toy found"
    titles = {"red": "a red toy"}

    def plan(self, job):
        return Plan([])

    def run(self, unit, worker, output, job):
        pass
"""
PARAMS = """
from pipelines.config import Section

class ToyWorthParams(Section):
    pass

PARAMS = ToyWorthParams
"""
EVALUATION = """
from pipelines.evaluation.protocol import Evaluation
from pipelines.runtime.job import Plan

class ToyWorth(Evaluation):
    name, summary, upstream = "toy_worth", "what toys are worth", ("toy",)

    def plan(self, job):
        return Plan([])

    def open(self, job):
        return None

    def run(self, unit, worker, output):
        pass

    def metrics(self, job, plan, markers):
        raise NotImplementedError

EVALUATION = ToyWorth()
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
    return Section("toys", "Toys", 11, f"The toy is worth {facts['worth']}.", [table, note], [table, note], facts, {"toys.md": b"toys"})
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
    return render(outputs, "t", sections(outputs, 3)).decode()


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
    assert [record.title for record in outputs.finished("toy")] == ["toy blue", "a red toy"]
    assert outputs.json("toy@red", "metrics.json") == {"worth": "red"}
    assert "toy" not in outputs.stages


def test_an_evaluation_that_is_a_folder_appears_too(
    toy: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "house" / "toy_worth"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "params.py").write_text(PARAMS)
    (package / "evaluation.py").write_text(EVALUATION)
    (package / "section.py").write_text(SECTION.replace('"toy"', '"evaluate@toy"').replace('"toys"', '"worth"'))
    monkeypatch.syspath_prepend(str(tmp_path / "house"))
    monkeypatch.setitem(EVALUATIONS, "toy_worth", "toy_worth")
    toy.write("evaluate/toy/metrics.json", pretty_json({"worth": 9}))
    toy.finish("evaluate@toy", 1, {})
    html = html_of(toy)
    assert "The toy is worth 9." in html
    assert 'id="worth"' in html
    assert "The toy is worth 9." in printed(toy.root)


BAD = "<script>alert(1)</script>"
PICTURE = Picture("data:image/png;base64,AA==", BAD, 8, 8, True)
SHOWN = Shown(BAD, PICTURE, 8, 8, [(1, 1, 2, 2)], [(BAD, BAD)])
BLOCKS: list[Block | None] = [
    Sentences([BAD], BAD),
    Sentences([BAD], BAD, listed=True, quiet=True),
    Table(BAD, [BAD, BAD], [[BAD, BAD]], note=BAD),
    GroupedTable(BAD, BAD, [BAD], [(BAD, [NamedRow(BAD, [BAD], True, True, [0])])], BAD, [BAD]),
    Definitions(BAD, [(BAD, BAD)]),
    ClassStrips(BAD, [BAD], [ClassStrip(BAD, [[PICTURE]]), ClassStrip(BAD, [[]])], BAD, open=1),
    SourceStrips(BAD, [BAD], [ClassStrip(BAD, [[PICTURE]]), ClassStrip(BAD, [[]])], BAD),
    BoxGrid(BAD, BAD, BAD, [[SHOWN], [SHOWN]], open=1),
    Sheet(BAD, PICTURE, BAD),
    Bars(BAD, [BAD], [Bar(BAD, [(BAD, 50.0, 3)], BAD)]),
    Preformatted(BAD, "</pre>" + BAD),
    Charts(
        [
            figure
            for figure in (line_chart(BAD, [Series(BAD, [(0, 1), (1, 2)], "other", value=BAD)], BAD, BAD),)
            if figure
        ]
    ),
    Charts([figure for figure in (dot_chart(BAD, [Dot(BAD), Dot(BAD, 1.0, 1.0, text=BAD)], BAD, BAD),) if figure]),
    Beside([[Sentences([BAD])], [Preformatted(BAD, BAD)]]),
    Folded(BAD, [Folded(BAD, [Sentences([BAD])])]),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_every_block_shows_text_as_text(tmp_path: Path, block: Block) -> None:
    shown = [Section("here", BAD, 10, BAD, [block])]
    html = render(outputs_under(str(tmp_path)), BAD, shown).decode()
    bare = render(outputs_under(str(tmp_path)), BAD, [Section("here", BAD, 10, BAD, [])]).decode()
    tags(html)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > bare.count("&lt;script&gt;"), "the block is not shown"


def test_sections_of_one_anchor_are_one_section_with_their_tables_side_by_side(tmp_path: Path) -> None:
    parts = [Section("made", f"part {n}", 50 + n, blocks=[Table(f"table {n}", ["a"], [["b"]])]) for n in range(2)]
    html = render(outputs_under(str(tmp_path)), "t", parts[::-1]).decode()
    assert [found["id"] for tag, found in tags(html) if tag == "section"] == ["made", "runs"]
    assert "<h2>part 0</h2>" in html
    assert "part 1" not in html
    assert html.index("table 0") < html.index("table 1")


DAMAGE = [
    b"",
    b"[1, 2]",
    b'{"a": ',
    b'{"ipc_1": 3, "shots_4": [], "classes": {"x": 1}, "protocol": 7, "wins": {}, "comparisons": 2}',
]
ODD = b'{"ipc_1": {"distilled_soft": 5, "random_soft": {"last": "x", "seeds": {}}}, "full": [], "teacher": 1, "seeds": [3], "nouns": {}}'


@pytest.mark.parametrize("content", [*DAMAGE, ODD])
def test_no_damaged_json_takes_the_page_with_it(tmp_path: Path, content: bytes) -> None:
    folder = dream_folder(DataFolder(tmp_path).everything())
    sealed = [path.parent for path in sorted(tmp_path.rglob("stage.json"))]
    for stage in sealed:
        names = ("metrics.json", "results.json", "generator.json", "family.json", "few_shot.json", "teacher.json")
        for path in [stage / name for name in names if (stage / name).exists()]:
            path.write_bytes(content)
        seal(stage, str(stage.relative_to(tmp_path)).replace("/", "@"))
    html = html_of(folder)
    tags(html)
    assert 'id="data"' in html
