"""`lint` on anyone's WebDataset: what is sound passes, what would hurt a reader is named."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipelines.errors import UserError
from pipelines.shards.lint import LintReport, lint
from tests.shards.builders import image_bytes

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> Path:
    """A tar by stdlib tarfile, with whatever names the test wants."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def sound(first: int = 0, count: int = 3) -> Members:
    return [
        (f"s{number}.{ext}", data)
        for number in range(first, first + count)
        for ext, data in [("jpg", image_bytes(number)), ("json", b"{}"), ("cls", b"1")]
    ]


def found(report: LintReport) -> set[tuple[str, str]]:
    return {(finding.severity, finding.code) for finding in report.findings}


def decode(data: bytes, ours: bool) -> None:
    Image.open(io.BytesIO(data)).load()


def saved(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value, **options)
    return out.getvalue()


def test_shards_by_webdataset_pass_with_warnings_at_most(tmp_path: Path) -> None:
    for place in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{place:05d}.tar")) as writer:
            for number in range(5):
                key = f"{place}-{number}"
                sample = {"jpg": image_bytes(number), "json": {"a": number}, "cls": number % 3, "npy": np.zeros(3)}
                writer.write({"__key__": key, **sample})
    report = lint(str(tmp_path), decode)
    assert report.ok
    assert found(report) == {("warning", "member_order")}  # its writer sorts members by extension
    assert report.samples == 10
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_one_tar_a_folder_and_a_shards_folder_are_all_accepted(tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "shards" / "0.tar", sound())
    write_tar(tmp_path / "set" / "shards" / "1.tar", sound(3))
    for url, count in [("set", 6), ("set/shards", 6), ("set/shards/1.tar", 3)]:
        report = lint(str(tmp_path / url), decode)
        assert (found(report), report.samples) == (set(), count)


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    for url in ("nowhere", "nowhere.tar"):
        with pytest.raises(UserError, match="nowhere"):
            lint(str(tmp_path / url))
    assert found(lint(str(tmp_path))) == {("error", "no_shards")}


@pytest.mark.parametrize(
    ("members", "severity", "code"),
    [
        ([("../a.jpg", image_bytes(0))], "error", "path_escape"),
        ([("/etc/a.jpg", image_bytes(0))], "error", "path_escape"),
        ([("d/../../a.jpg", image_bytes(0))], "error", "path_escape"),
        ([("a.jpg", image_bytes(0)), ("a.pkl", b"x")], "error", "pickle_member"),
        ([("a.jpg", image_bytes(0)), ("a.pth", b"x")], "error", "pickle_member"),
        ([("a.jpg", image_bytes(0)), ("a.data", pickle.dumps([1, 2]))], "error", "pickle_member"),
        ([("a.jpg", image_bytes(0)), ("a.npy", saved(np.array([{}]), allow_pickle=True))], "error", "pickle_member"),
        ([("a.jpg", image_bytes(0)), ("a.npy", b"not an array")], "error", "bad_array"),
        ([("a.jpg", image_bytes(0)), ("a.npz", b"not a zip")], "error", "bad_array"),
        (
            [*sound(count=1), ("b.jpg", image_bytes(1)), ("s0.png", image_bytes(2, "PNG"))],
            "error",
            "key_not_contiguous",
        ),
        ([("a.jpg", image_bytes(0)), ("a.jpg", image_bytes(1))], "error", "duplicate_member"),
        ([("a.jpg", image_bytes(0)[:-200])], "error", "undecodable_image"),
        ([("a.png", b"")], "error", "undecodable_image"),
        ([("a.jpg", image_bytes(0)), ("a.json", b"{")], "error", "bad_json"),
        ([("a.jpg", image_bytes(0)), ("a.json", b"[" * 100_000)], "error", "bad_json"),
        ([("a.jpg", image_bytes(0)), ("a.cls", b"-1")], "error", "label_out_of_range"),
        ([("a.jpg", image_bytes(0)), ("a.cls", b"cat")], "warning", "bad_label"),
        ([("a.jpg", image_bytes(0)), ("a.txt", b"\xff")], "warning", "bad_text"),
        ([("a.json", b"{}"), ("a.jpg", image_bytes(0))], "warning", "member_order"),
        ([("a.jpg", image_bytes(0, "PNG"))], "warning", "misnamed_image"),
        ([("a.json", b"{}")], "warning", "no_image"),
        ([("README", b"hello"), *sound()], "warning", "skipped_member"),
    ],
)
def test_each_damage_inside_a_tar_has_its_finding(tmp_path: Path, members: Members, severity: str, code: str) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    report = lint(str(path), decode)
    assert found(report) == {(severity, code)}
    assert report.ok == (severity == "warning")
    assert all(finding.where.startswith("a.tar") and finding.message for finding in report.findings)


@pytest.mark.parametrize(
    ("kind", "severity", "code"),
    [
        (tarfile.SYMTYPE, "error", "link_member"),
        (tarfile.LNKTYPE, "error", "link_member"),
        (tarfile.CHRTYPE, "error", "device_member"),
        (tarfile.FIFOTYPE, "error", "device_member"),
        (tarfile.DIRTYPE, "warning", "directory_member"),
    ],
)
def test_entries_that_are_not_files_have_their_finding(tmp_path: Path, kind: bytes, severity: str, code: str) -> None:
    path = write_tar(tmp_path / "a.tar", sound())
    with tarfile.open(path, "a") as archive:
        entry = tarfile.TarInfo("z.jpg")
        entry.type, entry.linkname = kind, "s0.jpg"
        archive.addfile(entry)
    assert found(lint(str(path))) == {(severity, code)}


def test_an_npz_is_looked_into(tmp_path: Path) -> None:
    def npz(**arrays: Any) -> bytes:
        out = io.BytesIO()
        np.savez_compressed(out, **arrays)
        return out.getvalue()

    good = write_tar(tmp_path / "a.tar", [("a.jpg", image_bytes(0)), ("a.npz", npz(x=np.zeros(9), y=np.ones(2)))])
    bad = write_tar(tmp_path / "b.tar", [("a.jpg", image_bytes(0)), ("a.npz", npz(x=np.zeros(9), y=np.array([{}])))])
    assert found(lint(str(good))) == set()
    assert found(lint(str(bad))) == {("error", "pickle_member")}


def test_a_truncated_tar_is_damaged_wherever_it_was_cut(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", sound())
    raw = path.read_bytes()
    # Up to the end marker; the rest is stdlib's padding to 10 KiB.
    end = len(raw.rstrip(b"\0")) // 512 * 512 + 512 + 1024
    for length in [*range(0, end, 512), 700, end - 1]:
        path.write_bytes(raw[:length])
        assert ("error", "tar_damaged") in found(lint(str(path)))


def test_samples_behind_the_end_marker_are_noticed(tmp_path: Path) -> None:
    first, second = write_tar(tmp_path / "a.tar", sound()), write_tar(tmp_path / "b.tar", sound(3))
    glued = tmp_path / "set" / "c.tar"
    glued.parent.mkdir()
    glued.write_bytes(first.read_bytes() + second.read_bytes())
    report = lint(str(glued))
    assert found(report) == {("warning", "data_after_end")}
    assert report.samples == 3


def test_a_key_in_two_shards_is_named_with_both(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sound(0))
    write_tar(tmp_path / "b.tar", sound(2))
    report = lint(str(tmp_path))
    assert [(f.code, f.where, f.message) for f in report.findings] == [("duplicate_key", "b.tar:s2", "also in a.tar")]


def test_labels_are_held_against_classes_json(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sound())
    (tmp_path / "classes.json").write_text('["only"]')
    assert found(lint(str(tmp_path))) == {("error", "label_out_of_range")}
    (tmp_path / "classes.json").write_text('["one", "two"]')
    assert found(lint(str(tmp_path))) == set()


def test_sizes_json_is_held_against_the_shards_beside_it(tmp_path: Path) -> None:
    write_tar(tmp_path / "x" / "a.tar", sound())
    sizes = tmp_path / "x" / "sizes.json"
    sizes.write_text('{"a.tar": 3}')
    assert found(lint(str(tmp_path))) == set()
    sizes.write_text('{"a.tar": 3, "b.tar": 3}')
    assert found(lint(str(tmp_path))) == {("error", "sizes_lie")}
    sizes.write_text("[]")
    assert found(lint(str(tmp_path))) == {("error", "sizes_damaged")}


def test_a_compressed_shard_is_said_to_be_unchecked(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sound())
    (tmp_path / "b.tar.gz").write_bytes(b"")
    assert found(lint(str(tmp_path))) == {("warning", "compressed_shard")}


def test_an_index_of_another_tool_does_not_make_a_dataset_of_ours(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sound())
    (tmp_path / "index.json").write_text('{"shards": [], "version": 2}')
    report = lint(str(tmp_path))
    assert (found(report), report.samples) == (set(), 3)


def test_a_thousand_findings_of_one_kind_are_counted_not_kept(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"s{number}.jpg", b"") for number in range(1000)])
    report = lint(str(path))
    assert len(report.findings) == 11
    assert report.findings[-1].message == "and 990 more like this"


def test_names_from_data_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("\x1b[2Jevil.jpg", b""), ("b\udcff.jpg", b"")])
    for finding in lint(str(path)).findings:
        assert finding.where.isprintable()
        finding.where.encode()
