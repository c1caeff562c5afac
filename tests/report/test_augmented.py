"""Augmented views in the report: the right pictures, boxes where the annotations say, and what was drawn by lot."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pipelines.report.blocks import BoxGrid
from pipelines.report.words import FIXED
from pipelines.stages import outputs_under
from pipelines.stages.augment.section import drawn, view_grids
from tests.report.folders import DataFolder
from tests.report.test_page import page, tags


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path)
    folder.split()
    folder.augment()
    return folder


def grid_of(folder: DataFolder) -> BoxGrid:
    (grid,) = view_grids(outputs_under(str(folder.root)))
    return grid


def test_originals_stand_before_their_views_in_key_order(folder: DataFolder) -> None:
    grid = grid_of(folder)
    outputs = outputs_under(str(folder.root))
    train, made = outputs.dataset("split", "train"), outputs.dataset("augment", "boxed")
    assert train is not None
    assert made is not None
    by_key = {sample.key: sample.member("png") for dataset in (train, made) for sample in dataset.samples()}
    parents = sorted(row["parents"][0] for row in made.rows(["parents"]).to_pylist()[::2])[:4]
    shown = [[base64.b64decode(one.picture.uri.partition(",")[2]) for one in row] for row in grid.rows]
    assert shown == [[by_key[key], by_key[f"{key}-a0000"], by_key[f"{key}-a0001"]] for key in parents]
    assert [one.title for one in grid.rows[0][1:]] == ["view 0", "view 1"]


def test_boxes_of_views_are_their_annotations_and_of_originals_the_foreground(folder: DataFolder) -> None:
    original, first, second = grid_of(folder).rows[0]
    assert list(first.boxes) == [(4, 5, 20, 10.5)]
    assert list(second.boxes) == [(5, 5, 20, 10.5)]
    assert list(original.boxes) == [(0, 0, 32, 32)]  # noise is bright everywhere
    html = page(folder)
    boxes = [found for tag, found in tags(html) if tag == "rect" and found.get("class") == "box"]
    assert len(boxes) == 12
    assert {"x": "5.0", "y": "5.0", "width": "20.0", "height": "10.5"}.items() <= boxes[2].items()


def test_what_acted_on_a_view_stands_under_it_in_the_policys_order(folder: DataFolder) -> None:
    original, first, second = grid_of(folder).rows[0]
    assert (original.drawn, first.drawn) == ([], [("horizontal_flip", "")])
    # The order is the policy's, not the alphabet's.
    assert second.drawn == [("rotate", f"degrees{FIXED}−3.25"), ("horizontal_flip", "")]


def test_every_value_is_shown_and_no_seed() -> None:
    views = [{"b": {"x": 0.12345, "order": [0, 2]}, "a": {"seed": 7}}, {"b": {"x": -2.0}}, None, {"b": 3}]
    assert drawn(views, {"b": 0, "a": 1}) == [
        [("b", f"x{FIXED}0.123, order{FIXED}0{FIXED}2"), ("a", "")],
        [("b", f"x{FIXED}−2")],
        [],
        [("b", "")],
    ]


def test_the_summary_counts_boxes_that_came_along_and_those_that_did_not(folder: DataFolder) -> None:
    summary = grid_of(folder).summary
    assert "2 each of 6 images" in summary
    assert "12 boxes came along" in summary
    assert "3 left out crowd" in summary


def test_a_job_without_views_is_told_nothing_of_them(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.ingest()
    html = page(folder)
    assert 'id="views"' not in html
    assert "limbeck run augment" not in html


def test_views_of_a_source_that_is_gone_are_shown_without_originals(folder: DataFolder) -> None:
    (folder.root / "split/stage.json").unlink()
    assert [one.title for one in grid_of(folder).rows[0]] == ["view 0", "view 1"]


def test_damaged_records_are_shown_as_far_as_they_go(folder: DataFolder) -> None:
    folder.augment(policy=["no_such_operation"])
    assert [name for name, _ in grid_of(folder).rows[0][2].drawn] == ["horizontal_flip", "rotate"]
