"""WebDataset tars of any origin as a source."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.sources import TarParams, open_source
from pipelines.sources.base import Record


def write_tar(path: Path, *members: tuple[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def scan(path: Path, **params: object) -> list[Record]:
    return list(open_source(TarParams(path=str(path), **params)).scan())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_with_one_key_are_one_record(tmp_path: Path, form: int) -> None:
    long = "x" * 150 + "/" + "y" * 90
    tar = write_tar(
        tmp_path / "a.tar",
        ("0.jpg", b"zero"),
        ("0.json", json.dumps({"caption": "ignored", "label": 7}).encode()),
        ("0.cls", b"3"),
        ("0.txt", b"a cat"),
        (f"{long}.png" if form != tarfile.USTAR_FORMAT else "dir/1.png", b"one"),
        ("2.seg.JPG", b"two"),
        ("2.json", json.dumps({"caption": "a dog", "label": 1}).encode()),
        ("3.json", b"{}"),
        form=form,
    )
    records = scan(tar, split="train")
    assert [(record.label, record.caption, record.split) for record in records] == [
        (3, "a cat", "train"),
        (None, None, "train"),
        (1, "a dog", "train"),
    ]
    source = open_source(TarParams(path=str(tar)))
    assert [source.read(record) for record in records] == [b"zero", b"one", b"two"]
    assert records[0].source == "a.tar::0.jpg"
    assert tar.read_bytes()[records[2].offset :].startswith(b"two")


def test_a_folder_of_tars_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "sub/c.tar"):
        write_tar(tmp_path / name, ("0.jpg", name.encode()))
    (tmp_path / ".hidden.tar").write_bytes(b"")
    assert [record.file for record in scan(tmp_path)] == ["a.tar", "b.tar", "sub/c.tar"]


def test_class_names_come_from_the_list_or_from_classes_json(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.jpg", b"0"), ("0.cls", b"1"), ("1.jpg", b"1"), ("1.cls", b"dog\n"))
    listed = [(record.label, record.label_name) for record in scan(tar, classes=["cat", "dog"])]
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    assert listed == [(record.label, record.label_name) for record in scan(tmp_path)] == [(1, "dog"), (1, "dog")]
    outside = [record.problem and record.problem.reason for record in scan(tar, classes=["cat"])]
    assert outside == ["bad_label", "bad_label"]
    (tmp_path / "classes.json").unlink()
    assert [(record.label, record.label_name) for record in scan(tar)] == [(1, None), (None, "dog")]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "/etc/evil.jpg",
        "a/../../evil.jpg",
        "a\\..\\evil.jpg",
        "10:20:30.jpg",
        "C:\\a.jpg",
        "trailing..jpg",
    ],
)
def test_names_are_labels_and_no_paths(tmp_path: Path, name: str) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.jpg", b"0"), (name, b"1"))
    records = scan(tar)
    assert [record.source for record in records] == ["a.tar::0.jpg", f"a.tar::{name}"]
    assert open_source(TarParams(path=str(tar))).read(records[1]) == b"1"


def test_a_leading_dot_folder_is_not_an_escape(tmp_path: Path) -> None:
    assert len(scan(write_tar(tmp_path / "a.tar", ("./0.jpg", b"0")))) == 1


def test_a_cut_archive_is_named_with_the_place(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.jpg", bytes(5000)), ("1.jpg", bytes(5000)))
    tar.write_bytes(tar.read_bytes()[:7000])
    with pytest.raises(UserError, match=r"a\.tar .byte \d+: .*'1\.jpg'.*damaged: head"):
        scan(tar)


def test_a_path_without_tars_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tar archive at .*gone\.tar"):
        scan(tmp_path / "gone.tar")
    with pytest.raises(UserError, match=r"no tar archive \(\.tar\)"):
        scan(tmp_path / "gone")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"no tar archive .* \(1 other_file\)"):
        scan(tmp_path)


def test_a_pattern_names_several_tars(tmp_path: Path) -> None:
    for number in range(8, 12):
        write_tar(tmp_path / f"s/x-{number:03d}.tar", ("0.jpg", b"%d" % number))
    write_tar(tmp_path / "s/y.tar", ("0.jpg", b"y"))
    for pattern, count in (("x-{008..010}.tar", 3), ("x-*.tar", 4), ("{y,x-011}.tar", 2), ("x-0[01]8.tar", 1)):
        assert len(scan(tmp_path / "s" / pattern)) == count
    assert len(scan(tmp_path / "*" / "y.tar")) == 1
    with pytest.raises(UserError, match=r"nothing is called x-012\.tar, x-013\.tar"):
        scan(tmp_path / "s/x-{010..013}.tar")
    (tmp_path / "s/x-{0..1}.tar").write_bytes((tmp_path / "s/y.tar").read_bytes())
    assert len(scan(tmp_path / "s/x-{0..1}.tar")) == 1  # a file of that very name


def test_a_folder_whose_name_ends_like_a_tar_is_a_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "all.tar/1.tar", ("0.jpg", b"0"))
    assert [record.file for record in scan(tmp_path / "all.tar")] == ["1.tar"]
