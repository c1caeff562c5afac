"""Labels: a number is an index, text is a name, names belong to the file that states them; no label is ever guessed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import StageStopped, UserError
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.sources import ParquetParams, TarParams, open_source
from pipelines.sources.labels import MOST_UNNAMED, Label, Names, label_from
from tests.faults.making import fates, lay, png, rows, run_ingest
from tests.sources.test_tar import write_tar


def parquet(path: Path, labels: Any, names: list[str] | None = None, start: int = 0) -> Path:
    """A table of pictures `start`, `start + 1`, ... with these labels; `names` as a Hugging Face ClassLabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [png(start + place) for place in range(len(labels))], "label": labels})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    pq.write_table(table, path)
    return path


def table(path: Path, **params: Any) -> dict[str, Any]:
    return {"type": "parquet", "path": str(path), "image_column": "image", "label_column": "label", **params}


def labelled_tar(path: Path, *labels: bytes, start: int = 0, ext: str = "cls") -> Path:
    members = []
    for place, label in enumerate(labels):
        members += [(f"{place}.png", png(start + place)), (f"{place}.{ext}", label)]
    return write_tar(path, *members)


# The rule -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "member", "said"),
    [
        (None, False, (None, None)),
        (-1, False, (None, None)),
        (-1.0, False, (None, None)),
        (float("nan"), False, (None, None)),
        ("-1", True, (None, None)),
        (1, False, (1, "2")),
        (1.0, False, (1, "2")),
        ("1", True, (1, "2")),
        (" 1\n", True, (1, "2")),
        ("+1", True, (1, "2")),
        ("2", False, (1, "2")),
        ("10", False, (0, "10")),
        (" x ", False, (2, " x ")),
        ("true", False, (3, "true")),
        ("1.0", True, (4, "1.0")),
        ("", False, (5, "")),
    ],
)
def test_numbers_are_indices_and_text_is_a_name(value: object, member: bool, said: tuple[Any, Any]) -> None:
    names = Names(["10", "2", " x ", "true", "1.0", ""])
    assert label_from(value, names, member) == Label(*said)


@pytest.mark.parametrize(
    ("value", "member"),
    [
        (True, False),
        (False, False),
        (0.5, False),
        (float("inf"), False),
        (-2, False),
        (3, False),
        (3_000_000_000, False),
        (10**400, False),
        ("1", False),  # text is a name, and no class is called so
        ("3", True),
        ("nobody", False),
        ("9" * 400, True),
        ("\u0661", True),  # a digit, but nobody's index
        ([0], False),
        ({"id": 0}, False),
        (b"0", False),
        ("\ud800", False),
    ],
)
def test_what_is_neither_is_a_bad_label_with_a_reason_that_any_file_can_hold(value: object, member: bool) -> None:
    problem = label_from(value, Names(["a", "b", "c"]), member).problem
    assert problem is not None
    assert (problem.status, problem.reason, problem.error_class) == ("failed", "bad_label", "permanent")
    assert problem.detail.isascii()
    assert 0 < len(problem.detail) < 300


@pytest.mark.parametrize("value", ["", " ", "1.5", "nan", "-inf", "1e3", "\ud800"])
def test_a_cls_without_stated_names_is_a_number_or_a_name(value: str) -> None:
    assert label_from(value, Names(), member=True).problem is not None
    assert label_from(f"{value}x" if value.isascii() else "x", Names(), member=True).problem is None


def test_an_index_without_names_ends_at_a_million() -> None:
    assert label_from(MOST_UNNAMED - 1, Names()).index == MOST_UNNAMED - 1
    assert label_from(MOST_UNNAMED, Names()).problem is not None


# Our own dataset again -------------------------------------------------------------

NAMES = {
    "numerals": ["10", "2", "1", "0", "11"],
    "each other's indices": ["2", "0", "1"],
    "numbers of other kinds": ["1.0", "-1", "1e3", "nan", "inf", "+1", "007", "0x1"],
    "words of JSON and YAML": ["true", "null", "None", "no", "~", "[]", '{"a": 1}', '"quoted"'],
    "spaces": ["a", " a", "a ", "a b", "\ta", "a\n"],
    "emptyish": [" ", "  ", "\u00a0", "\u200b", "."],
    "unicode": ["caf\u00e9", "cafe\u0301", "\u732b", "\U0001f431", "\u0661", "\u202eabc"],
    "one": ["only"],
    "a thousand": [f"class {number}" for number in range(1000)],
    "a thousand numerals": [str(999 - number) for number in range(1000)],
}


@pytest.fixture(params=list(NAMES))
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A dataset of ours whose classes have these names, one picture each (and one without a label)."""
    names = NAMES[request.param]
    labels = pa.array([*range(len(names)), -1], pa.int64())
    dataset = run_ingest(tmp_path / "first", table(parquet(tmp_path / "t.parquet", labels, names)), shard_samples=400)
    assert Dataset.open(dataset).classes == names
    assert [name for _, name in rows(dataset, "source", "label_name")].count(None) == 1
    return dataset


def said(dataset: Path) -> set[tuple[str, int | None, str | None]]:
    """What is said of every picture, known by its pixels: stored again it has other bytes."""
    return {(row["pixel_sha256"], row["label"], row["label_name"]) for row in Dataset.open(dataset).rows().to_pylist()}


def test_a_dataset_of_ours_ingested_again_has_the_same_labels(ours: Path, tmp_path: Path) -> None:
    for number, path in enumerate((ours / "shards", ours)):
        again = run_ingest(tmp_path / f"again{number}", {"type": "tar", "path": str(path)})
        assert Dataset.open(again).classes == Dataset.open(ours).classes
        assert said(again) == said(ours)
    assert lint(str(again)).ok


def test_without_their_classes_json_our_tars_still_name_their_classes(ours: Path, tmp_path: Path) -> None:
    shutil.copytree(ours / "shards", tmp_path / "moved")
    again = run_ingest(tmp_path / "again", {"type": "tar", "path": str(tmp_path / "moved")})
    assert {(look, name) for look, _, name in said(again)} == {(look, name) for look, _, name in said(ours)}


def test_one_tar_of_ours_is_named_by_the_dataset_it_lies_in(tmp_path: Path) -> None:
    source = table(parquet(tmp_path / "t.parquet", ["b", "a", "2"], None))
    ours = run_ingest(tmp_path / "first", source)
    (tar,) = (ours / "shards").glob("*.tar")
    assert said(run_ingest(tmp_path / "again", {"type": "tar", "path": str(tar)})) == said(ours)


# Numbers without names --------------------------------------------------------------


def unnamed(tmp_path: Path, kind: str) -> dict[str, Any]:
    if kind == "cls":
        return {"type": "tar", "path": str(labelled_tar(tmp_path / "t.tar", b"0", b"2", b"1"))}
    if kind == "json":
        tar = labelled_tar(tmp_path / "t.tar", b'{"label": 0}', b'{"label": 2}', b'{"label": 1.0}', ext="json")
        return {"type": "tar", "path": str(tar)}
    if kind == "idx":
        pixels = bytes(range(3 * 8 * 8))
        images = struct.pack(">HBBIII", 0, 8, 3, 3, 8, 8) + pixels
        lay(tmp_path / "in", {"i": images, "l": struct.pack(">HBBI", 0, 8, 1, 3) + bytes([0, 2, 1])})
        return {"type": "idx", "path": str(tmp_path / "in"), "images": "i", "labels": "l"}
    if kind == "jsonl":
        lines = "\n".join(json.dumps({"file_name": f"{n}.png", "label": label}) for n, label in enumerate((0, 2, 1)))
        lay(tmp_path / "f", {f"{number}.png": png(number) for number in range(3)} | {"metadata.jsonl": lines.encode()})
        return {"type": "folder", "path": str(tmp_path / "f"), "layout": "flat"}
    return table(parquet(tmp_path / "t.parquet", [0.0, 2.0, 1.0] if kind == "float" else pa.array([0, 2, 1], kind)))


@pytest.mark.parametrize("kind", ["cls", "json", "idx", "jsonl", "int64", "uint8", "float"])
def test_numbers_without_names_are_their_own_names_and_that_is_said(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = run_ingest(tmp_path / "data", unnamed(tmp_path, kind))
    assert Dataset.open(dataset).classes == ["0", "1", "2"]
    assert [name for (name,) in rows(dataset, "label_name")] == ["0", "2", "1"]
    assert "no names are stated: the classes are called '0'..'2'" in caplog.text
    assert lint(str(dataset)).ok


def test_numbers_of_two_unnamed_sources_mean_the_same_classes(tmp_path: Path) -> None:
    first = {"type": "tar", "path": str(labelled_tar(tmp_path / "a.tar", b"0", b"1")), "split": "train"}
    second = table(parquet(tmp_path / "t.parquet", [1, 3], start=9), split="test")
    dataset = run_ingest(tmp_path / "data", first, second)
    assert Dataset.open(dataset).classes == ["0", "1", "2", "3"]
    assert list(fates(dataset).values()).count("1") == 2


@pytest.mark.parametrize("flip", [False, True])
def test_numbers_beside_named_classes_are_refused_before_any_work(tmp_path: Path, flip: bool) -> None:
    named = table(parquet(tmp_path / "named.parquet", ["cat", "dog"]))
    numbers = {"type": "tar", "path": str(labelled_tar(tmp_path / "a.tar", b"0", b"1", start=5))}
    sources = [numbers, named] if flip else [named, numbers]
    where = rf"ingest\.sources\[{0 if flip else 1}\]\.classes"
    with pytest.raises(UserError, match=rf"a\.tar::0\.png .* has the label 0 and no names say .*{where}"):
        run_ingest(tmp_path / "data", *sources)
    assert not (tmp_path / "data/ingest").exists()
    told = numbers | {"classes": ["dog", "bird"]}
    dataset = run_ingest(tmp_path / "data", *([told, named] if flip else [named, told]))
    assert sorted(fates(dataset).values()) == ["bird", "cat", "dog", "dog"]


def test_absurd_numbers_are_rows_and_no_list_of_names(tmp_path: Path) -> None:
    tar = labelled_tar(tmp_path / "a.tar", b"0", b"3000000000", b"1", b"-7")
    dataset = run_ingest(tmp_path / "data", {"type": "tar", "path": str(tar)})
    assert Dataset.open(dataset).classes == ["0", "1"]
    assert sorted(fates(dataset).values()) == ["!bad_label", "!bad_label", "0", "1"]


def test_a_word_among_numbers_is_a_row(tmp_path: Path) -> None:
    tar = labelled_tar(tmp_path / "a.tar", b"0", b"dog", b"1")
    dataset = run_ingest(tmp_path / "data", {"type": "tar", "path": str(tar)})
    assert list(fates(dataset).values()).count("!bad_label") == 1
    assert Dataset.open(dataset).classes == ["0", "1"]
    words = labelled_tar(tmp_path / "b.tar", b"cat", b"dog", b"dog", b"1")
    with pytest.raises(StageStopped, match=r"bad_label 3"):
        run_ingest(tmp_path / "more", {"type": "tar", "path": str(words)}, breaker=0.5)


def test_words_alone_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    tar = labelled_tar(tmp_path / "a.tar", b"dog\n", b"cat", b"dog")
    dataset = run_ingest(tmp_path / "data", {"type": "tar", "path": str(tar)})
    assert Dataset.open(dataset).classes == ["cat", "dog"]
    assert list(rows(dataset, "label_name")) == [("dog",), ("cat",), ("dog",)]


# Names belong to the file or folder that states them -----------------------------------


def test_every_parquet_file_has_its_own_class_names(tmp_path: Path) -> None:
    parquet(tmp_path / "in/a.parquet", [0, 1], ["cat", "dog"])
    parquet(tmp_path / "in/b.parquet", [0, 1, 2], ["dog", "bird", "cat"], start=5)
    dataset = run_ingest(tmp_path / "data", table(tmp_path / "in"))
    assert Dataset.open(dataset).classes == ["cat", "dog", "bird"]
    assert fates(dataset) == {
        "a.parquet#0": "cat",
        "a.parquet#1": "dog",
        "b.parquet#0": "dog",
        "b.parquet#1": "bird",
        "b.parquet#2": "cat",
    }


def test_the_nearest_classes_json_names_the_labels_of_a_tar(tmp_path: Path) -> None:
    for number, (folder, names) in enumerate(
        {"": ["a", "b"], "x/": ["b", "a"], "x/y/": None, "z/": ["c", "a"]}.items()
    ):
        labelled_tar(tmp_path / f"in/{folder}t.tar", b"0", b"1", start=10 * number)
        if names:
            (tmp_path / f"in/{folder}classes.json").write_text(json.dumps(names))
    source = {"type": "tar", "path": str(tmp_path / "in")}
    assert fates(run_ingest(tmp_path / "data", source)) == {
        "t.tar::0.png": "a",
        "t.tar::1.png": "b",
        "x/t.tar::0.png": "b",
        "x/t.tar::1.png": "a",
        "x/y/t.tar::0.png": "b",
        "x/y/t.tar::1.png": "a",
        "z/t.tar::0.png": "c",
        "z/t.tar::1.png": "a",
    }
    given = run_ingest(tmp_path / "given", source | {"classes": ["p", "q"]})
    assert set(fates(given).values()) == {"p", "q"}


def test_a_file_without_names_beside_one_with_names_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "in/a.parquet", [0, 1], ["cat", "dog"])
    parquet(tmp_path / "in/b.parquet", [0, 1], start=5)
    with pytest.raises(UserError, match=r"b\.parquet#0 .* no names say which class that is"):
        run_ingest(tmp_path / "data", table(tmp_path / "in"))


@pytest.mark.parametrize("text", ["{}", '"cat"', '["a", 1]', "[", "[" * 100_000, '["a", "a"]', '["\\ud800"]'])
def test_a_classes_json_that_is_no_list_of_names_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    labelled_tar(tmp_path / "t.tar", b"0")
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UserError, match=r"classes\.json .* or give `classes`"):
        list(open_source(TarParams(path=str(tmp_path))).scan())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("annexed")])
def test_a_classes_json_that_is_no_file_is_named_and_never_waited_for(tmp_path: Path, make: Any) -> None:
    """A folder was told as damage of the tar, a pipe stopped the stage for ever, a link to nothing was passed over."""
    labelled_tar(tmp_path / "t.tar", b"0")
    make(tmp_path / "classes.json")
    with pytest.raises(UserError, match=r"classes\.json cannot be read .* or give `classes`"):
        list(open_source(TarParams(path=str(tmp_path))).scan())


@pytest.mark.parametrize("names", [["cat", "\ud800"], ["cat", "cat"], ["cat", None], {"0": "cat"}])
def test_class_names_of_a_table_that_are_none_are_refused_with_its_name(tmp_path: Path, names: Any) -> None:
    parquet(tmp_path / "a.parquet", [0, 1], ["cat", "dog"])
    parquet(tmp_path / "b.parquet", [0, 1], names)
    with pytest.raises(UserError, match=r"1 of 2 tables .* b\.parquet: what its metadata says of 'label'"):
        list(open_source(ParquetParams(**table(tmp_path))).scan())


def test_class_names_of_a_table_may_be_numbers(tmp_path: Path) -> None:
    parquet(tmp_path / "in/a.parquet", [1, 0], [2019, 2020])  # type: ignore[list-item]
    assert fates(run_ingest(tmp_path / "data", table(tmp_path / "in"))) == {
        "a.parquet#0": "2020",
        "a.parquet#1": "2019",
    }


def test_decimals_are_numbers(tmp_path: Path) -> None:
    """What databases write for a column of whole numbers."""
    cells = pa.array([Decimal("1.00"), Decimal("0.00"), Decimal("0.50"), None], pa.decimal128(10, 2))
    parquet(tmp_path / "in/a.parquet", cells, ["cat", "dog"])
    said = fates(run_ingest(tmp_path / "data", table(tmp_path / "in")))
    assert [said[f"a.parquet#{row}"] for row in range(4)] == ["dog", "cat", "!bad_label", ""]


def test_the_mark_that_windows_writes_first_is_no_part_of_a_label(tmp_path: Path) -> None:
    labelled_tar(tmp_path / "in/t.tar", b"\xef\xbb\xbf1", b"0\r\n", b"\xef\xbb\xbfdog")
    said = fates(
        run_ingest(tmp_path / "data", {"type": "tar", "path": str(tmp_path / "in"), "classes": ["cat", "dog"]})
    )
    assert [said[f"t.tar::{place}.png"] for place in range(3)] == ["dog", "cat", "dog"]


def test_a_classes_json_of_the_folder_above_counts_for_shards_alone(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    for folder, name in (("shards", "dog"), ("other", None)):
        labelled_tar(tmp_path / folder / "t.tar", b"1")
        (record,) = open_source(TarParams(path=str(tmp_path / folder))).scan()
        assert record.label_name == name


def test_boxes_are_numbered_in_the_merged_classes(tmp_path: Path) -> None:
    """COCO ids count from 1, in the classes of the whole set, whatever they were called before."""
    box = {"bbox": [1, 1, 4, 4], "category_name": "dog", "category_id": 7}
    members = ("0.png", png(0)), ("0.cls", b"0"), ("0.json", json.dumps({"annotations": [box]}).encode())
    source = {"type": "tar", "path": str(write_tar(tmp_path / "a.tar", *members)), "classes": ["dog"]}
    first = table(parquet(tmp_path / "t.parquet", ["cat", "eel"], start=5))
    dataset = Dataset.open(run_ingest(tmp_path / "data", first, source))
    (document,) = [json.loads(s.member("json") or b"") for s in dataset.samples() if "tar" in s.row["source"]]
    assert document["annotations"][0]["category_id"] == dataset.classes.index("dog") + 1 == 3
