"""The page: complete from a whole folder, honest from a part of one, safe with hostile names, alone in its file."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.artifacts.distilled import shuffled_keys
from pipelines.evaluation.distilled.gallery import gallery
from pipelines.report.blocks import Bars, Charts, ClassStrips, SourceStrips
from pipelines.report.facts import outcome_tables
from pipelines.report.page import render
from pipelines.report.pictures import BUDGET
from pipelines.seeds import seed_for
from pipelines.stages import outputs_under, sections
from pipelines.stages.relabel.section import label_rows
from pipelines.stages.split.section import class_balance
from pipelines.stages.squeeze.section import teacher_table
from pipelines.storage import pretty_json
from tests.report.folders import CLASSES, DataFolder, arm, metrics
from tests.sealing import seal


class Tags(HTMLParser):
    """Collects tags with attributes and checks that they are closed in order."""

    VOID = frozenset({"meta", "img", "line", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


def tags(html: str) -> list[tuple[str, dict[str, str]]]:
    parser = Tags()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.found


def page(folder: DataFolder, title: str = "Limbeck report", per_class: int = 10) -> str:
    outputs = outputs_under(str(folder.root))
    return render(outputs, title, sections(outputs, per_class)).decode()


def strips(folder: DataFolder, count: int) -> ClassStrips:
    found = gallery(outputs_under(str(folder.root)), count)
    assert isinstance(found, ClassStrips)
    return found


@pytest.fixture
def whole(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path).everything()


def test_every_section_is_there_when_everything_ran(whole: DataFolder) -> None:
    html = page(whole)
    found = [attributes["id"] for tag, attributes in tags(html) if tag == "section"]
    assert found == ["distilled", "data", "views", "making", "runs"]
    assert "Not in this report" not in html
    assert "Could not be read" not in html


def test_the_page_needs_nothing_outside_itself(whole: DataFolder) -> None:
    html = page(whole)
    for tag, attributes in tags(html):
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith("#" if tag == "a" else "data:image/"), value[:60]
    assert not re.search(r"https?://|url\(|@import", html)
    assert "default-src 'none'" in html


def test_hostile_names_from_data_and_parameters_stay_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    folder = DataFolder(tmp_path, classes=[bad, '"><img src=x onerror=y>', "eel"])
    folder.ingest()
    folder.split()
    folder.augment([bad])
    folder.cda()
    form = metrics()
    form["protocol"] |= {"note": bad, bad: bad}
    form["teacher"]["network"] = bad
    folder.evaluate(form)
    folder.finish("relabel", 1, {"format": "</pre>" + bad})
    html = page(folder, title=bad)
    assert "<script" not in html
    assert all("onerror" not in attributes for _, attributes in tags(html))
    assert html.count("&lt;script&gt;alert(1)") > 8


def test_real_pictures_are_the_first_by_key_until_a_control_drew_some(tmp_path: Path) -> None:
    whole = DataFolder(tmp_path)
    whole.split()
    whole.cda()
    shown = strips(whole, 2)
    assert [row.name for row in shown.rows] == list(CLASSES)
    assert list(shown.columns) == ["real", "distilled"]
    train = outputs_under(str(tmp_path)).dataset("split", "train")
    assert train is not None
    samples = sorted((s for s in train.samples() if s.row["label"] == 1), key=lambda sample: sample.key)[:2]
    real, distilled = shown.rows[1].sources
    assert [base64.b64decode(picture.uri.partition(",")[2]) for picture in real] == [s.member("png") for s in samples]
    first = distilled[0]
    assert (first.alt, first.width, first.height, first.crisp) == ("dog, cda-c00001-s00000", 64, 64, True)
    assert "nobody chose them" in shown.note


def test_the_control_is_shown_as_its_first_student_saw_it(whole: DataFolder) -> None:
    shown = strips(whole, 3)
    assert list(shown.columns) == ["random real", "distilled"]
    train = outputs_under(str(whole.root)).dataset("split", "train")
    assert train is not None
    keys = shuffled_keys(train, seed_for(0, "evaluate", "random", "0"))
    for label, row in enumerate(shown.rows):
        assert [picture.alt.partition(", ")[2] for picture in row.sources[0]] == keys[label][:3]
    assert "the control of seed 0 was trained on" in shown.note


def test_many_sets_stand_a_row_each_under_the_names_that_their_stages_say(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, classes=[f"class {place}" for place in range(14)])
    folder.split()
    folder.cda()
    for method in ("medoids", "herding", "rded", "odd_one"):
        folder.coreset(method)
    shown = gallery(outputs_under(str(tmp_path)))
    assert isinstance(shown, SourceStrips)
    assert [row.name for row in shown.rows] == [
        *("real", "CDA", "herding"),
        *("k-means medoids", "coreset odd one", "RDED patches"),
    ]
    assert list(shown.columns) == [f"class {place}" for place in range(12)]
    assert "The first 12 of 14 classes are shown." in shown.note
    assert [[len(cell) for cell in row.sources] for row in shown.rows] == [[1] * 12] * 6
    assert shown.rows[1].sources[3][0].alt == "class 3, cda-c00003-s00000"
    html = page(folder, per_class=3)
    assert '<th scope="row">k-means medoids</th>' in html
    assert html.count('alt="k-means medoids class 3, ') == 1
    assert "<h2>Condensed sets</h2>" in html
    folder.evaluate({"ipc_1": {"cda_soft": arm(0.5), "coreset_herding_soft": arm(0.4) | {"role": "control"}}})
    measured_first = gallery(outputs_under(str(tmp_path)))
    assert measured_first is not None
    assert [row.name for row in measured_first.rows][-1] == "herding"


def test_all_but_four_classes_are_folded(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, classes=[f"class {place}" for place in range(6)])
    folder.split(1)
    html = page(folder)
    before, summary, after = html.partition("<summary>2 more classes</summary>")
    assert summary
    assert "<h4>class 3</h4>" in before
    assert "<h4>class 4</h4>" in after


def test_large_images_become_thumbnails(tmp_path: Path) -> None:
    def large(label: int, number: int) -> Image.Image:
        generator = np.random.default_rng((label, number))
        return Image.fromarray(generator.integers(0, 256, (150, 300, 3), dtype=np.uint8))

    folder = DataFolder(tmp_path, pictures=large)
    folder.ingest(2)
    shown = strips(folder, 10)
    picture = shown.rows[0].sources[0][0]
    assert (picture.width, picture.height, picture.crisp) == (96, 48, False)
    assert picture.uri.startswith("data:image/jpeg;base64,")
    assert list(shown.columns) == ["real"]


def test_a_page_with_heavy_pictures_stays_below_three_megabytes_and_says_so(tmp_path: Path) -> None:
    def noisy(label: int, number: int) -> Image.Image:
        generator = np.random.default_rng((label, number))
        return Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))

    folder = DataFolder(tmp_path, classes=[f"class {place}" for place in range(30)], pictures=noisy)
    folder.ingest(6)
    folder.cda(6)
    html = page(folder)
    assert BUDGET / 2 < len(html) < 3_000_000
    assert "The first 24 of 30 classes are shown." in html
    assert re.search(r"At most [1-5] instead of 10 images a class", html)


def test_outcomes_and_reasons_are_counted_from_the_markers(whole: DataFolder) -> None:
    outputs = outputs_under(str(whole.root))
    tables = {table.title: table for table in outcome_tables(outputs)}
    assert ["ingest", "15", "12", "1", "2"] in tables["Outcomes"].rows
    assert tables["Why samples were lost"].rows == [
        ["unsupported format", "2", "ingest", "failed", "permanent"],
        ["duplicate", "1", "ingest", "dropped", "policy"],
    ]
    assert ["IPC 10", "int8", "300", "30", "1.0\u00a0MiB"] in label_rows(outputs, "relabel", "")
    (teacher,) = teacher_table(outputs)
    assert teacher.rows[0][:3] == ["resnet18_stem3", "92.0\u00a0%", "91.2\u00a0%"]


def test_labels_of_several_sets_are_told_apart_by_the_item(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    for item in ("cda", "d3hr"):
        form = {"ipc_1": {"bytes": 10, "epochs": 3, "samples": 3, "format": "fp16"}}
        folder.write(f"relabel/{item}/metrics.json", pretty_json(form))
        folder.finish(f"relabel@{item}", 1, {})
    html = page(folder)
    assert "cda IPC 1" in html
    assert "d3hr IPC 1" in html


def balance(folder: DataFolder) -> Bars | Charts:
    outputs = outputs_under(str(folder.root))
    block = class_balance({part: outputs.stats("split", part) for part in ("train", "val", "test")})
    assert isinstance(block, Bars | Charts)
    return block


def test_the_balance_shows_every_class_in_proportion_to_the_largest(whole: DataFolder) -> None:
    bars = balance(whole)
    assert isinstance(bars, Bars)
    assert [(bar.name, bar.total) for bar in bars.rows] == [("cat", "7"), ("dog", "7"), ("eel", "7")]
    assert bars.rows[0].parts == [("train", 57.14, 4), ("val", 14.29, 1), ("test", 28.57, 2)]


def test_many_classes_are_a_line_over_the_rank(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, classes=[f"class {place}" for place in range(50)])
    folder.split(1)
    assert isinstance(balance(folder), Charts)


def test_what_every_page_links_to_is_on_it(whole: DataFolder) -> None:
    found = tags(page(whole))
    anchors = {attributes["id"] for tag, attributes in found if tag == "section"}
    assert {attributes["href"].removeprefix("#") for tag, attributes in found if tag == "a"} == anchors


@pytest.mark.parametrize("last", ["ingest", "split", "squeeze", "cda", "relabel"])
def test_a_part_of_the_pipeline_makes_a_page_that_says_what_is_missing(tmp_path: Path, last: str) -> None:
    folder = DataFolder(tmp_path)
    steps = {"ingest": folder.ingest, "split": folder.split, "squeeze": folder.squeeze, "cda": folder.cda}
    steps["relabel"] = folder.relabel
    for name, step in steps.items():
        step()
        if name == last:
            break
    html = page(folder)
    tags(html)
    assert "Nothing is proved yet" in html
    assert "limbeck run evaluate" in html
    assert f"limbeck run {last}<" not in html


@pytest.mark.parametrize("only", ["squeeze", "cda", "relabel"])
def test_a_stage_alone_makes_a_page(tmp_path: Path, only: str) -> None:
    folder = DataFolder(tmp_path)
    getattr(folder, only)()
    tags(page(folder))


def test_an_unfinished_stage_is_not_read(whole: DataFolder) -> None:
    (whole.root / "evaluate/distilled/stage.json").unlink()
    html = page(whole)
    assert "is unfinished" in html
    assert "84.1" not in html


def test_damaged_files_are_told_and_cost_only_their_own_part(whole: DataFolder) -> None:
    whole.write("evaluate/distilled/results.json", b'{"ipc_10": ')
    whole.write("squeeze/metrics.json", b"[1, 2]")
    whole.write("evaluate/distilled/students.csv", b"\xff\xfe")
    html = page(whole)
    assert "evaluate/distilled/results.json is not the file that evaluate@distilled left" in html
    for stage in ("evaluate@distilled", "squeeze"):
        seal(whole.root / stage.replace("@", "/"), stage)
    html = page(whole)
    assert "evaluate/distilled/results.json cannot be read" in html
    assert "squeeze/metrics.json cannot be read: holds list, not an object" in html
    assert "evaluate/distilled/students.csv cannot be read" in html
    assert str(whole.root) not in html
    assert 'id="distilled"' in html
    assert "Nothing is proved yet" in html


def test_missing_run_facts_leave_dashes(whole: DataFolder) -> None:
    for path in (whole.root / ".limbeck").iterdir():
        path.unlink()
    assert "No run times were kept." in page(whole)


def test_equal_outputs_give_equal_bytes(whole: DataFolder) -> None:
    assert page(whole) == page(whole)


def test_every_parameter_is_listed(whole: DataFolder) -> None:
    html = page(whole)
    assert html.count("<pre") == 7
    assert "&#34;iterations&#34;: 1000" in html
