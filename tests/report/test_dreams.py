"""DataDream in the report and on the console: the controls as they were measured, images of one noise side by side, honest gaps."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.evaluation.datadream.section import (
    HEAD,
    control_headline,
    control_sentences,
    control_table,
    per_class_table,
)
from pipelines.report.blocks import ClassStrips
from pipelines.report.facts import dataset_table, outcome_tables
from pipelines.report.reading import Outputs
from pipelines.report.words import FIXED
from pipelines.stages import outputs_under
from pipelines.stages.datadream.section import class_strips, filter_table, quality_table
from pipelines.stages.generator.section import contact_sheets, knowledge, model_table, recognition_table
from pipelines.storage import pretty_json
from tests.report.dreaming import control, dream_folder, dream_metrics, dreams, few_shot, generator, number_of, win
from tests.report.folders import CLASSES, NOTE, DataFolder, noise
from tests.report.test_page import page, tags
from tests.report.test_stage import printed, run
from tests.sealing import seal


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return dream_folder(DataFolder(tmp_path))


def outputs(folder: DataFolder) -> Outputs:
    return outputs_under(str(folder.root))


# The control table


def rows_of(form: dict[str, Any], group: str) -> dict[str, dict[str, str]]:
    """Cells by row and column of a group of the control table."""
    rows = dict(control_table(form).groups)[group]
    return {row.name: dict(zip(HEAD, row.cells, strict=True)) for row in rows}


def test_each_row_stands_with_its_difference_from_both_controls() -> None:
    form = dream_metrics()
    assert [group for group, _ in control_table(form).groups] == [
        "4 shots, CLIP with LoRA",
        "16 shots, CLIP with LoRA",
        "For reference, CLIP with LoRA",
    ]
    rows = dict(control_table(form).groups)["16 shots, CLIP with LoRA"]
    shown = [(row.name, row.cells[0], row.cells[1]) for row in rows]
    assert shown == [
        ("real only", "70.0 ± 1.0", ""),
        ("cls only", "65.0 ± 1.0", ""),
        ("real + zero-shot", "71.0 ± 1.0", ""),
        ("less real only, 95 % interval", "+1.0 (0.0 to +2.0)", "not told apart"),
        ("real + cls", "75.0 ± 1.0", ""),
        ("less real only, 95 % interval", "+5.0 (+4.0 to +6.0)", "wins"),
        ("less real + zero-shot, 95 % interval", "+4.0 (+3.0 to +5.0)", "wins"),
        ("real + dset", "66.0 ± 1.0", ""),
        ("less real only, 95 % interval", "−4.0 (−5.0 to −3.0)", "loses"),
    ]
    assert [row.name for row in rows if row.ours] == ["real + cls", "real + dset"]
    ours = rows_of(form, "16 shots, CLIP with LoRA")["real + cls"]
    assert (ours["seeds"], ours["real images"], ours["synthetic"], ours["steps"]) == ("3", "48", "300", "1\u202f000")
    # 1024 + 2048 bytes of images; with adapters and class numbers 3608.
    sizes = (ours["image bytes"], ours["adapters"], ours["together"])
    assert sizes == (f"3.0{FIXED}KiB", f"512{FIXED}B", f"3.5{FIXED}KiB")
    assert rows_of(form, "For reference, CLIP with LoRA")["CLIP, not trained"]["test, %"] == "41.0"


def test_the_headline_counts_wins_of_adapted_variants_over_real_images_only() -> None:
    assert control_headline(dream_metrics()) == (
        "At 4 shots DataDream (cls) is not told apart from real images only; "
        "at 16 shots 1 of 2 DataDream variants beats real images only and 1 loses to them."
    )
    # Zero-shot images are a control: that they beat real ones is no success of DataDream.
    only = {"shots_4": {}, "wins": [win("pooled_zero_shot", "real", 9.0, "win", shots=4)]}
    assert control_headline(only) == "DataDream's images are not compared with real images only."
    single = {"shots_4": {}, "wins": [win("pooled_cls", "real", 9.0, "unproved", shots=4, error=None)]}
    assert control_headline(single) == "At 4 shots one seed proves nothing."


def test_sentences_are_reasons_then_choices_and_note() -> None:
    form = dream_metrics() | {"why_not": [{"sentence": "No variant wins."}, 3]}
    assert control_sentences(form) == ["No variant wins.", "3 choices of few-shot images were drawn.", NOTE]


def test_values_that_are_no_numbers_become_dashes() -> None:
    form: dict[str, Any] = {
        "shots_4": {"clip": {"real": {"mean": "nan", "bytes": 3}, "pooled_cls": 5}},
        "wins": [7, {"shots": 4, "classifier": "clip", "arm": "real", "gap": "x", "outcome": []}],
        "reference": {"clip": 1},
    }
    ((_, (row, comparison)),) = control_table(form).groups
    assert (row.name, row.cells) == ("real only", ("–", "", *["–"] * 8))
    assert list(comparison.cells[:3]) == ["–", "–", ""]
    assert control_headline(form) == "DataDream's images are not compared with real images only."
    assert control_table({"shots_x": {}}).groups == []


def test_classes_are_told_apart_at_the_most_shots() -> None:
    table = per_class_table(dream_metrics())
    assert table is not None
    assert table.title == "Test accuracy per class, %: 16 shots, CLIP with LoRA"
    assert list(table.head) == ["class", "real only", "cls only", "real + zero-shot", "real + cls", "real + dset"]
    assert table.rows[1] == ["dog", "60.0", "55.0", "61.0", "65.0", "56.0"]
    assert table.rows[2][1:] == ["–"] * 5
    assert per_class_table({"classes": ["a"], "shots_4": {"clip": {"real": control(0.5)}}}) is None


# Pictures


def strips(folder: DataFolder, variants: list[str], count: int) -> ClassStrips:
    found = class_strips(outputs(folder), variants, count)
    assert found is not None
    return found


def test_real_images_stand_beside_the_same_ordinals_of_every_variant(folder: DataFolder) -> None:
    shown = strips(folder, ["zero_shot", "cls", "dset", "loft"], 3)
    assert [row.name for row in shown.rows] == list(CLASSES)
    assert list(shown.columns) == ["real", "zero-shot", "cls", "dset", "LoFT"]
    sources = dict(zip(shown.columns, shown.rows[1].sources, strict=True))
    # The most shots, and of their few-shot seeds the first: the start noise is that of zero-shot images.
    assert "16 shots, few-shot seed 0." in shown.note
    assert "starts from the same noise" in shown.note
    seen = {source: [pixels(picture.uri) for picture in pictures] for source, pictures in sources.items()}
    for source, variant, shots in (("zero-shot", "zero_shot", 0), ("cls", "cls", 16), ("LoFT", "loft", 16)):
        # What the filters dropped is shown too: nobody chose.
        expected = [noise(1, number_of(variant, shots, 0, ordinal)).tobytes() for ordinal in (0, 1, 2)]
        assert seen[source] == expected
    train = outputs(folder).dataset("split", "train")
    assert train is not None
    keys = json.loads((folder.root / "split/few_shot.json").read_text())["seeds"]["0"]["1"][:3]
    assert [picture.alt for picture in sources["real"]] == [f"dog, {key}" for key in keys]
    assert (sources["cls"][0].width, sources["cls"][0].crisp) == (64, True)  # 32 pixels, twice, not smoothed


def pixels(uri: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB").tobytes()


def test_another_few_shot_seed_is_not_said_to_share_its_noise_with_zero_shot(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.split()
    form = few_shot(folder)
    dreams(folder, "zero_shot")
    dreams(folder, "cls", [(4, 1)])
    shown = strips(folder, ["zero_shot", "cls"], 2)
    assert shown.note.startswith("4 shots, few-shot seed 1.")
    assert "same noise" not in shown.note
    assert [picture.alt for picture in shown.rows[0].sources[0]] == [
        f"cat, {key}" for key in form["seeds"]["1"]["0"][:2]
    ]


def test_sheets_are_shown_in_whole_multiples_and_large_ones_smaller(tmp_path: Path) -> None:
    for side, size, crisp in (((30, 20), (780, 520), True), ((1600, 800), (800, 400), False)):
        folder = DataFolder(tmp_path / str(side[0]))
        generator(folder, side)
        (sheet,) = contact_sheets(outputs(folder))
        assert (sheet.picture.width, sheet.picture.height, sheet.picture.crisp) == (*size, crisp)


# Tables


def test_reasons_are_counted_by_variant_and_set(folder: DataFolder) -> None:
    table = filter_table({"zero_shot": outputs(folder).json("datadream@zero_shot", "metrics.json"), "cls": {}})
    assert table is not None
    assert list(table.head) == ["images", "adapters", "made", "kept", "share", "clip low"]
    assert table.rows == [["zero-shot, no real images", "0", "9", "6", f"67{FIXED}%", "3"]]
    facts = {table.title: table for table in (*outcome_tables(outputs(folder)), *dataset_table(outputs(folder)))}
    # An image is counted once, though it lies in two datasets.
    assert ["datadream@zero_shot", "9", "6", "3", "0"] in facts["Outcomes"].rows
    assert ["clip low", "9", "datadream@cls", "dropped", "policy"] in facts["Why samples were lost"].rows
    assert ["datadream@cls/kept", "18", "3"] in [row[:3] for row in facts["Datasets"].rows]


def test_figures_that_were_not_measured_have_no_column(folder: DataFolder) -> None:
    table = quality_table({"cls": outputs(folder).json("datadream@cls", "metrics.json")})
    assert table is not None
    assert list(table.head) == ["images", "count", "KID", "CMMD", "precision"]
    assert table.rows[0] == ["cls, 4 shots, seed 0, generated", "9", "−0.0123", "1.5", "0.75"]
    assert "split/val by clip features" in table.note
    assert quality_table({"cls": {"shots04-seed0": {"images": 3}}}) is None


def test_the_teacher_on_generated_images_stands_next_to_real_ones(folder: DataFolder) -> None:
    recognised, models = recognition_table(outputs(folder)), model_table(outputs(folder))
    assert recognised is not None
    assert models is not None
    assert list(recognised.rows[0]) == ["all classes", "300", f"60.0{FIXED}%"]
    assert list(recognised.rows[3]) == ["eel", "100", f"70.0{FIXED}%"]
    assert recognised.note == (
        f"The teacher gets 60.0{FIXED}% of 300 generated images right and 80.0{FIXED}% of real test images: 75.0{FIXED}% of that."
    )
    assert ["clip", "clip", "64x64", "small", "cdcdcdcdcdcd"] in models.rows


def test_a_family_says_what_it_knows_and_which_classes_it_does_not(folder: DataFolder) -> None:
    assert knowledge(outputs(folder)) == []
    folder.write("generator/family.json", pretty_json({"classes": ["Cat", "dog"], "nouns": ["cat", "hound"]}))
    seal(folder.root / "generator", "generator")
    known, strange = knowledge(outputs(folder))
    assert known == "These generators know 2 things and show no other: cat and hound."
    assert strange.startswith("Not among them by name: eel. Asked for these they show one of their own")


# The page and the console


def test_a_job_of_datadream_alone_is_a_whole_page(folder: DataFolder) -> None:
    html = page(folder)
    assert [found["id"] for tag, found in tags(html) if tag == "section"] == [
        *("datadream", "datadream-images", "data", "images", "generator", "runs")
    ]
    assert "Not in this report" not in html
    assert "1 of 2 DataDream variants beats real images only" in html
    assert NOTE in html
    assert "/home/someone" not in html
    assert page(folder) == html


def test_both_parts_stand_on_one_page(tmp_path: Path) -> None:
    folder = dream_folder(DataFolder(tmp_path).everything())
    html = page(folder)
    sections = [found["id"] for tag, found in tags(html) if tag == "section"]
    assert sections == [*("distilled", "datadream", "datadream-images", "data", "views", "making", "generator", "runs")]
    text = printed(tmp_path)
    assert "Distilled images beat" in text
    assert "real + cls" in text


@pytest.mark.parametrize("only", ["generator", "zero_shot", "cls"])
def test_a_stage_alone_makes_a_page(tmp_path: Path, only: str) -> None:
    folder = DataFolder(tmp_path)
    if only == "generator":
        generator(folder)
    else:
        dreams(folder, only, quality=False)
    html = page(folder)
    tags(html)
    assert ('id="generator"' if only == "generator" else 'id="datadream-images"') in html
    assert "Nothing is proved yet" in html


def test_a_job_without_these_stages_is_told_nothing_of_them(tmp_path: Path) -> None:
    html = page(DataFolder(tmp_path).everything())
    assert "datadream" not in html.lower()
    assert "generator" not in html


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    folder = DataFolder(tmp_path, classes=[bad, "b", "c"])
    folder.split()
    few_shot(folder)
    dreams(folder, "cls")
    form = dream_metrics() | {"classes": [bad, bad, bad]}
    form["protocol"] |= {"note": bad, bad: bad}
    form["wins"][0]["sentence"] = bad
    form["shots_4"]["clip"][bad] = control(0.4)
    folder.write("evaluate/datadream/results.json", pretty_json(form))
    folder.finish("evaluate@datadream", 1, {})
    generator(folder)
    folder.write("generator/generator.json", pretty_json({bad: {"family": bad, "model": bad}}))
    html = page(folder)
    tags(html)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 8


def test_a_variant_that_appears_makes_the_report_again(folder: DataFolder) -> None:
    (folder.root / "datadream/loft/stage.json").unlink()
    assert run(folder) == 1
    assert run(folder) == 0
    dreams(folder, "loft")
    assert run(folder) == 1


def test_the_console_shows_controls_and_what_they_amount_to(folder: DataFolder) -> None:
    text = printed(folder.root)
    assert "real + cls" in text
    assert "75.0 ± 1.0" in text
    assert "+5.0 (+4.0 to +6.0)" in text
    assert "At 4 shots DataDream (cls) is not told apart from real images only" in text
    assert NOTE in text
    assert "not made yet: limbeck run report" in text
