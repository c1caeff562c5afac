"""Folders as they are met: names, links, litter, captions, tables, splits taken for classes; nothing hangs, nothing is lost."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StageStopped, UserError
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.sources import FolderParams, open_source
from pipelines.sources.base import Record
from pipelines.sources.folder_splits import SPLITS
from tests.faults.making import fates, lay, png, rows, run_ingest


def folder(path: Path, **params: Any) -> dict[str, Any]:
    return {"type": "folder", "path": str(path), **params}


def scan(path: Path, **params: Any) -> list[Record]:
    return list(open_source(FolderParams(path=str(path), **params)).scan())


def captions(path: Path, **params: Any) -> dict[str, str | None]:
    return {record.source: record.caption for record in scan(path, **params)}


# Names --------------------------------------------------------------------------


def test_names_of_any_bytes_are_read_and_told_apart(tmp_path: Path) -> None:
    lay(
        tmp_path / "in",
        {"cat/a\nb.png": png(0), "cat/10:20.png": png(1), "cat/[red]\\x.png": png(2), "cat/-rf": png(3)},
    )
    for number, name in enumerate((b"cat/caf\xe9.png", b"cat/caf\xea.png", b"d\xff/x.png"), 4):
        path = tmp_path / "in" / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(number))
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in"))
    assert fates(dataset) == {
        "cat/a\nb.png": "cat",
        "cat/10:20.png": "cat",
        "cat/[red]\\x.png": "cat",
        "cat/-rf": "cat",
        "cat/caf\\xe9.png": "cat",
        "cat/caf\\xea.png": "cat",
        "d\\xff/x.png": "d\\xff",
    }
    assert lint(str(dataset)).ok


def test_a_path_longer_than_the_system_opens_is_a_row(tmp_path: Path) -> None:
    lay(tmp_path / "in", {"cat/a.png": png(0)})
    here = os.open(tmp_path / "in/cat", os.O_RDONLY)
    for _ in range(22):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("deep.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    found = [record.problem and (record.problem.reason, record.problem.detail) for record in scan(tmp_path / "in")]
    assert found == [None, ("unreadable", "File name too long")]


# Links, pipes, permissions --------------------------------------------------------


def test_links_in_circles_and_to_nothing_are_rows_and_pipes_are_never_opened(tmp_path: Path) -> None:
    lay(tmp_path / "in", {"cat/a.png": png(0)})
    (tmp_path / "in/cat/self.png").symlink_to("self.png")
    (tmp_path / "in/cat/one.png").symlink_to("two.png")
    (tmp_path / "in/cat/two.png").symlink_to("one.png")
    (tmp_path / "in/cat/nothing.png").symlink_to("gone.png")
    os.mkfifo(tmp_path / "in/cat/pipe.png")
    (tmp_path / "in/cat/zero.png").symlink_to("/dev/zero")
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in", follow_links=True))
    assert fates(dataset) == {
        "cat/a.png": "cat",
        "cat/self.png": "!unreadable",
        "cat/one.png": "!unreadable",
        "cat/two.png": "!unreadable",
        "cat/nothing.png": "!missing_file",
    }
    assert len({key for (key,) in rows(dataset, "key")}) == 5
    assert lint(str(dataset)).ok


def test_a_pipe_put_in_the_place_of_a_picture_is_not_waited_for(tmp_path: Path) -> None:
    lay(tmp_path, {"a.png": png(0)})
    source = open_source(FolderParams(path=str(tmp_path), layout="flat"))
    record = next(iter(source.scan()))
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="Invalid argument"):
        source.read(record)


def test_a_maze_of_links_ends(tmp_path: Path) -> None:
    """Twelve folders, each with two links to the next: 4 096 ways to the one picture."""
    for level in range(12):
        (tmp_path / f"in/{level:02d}").mkdir(parents=True)
        for name in "ab":
            (tmp_path / f"in/{level:02d}/{name}").symlink_to(f"../{level + 1:02d}")
    lay(tmp_path / "in", {"12/x.png": png(0)})
    assert len(scan(tmp_path / "in", follow_links=True)) < 64


def test_a_folder_of_links_is_told_with_the_parameter_and_read_with_it(tmp_path: Path) -> None:
    lay(tmp_path / "store", {f"{name}/{number}.png": png(number) for number, name in enumerate(("cat", "dog"))})
    (tmp_path / "subset").mkdir()
    (tmp_path / "annex/cat").mkdir(parents=True)
    (tmp_path / "annex/cat/0.png").symlink_to(tmp_path / "store/cat/0.png")
    for name in ("cat", "dog"):
        (tmp_path / "subset" / name).symlink_to(tmp_path / "store" / name)
    for place in ("subset", "annex"):
        with pytest.raises(UserError, match=rf"no images in .*{place}: \d link_not_followed; follow_links: true"):
            scan(tmp_path / place)
    assert fates(run_ingest(tmp_path / "data", folder(tmp_path / "subset", follow_links=True))) == {
        "cat/0.png": "cat",
        "dog/1.png": "dog",
    }
    assert [record.label_name for record in scan(tmp_path / "annex", follow_links=True)] == ["cat"]


def test_what_may_not_be_read_is_a_row_and_hides_nothing_else(tmp_path: Path) -> None:
    """As another user, since root may read everything."""
    lay(tmp_path / "in", {"cat/a.png": png(0), "cat/locked.png": png(1), "dog/b.png": png(2), "shut/c.png": png(3)})
    (tmp_path / "in/cat/locked.png").chmod(0)
    (tmp_path / "in/shut").chmod(0)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    program = (
        "import os, sys\n"
        "from pipelines.sources import FolderParams, open_source\n"
        "source = open_source(FolderParams(path=sys.argv[1]))\n"
        "os.getuid() or os.setuid(65534)\n"
        "print([(r.source, r.problem and (r.problem.reason, r.problem.error_class)) for r in source.scan()])\n"
    )
    told = subprocess.run([sys.executable, "-c", program, str(tmp_path / "in")], capture_output=True, text=True)
    (tmp_path / "in/shut").chmod(0o755)
    assert told.stdout.strip() == repr(
        [
            ("cat/a.png", None),
            ("cat/locked.png", ("unreadable", "permanent")),
            ("dog/b.png", None),
            ("shut/", ("unreadable", "permanent")),
        ]
    ), told.stderr


def test_a_picture_that_goes_away_between_scan_and_read_is_a_row(tmp_path: Path) -> None:
    lay(tmp_path, {"a.png": png(0)})
    source = open_source(FolderParams(path=str(tmp_path), layout="flat"))
    record = next(iter(source.scan()))
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError):
        source.read(record)


# Splits, classes, litter ------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), ["test", "train", "val"]),
        (("training", "validation", "testing"), ["test", "train", "val"]),
        (("Train", "dev"), ["train", "val"]),
        (("TRAIN", "eval"), ["train", "val"]),
        (("train",), ["train"]),
    ],
)
def test_folders_called_like_splits_are_read_as_splits_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...], splits: list[str]
) -> None:
    lay(tmp_path, {f"{name}/{kind}/{name}.png": png(0) for name in names for kind in ("cat", "dog")})
    with caplog.at_level(logging.WARNING):
        records = scan(tmp_path)
    assert sorted({record.split or "" for record in records}) == splits
    assert {record.label_name for record in records} == {"cat", "dog"}
    assert f"read as splits {', '.join(dict.fromkeys(SPLITS[name.lower()] for name in sorted(names)))}" in caplog.text
    assert "layout: class says that they are classes" in caplog.text
    assert records == scan(tmp_path, layout="split_class")


def test_a_split_can_be_picked_of_a_folder_of_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path, {f"{name}/{kind}/{name}.png": png(0) for name in ("train", "test") for kind in ("cat", "dog")})
    with caplog.at_level(logging.WARNING):
        assert {record.split for record in scan(tmp_path, split="test")} == {"test"}
    assert "of which test is taken" in caplog.text


def test_whoever_says_so_has_classes_called_like_splits(tmp_path: Path) -> None:
    lay(tmp_path, {f"{name}/{kind}/{name}.png": png(0) for name in ("train", "test") for kind in ("cat", "dog")})
    for said in ({"layout": "class"}, {"classes": ["test", "train"]}):
        assert {record.label_name for record in scan(tmp_path, **said)} == {"test", "train"}


@pytest.mark.parametrize("names", [("train", "test", "extra"), ("cat", "dog", "test")])
def test_splits_beside_other_folders_are_refused_until_they_are_said(tmp_path: Path, names: tuple[str, ...]) -> None:
    lay(tmp_path, {f"{name}/{kind}/x.png": png(0) for name in names for kind in ("cat", "dog")})
    with pytest.raises(UserError, match=r"called like splits .* beside others .*layout: class if each is a class"):
        scan(tmp_path)
    assert {record.label_name for record in scan(tmp_path, layout="class")} == set(names)


def test_a_class_that_is_called_like_a_split_stays_one_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay(
        tmp_path, {f"{name}/{kind}/{name}.png": png(0) for name in ("bus", "car", "train") for kind in ("day", "night")}
    )
    with caplog.at_level(logging.WARNING):
        assert {record.label_name for record in scan(tmp_path)} == {"bus", "car", "train"}
    assert "classes called like splits: train; see layout: split_class" in caplog.text


def test_splits_that_hold_one_folder_of_images_are_no_classes(tmp_path: Path) -> None:
    lay(tmp_path, {f"{name}/images/{name}.png": png(0) for name in ("train", "valid")})
    with pytest.raises(
        UserError, match="each has one folder, images, which makes one class: set layout: split_class if"
    ):
        scan(tmp_path)
    assert {record.label_name for record in scan(tmp_path, layout="split_class")} == {"images"}


def test_a_split_without_class_folders_beside_one_that_has_them_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"train/cat/1.png": png(0), "train/dog/2.png": png(1), "test/3.png": png(2)})
    with pytest.raises(UserError, match="which are splits and not classes; set layout: split_class"):
        scan(tmp_path)


def test_a_lone_folder_of_pictures_called_train_asks_for_a_flat_layout(tmp_path: Path) -> None:
    lay(tmp_path, {"train/0.png": png(0)})
    with pytest.raises(UserError, match="set layout: flat and one source per split, such as train"):
        scan(tmp_path)


def test_a_folder_without_a_picture_is_no_class_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path / "in", {"cat/a.png": png(0), "notes/readme.txt": b"x", "@eaDir/a.png": png(1), "zebra/b.png": png(2)})
    with caplog.at_level(logging.WARNING):
        dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in"))
    assert Dataset.open(dataset).classes == ["cat", "zebra"]
    assert "folders without an image are no classes: 'notes'" in caplog.text


def test_classes_that_look_alike_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path, {"cat/a.png": png(0), "Cat/b.png": png(1), "caf\u00e9/c.png": png(2), "cafe\u0301/d.png": png(3)})
    with caplog.at_level(logging.WARNING):
        assert len(open_source(FolderParams(path=str(tmp_path))).classes()) == 4
    assert "differ by case, spaces or form only: 'Cat', 'cat', 'cafe\\u0301', 'caf\\xe9'" in caplog.text


@pytest.mark.parametrize("path", ["*.png", "x-{000..002}", "in/[ab]"])
def test_patterns_are_refused_in_a_sentence(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match="a pattern names files, not folders"):
        scan(tmp_path / path)


def test_a_folder_whose_name_is_a_pattern_is_a_folder(tmp_path: Path) -> None:
    lay(tmp_path / "[2024] {a}*", {"cat/a.png": png(0)})
    assert len(scan(tmp_path / "[2024] {a}*")) == 1


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lay(tmp_path / "photos", {"cat/a.png": png(0)})
    assert len(list(open_source(FolderParams(path="~/photos")).scan())) == 1


# What stands beside pictures ----------------------------------------------------------


def test_texts_beside_pictures_are_captions(tmp_path: Path) -> None:
    files = {f"{name}.png": png(number) for number, name in enumerate("abcdef")}
    texts = {"a.txt": b"a photo\n", "b.png.txt": b"\xef\xbb\xbfwith a mark", "c.txt": b"caf\xe9", "d.txt": b" \n"}
    boxes = {"e.txt": b"0 0.5 0.5 0.25 0.25\n14 0.1 0.1 0.2 0.2\n", "alone.txt": b"x"}
    lay(tmp_path, {f"girl/{name}": data for name, data in (files | texts | boxes).items()})
    source = open_source(FolderParams(path=str(tmp_path)))
    found = list(source.scan())
    assert [record.caption for record in found] == ["a photo", "with a mark", None, None, None, None]
    assert [record.problem and record.problem.reason for record in found] == [
        None,
        None,
        "bad_caption",
        None,
        None,
        None,
    ]
    assert source.passed_over() == {"no_image_ending": 1, "box_text": 1}


def jsonl(*lines: Any) -> bytes:
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()


def test_metadata_gives_captions_labels_and_boxes(tmp_path: Path) -> None:
    table = jsonl(
        {"file_name": "a.png", "text": "a cat", "label": "cat"},
        {
            "file_name": "sub/b.png",
            "text": "a dog",
            "label": "dog",
            "objects": {"bbox": [[1, 2, 3, 4]], "categories": [1]},
        },
        {"file_name": "c.png", "label": None},
    )
    lay(
        tmp_path / "in",
        {"a.png": png(0), "sub/b.png": png(1), "c.png": png(2), "d.png": png(3), "metadata.jsonl": table},
    )
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in", layout="flat"))
    assert fates(dataset) == {"a.png": "cat", "sub/b.png": "dog", "c.png": "", "d.png": ""}
    found = {
        sample.row["source"]: json.loads(sample.member("json") or b"") for sample in Dataset.open(dataset).samples()
    }
    assert (found["a.png"]["caption"], found["sub/b.png"]["caption"]) == ("a cat", "a dog")
    assert [(box["bbox"], box["category_id"]) for box in found["sub/b.png"]["annotations"]] == [([1, 2, 3, 4], 2)]


def test_every_bad_line_of_a_table_is_a_row_and_names_its_place(tmp_path: Path) -> None:
    table = jsonl(
        {"file_name": "a.png", "label": 7},
        '{"file_name": "b.png", "label": NaN}',
        {"file_name": "../c.png"},
        {"file_name": "gone.png"},
        {"file_name": "a.png"},
        {"text": "of no file"},
        "not json",
        {"file_name": "b.png", "text": ["two", "captions"]},
    )
    lay(tmp_path / "in", {"a.png": png(0), "b.png": png(1), "c.png": png(2), "metadata.jsonl": table})
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in", layout="flat", classes=["cat", "dog"]))
    assert fates(dataset) == {
        "a.png": "!bad_label",
        "b.png": "!bad_caption",
        "c.png": "",
        "metadata.jsonl#2": "!bad_json",
        "metadata.jsonl#3": "!bad_path",
        "metadata.jsonl#4": "!missing_file",
        "metadata.jsonl#5": "!bad_metadata",
        "metadata.jsonl#6": "!bad_metadata",
        "metadata.jsonl#7": "!bad_json",
    }


@pytest.mark.parametrize(
    ("cells", "classes", "named"),
    [
        (("cat", "dog"), None, ["cat", "dog"]),
        (("0", "1"), ["zero", "one"], ["zero", "one"]),
        (("0", "1"), ["1", "0"], ["1", "0"]),  # numbers are indices, whatever the names look like
        (("0", "one"), ["0", "one"], ["0", "one"]),  # not all are numbers, so all are names
        (("", "one"), ["0", "one"], ["", "one"]),
        (("0.0", "1.0"), ["zero", "one"], ["zero", "one"]),  # as pandas writes numbers where another cell is empty
        (("nan", "1"), ["zero", "one"], ["", "one"]),
        (("nan", "one"), ["one", "nan"], ["nan", "one"]),  # a name among names
        (("0.5", "1.0"), ["0.5", "1.0"], ["0.5", "1.0"]),
    ],
)
def test_a_named_csv_labels_files(tmp_path: Path, cells: Any, classes: Any, named: list[str]) -> None:
    table = "id,kind\r\n" + "".join(f"{name}.png,{cell}\r\n" for name, cell in zip("ab", cells, strict=True))
    lay(tmp_path / "in", {"a.png": png(0), "b.png": png(1), "labels.csv": table.encode()})
    source = folder(tmp_path / "in", layout="flat", table="labels.csv", file_column="id", label_column="kind")
    dataset = run_ingest(tmp_path / "data", source | ({"classes": classes} if classes else {}))
    assert fates(dataset) == {"a.png": named[0], "b.png": named[1]}


def test_a_bad_line_of_a_csv_costs_no_other_line_its_label(tmp_path: Path) -> None:
    """A cell above csv's limit ended the table, and an open quote made a caption of all lines after it."""
    table = b"file_name,label,text\n0.png,cat," + b"x" * 200_000 + b'\n1.png,dog,a\n2.png,cat,"open\n3.png,dog,b\n'
    lay(tmp_path / "in", {f"{place}.png": png(place) for place in range(4)} | {"metadata.csv": table})
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in", layout="flat"))
    assert fates(dataset) == {
        "0.png": "",
        "1.png": "dog",
        "2.png": "",
        "3.png": "",
        "metadata.csv#1": "!bad_metadata",
        "metadata.csv#3": "!bad_metadata",
    }


def test_a_table_nobody_named_is_said_with_the_parameters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path, {"cat/0.png": png(0), "labels.csv": b"file,label\n0.png,cat\n"})
    with caplog.at_level(logging.WARNING):
        scan(tmp_path)
    assert "labels.csv not read; `table`, `file_column` and `label_column` name a table of labels" in caplog.text


def test_a_table_that_fits_nothing_is_refused_in_a_sentence(tmp_path: Path) -> None:
    lay(tmp_path, {"images/0.png": png(0), "labels.csv": b"file,label\n0.png,cat\n", "metadata.csv": b""})
    with pytest.raises(UserError, match=r"metadata\.csv in .* names no file that is there \(it is empty\)"):
        scan(tmp_path)
    with pytest.raises(UserError, match=r"no column 'file_name' \(it has file, label\); name the column"):
        scan(tmp_path, table="labels.csv")
    with pytest.raises(UserError, match=r"names no file that is there \(labels\.csv#2: there is no file '0\.png'"):
        scan(tmp_path, table="labels.csv", file_column="file")
    (tmp_path / "labels.csv").write_bytes(b"file_name,label,label\nimages/0.png,cat,dog\n")
    with pytest.raises(UserError, match="the table has two columns 'label'"):
        scan(tmp_path, table="labels.csv")
    with pytest.raises(UserError, match=r"has no file x\.csv; `table` is relative to the folder"):
        scan(tmp_path, table="x.csv")


def test_many_bad_records_are_told_by_the_breaker_all_at_once(tmp_path: Path) -> None:
    lay(tmp_path / "in", {f"cat/{number}.png": png(number) for number in range(4)})
    lay(tmp_path / "in", {f"cat/{number}.json": b'{"annotations": NaN}' for number in range(3)})
    with pytest.raises(StageStopped, match=r"75% of 4 samples failed .*bad_json 3"):
        run_ingest(tmp_path / "data", folder(tmp_path / "in"), breaker=0.5)


def test_a_caption_of_many_numbers_takes_no_time(tmp_path: Path) -> None:
    lay(tmp_path, {"a.png": png(0), "a.txt": b"1 2 3 4 5 \n" * 200_000 + b"!"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert (scan(tmp_path, layout="flat")[0].caption or "").endswith("!")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 60
