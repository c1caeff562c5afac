"""Folders of image files: layouts, labels, links, hidden files."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.sources import FolderParams, open_source
from tests.images.making import encoded, picture


def lay(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"bytes of {name}".encode())


def facts(root: Path, **params: object) -> list[tuple[str, str | None, int | None, str | None]]:
    source = open_source(FolderParams(path=str(root), **params))
    return [(record.source, record.split, record.label, record.label_name) for record in source.scan()]


def test_class_folders_label_their_files_in_sorted_order(tmp_path: Path) -> None:
    lay(tmp_path, "b/2.jpg", "a/1.jpg", "b/deeper/3.jpg", "a/10.jpg")
    assert facts(tmp_path, split="train") == [
        ("a/1.jpg", "train", 0, "a"),
        ("a/10.jpg", "train", 0, "a"),
        ("b/2.jpg", "train", 1, "b"),
        ("b/deeper/3.jpg", "train", 1, "b"),
    ]
    assert open_source(FolderParams(path=str(tmp_path))).classes() == ["a", "b"]


def test_split_folders_give_splits_and_keep_labels_whichever_split_is_picked(tmp_path: Path) -> None:
    lay(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/b/3.jpg")
    assert facts(tmp_path, layout="split_class") == [
        ("train/a/1.jpg", "train", 0, "a"),
        ("train/b/2.jpg", "train", 1, "b"),
        ("val/b/3.jpg", "val", 1, "b"),
    ]
    assert facts(tmp_path, layout="split_class", split="val") == [("val/b/3.jpg", "val", 1, "b")]
    with pytest.raises(UserError, match="no split 'test'; there is train, val"):
        facts(tmp_path, layout="split_class", split="test")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    lay(tmp_path, "1.jpg", "deep/2.jpg")
    assert facts(tmp_path, layout="flat") == [("1.jpg", None, None, None), ("deep/2.jpg", None, None, None)]


def test_an_explicit_list_decides_the_labels_and_must_name_every_folder(tmp_path: Path) -> None:
    lay(tmp_path, "a/1.jpg", "b/2.jpg")
    assert [fact[2] for fact in facts(tmp_path, classes=["b", "x", "a"])] == [2, 0]
    with pytest.raises(UserError, match="folder 'b' that `classes` does not name"):
        facts(tmp_path, classes=["a"])


def passed(root: Path, **params: object) -> dict[str, int]:
    source = open_source(FolderParams(path=str(root), **params))
    list(source.scan())
    return dict(source.passed_over())


def test_what_is_passed_over_is_counted_by_reason(tmp_path: Path, caplog) -> None:
    lay(tmp_path, "a/1.jpg", "a/.DS_Store", ".git/config", "README.md", "loose.jpg", "a/Thumbs.db", "@eaDir/a/1.jpg")
    lay(tmp_path, "a/notes.xml", "__MACOSX/a/1.jpg", "lost+found/x")
    with caplog.at_level(logging.WARNING):
        assert [fact[0] for fact in facts(tmp_path)] == ["a/1.jpg"]
    assert passed(tmp_path) == {"hidden": 2, "system_file": 4, "no_image_ending": 2, "above_layout": 1}
    assert f"{tmp_path}: passed over 1 above_layout, 2 no_image_ending, 4 system_file" in caplog.text
    assert passed(tmp_path, layout="flat")["hidden"] == 2


def test_other_splits_are_counted_too(tmp_path: Path) -> None:
    lay(tmp_path, "training/a/1.jpg", "validation/a/2.jpg", "validation/b/3.jpg")
    assert [fact[:2] for fact in facts(tmp_path, layout="split_class", split="val")] == [
        ("validation/a/2.jpg", "val"),
        ("validation/b/3.jpg", "val"),
    ]
    assert passed(tmp_path, layout="split_class", split="validation") == {"other_split": 1}


def test_every_file_that_may_be_an_image_is_tried(tmp_path: Path) -> None:
    lay(tmp_path, "a/noending", "a/photo.what", "a/movie.mp4", "a/1.txt", "a/.1.jpg", "b/only.csv")
    assert [fact[0] for fact in facts(tmp_path)] == ["a/movie.mp4", "a/noending", "a/photo.what"]
    assert open_source(FolderParams(path=str(tmp_path))).classes() == ["a"]


def test_links_are_not_followed_out_of_the_folder_unless_wanted(tmp_path: Path, caplog) -> None:
    lay(tmp_path, "outside/secret.jpg", "in/a/1.jpg")
    (tmp_path / "in/a/out.jpg").symlink_to(tmp_path / "outside/secret.jpg")
    (tmp_path / "in/a/inside.jpg").symlink_to(tmp_path / "in/a/1.jpg")
    (tmp_path / "in/b").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "in/a/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/a/gone.jpg").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        assert [fact[0] for fact in facts(tmp_path / "in")] == ["a/1.jpg", "a/inside.jpg"]
    assert "passed over 4 link_not_followed; follow_links: true follows" in caplog.text
    followed = facts(tmp_path / "in", follow_links=True)
    assert [fact[0] for fact in followed] == ["a/1.jpg", "a/inside.jpg", "a/out.jpg", "b/secret.jpg", "a/gone.jpg"]
    assert [fact[3] for fact in followed] == ["a", "a", "a", "b", None]
    assert passed(tmp_path / "in", follow_links=True) == {"link_loop": 1}


def test_records_are_hashes_and_lengths_of_what_another_process_reads(tmp_path: Path) -> None:
    raw = encoded(picture(), "PNG")
    lay(tmp_path, "a/other.png")
    (tmp_path / "a/real.png").write_bytes(raw)
    params = FolderParams(path=str(tmp_path))
    record = list(open_source(params).scan())[1]
    elsewhere = open_source(FolderParams.model_validate_json(params.model_dump_json()))
    assert elsewhere.read(pickle.loads(pickle.dumps(record))) == raw
    assert (record.sha256, record.length) == (hashlib.sha256(raw).digest(), len(raw))
    assert (record.offset, record.row, record.file) == (0, -1, "a/real.png")


def test_a_file_of_any_size_is_hashed_and_read_whole(tmp_path: Path) -> None:
    sizes = [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 5]  # on both sides of what is hashed out of memory
    written = [bytes([place + 1]) * size for place, size in enumerate(sizes)]
    for place, data in enumerate(written):
        (tmp_path / f"{place}.jpg").write_bytes(data)
    opened = open_source(FolderParams(path=str(tmp_path), layout="flat"))
    records = list(opened.scan())
    assert [record.length for record in records] == sizes
    assert [record.sha256 for record in records] == [hashlib.sha256(data).digest() for data in written]
    assert [opened.read(record) for record in records] == written
    (tmp_path / "1.jpg").write_bytes(b"it grew")
    assert opened.read(records[1]) != written[1]  # so that its hash tells


def test_order_is_the_same_for_any_number_of_files_in_flight(tmp_path: Path) -> None:
    lay(tmp_path, *(f"c{number % 7}/{number:04d}.jpg" for number in range(500)))
    names = [fact[0] for fact in facts(tmp_path)]
    assert names == sorted(names)
    assert len(names) == 500


def test_a_folder_in_memory_storage_reads_like_a_local_one() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/pictures/a/1.jpg", b"one")
    memory.pipe("/pictures/b/2.jpg", b"two")
    source = open_source(FolderParams(path="memory://pictures"))
    assert [(record.source, record.label, source.read(record)) for record in source.scan()] == [
        ("a/1.jpg", 0, b"one"),
        ("b/2.jpg", 1, b"two"),
    ]


def test_mistakes_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*nowhere; check the path"):
        facts(tmp_path / "nowhere")
    lay(tmp_path, "1.jpg")
    with pytest.raises(UserError, match="use layout: flat"):
        facts(tmp_path)
    with pytest.raises(UserError, match=r"is a file, not a folder"):
        facts(tmp_path / "1.jpg")
    with pytest.raises(UserError, match="no embedded sample 'mnist'; there is fashion_mnist"):
        facts(Path("sample:mnist"))
