"""Tars as downloads and archivers leave them: everything met is a row, a count or a refusal that names the place."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.shards.lint import lint
from pipelines.sources import Record, Source, TarParams, open_source
from pipelines.storage import Storage

FILE, HARD, SYMBOLIC = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
Member = tuple[str, bytes] | tuple[str, bytes, bytes]


def tar_bytes(*members: Member, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar; a third item of a member is its type, the second then where it leads."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for name, data, *kind in members:
            info = tarfile.TarInfo(name)
            if kind:
                info.type, info.linkname = kind[0], data.decode()
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def opened(folder: Path, *members: Member, raw: bytes | None = None, **params: Any) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.tar").write_bytes(tar_bytes(*members) if raw is None else raw)
    return open_source(TarParams(path=str(folder), **params))


def told(source: Source, max_bytes: int | None = None) -> list[tuple[str, int | str | None, str]]:
    """(name, label or its name, reason of the problem) of every record, by place."""
    return [
        (
            record.source.partition("::")[2],
            record.label if record.label_name is None else record.label_name,
            reason(record),
        )
        for record in source.scan(max_bytes)
    ]


def reason(record: Record) -> str:
    return record.problem.reason if record.problem else ""


def test_members_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    pictures = [(f"{number}.jpg", b"image %d" % number) for number in range(5)]
    labels = [(f"{number}.cls", b"%d" % number) for number in reversed(range(5))]
    captions = [(f"{number}.txt", b"caption") for number in range(5)]
    source = opened(tmp_path, *pictures, *labels, *captions)
    records = list(source.scan())
    assert [(record.label, record.caption) for record in records] == [(number, "caption") for number in range(5)]
    assert [source.read(record) for record in records] == [data for _, data in pictures]


def test_samples_whose_members_lie_together_come_first_and_nothing_is_lost(tmp_path: Path) -> None:
    source = opened(tmp_path, ("a.jpg", b"a"), ("b.jpg", b"b"), ("b.cls", b"1"), ("a.cls", b"0"))
    assert told(source) == [("b.jpg", 1, ""), ("a.jpg", 0, "")]


def test_joined_archives_are_all_read_and_equal_keys_in_them_never_meet(tmp_path: Path) -> None:
    first = tar_bytes(("0.jpg", b"one"), ("0.cls", b"0"), ("1.jpg", b"two"))
    second = tar_bytes(("0.jpg", b"three"), ("0.cls", b"4"), ("1.cls", b"5"))
    source = opened(tmp_path, raw=first + second)
    records = list(source.scan())
    assert [(record.label, source.read(record)) for record in records] == [(0, b"one"), (None, b"two"), (4, b"three")]
    assert len({record.source for record in records}) == 3
    assert source.passed_over() == Counter(no_image=1)  # the second archive's 1.cls


def test_further_images_of_a_key_are_rows_or_all_kept(tmp_path: Path) -> None:
    members = [("a.left.jpg", b"l"), ("a.right.jpg", b"r"), ("a.cls", b"1"), ("p.1.jpg", b"p"), ("p.2.jpg", b"q")]
    members += [("t.jpg", b"t"), ("t.PNG", b"u")]
    first = told(opened(tmp_path, *members))
    assert [(name, why) for name, _, why in first if why] == [
        ("a.right.jpg", "further_image"),
        ("p.2.jpg", "further_image"),
        ("t.PNG", "further_image"),
    ]
    every = told(opened(tmp_path, *members, images="all"))
    assert [(label, why) for _, label, why in every] == [(1, ""), (1, ""), *[(None, "")] * 4]


def test_every_ending_of_an_image_makes_a_row(tmp_path: Path) -> None:
    endings = ("jfif", "jpe", "image", "img", "JPG", "heic", "jxl", "psd", "avif")
    source = opened(tmp_path, *((f"{number}.{ending}", b"x%d" % number) for number, ending in enumerate(endings)))
    assert len(told(source)) == len(endings)
    assert source.passed_over() == Counter()


def test_what_is_no_image_is_counted_by_reason(tmp_path: Path) -> None:
    source = opened(
        tmp_path,
        *(("x/", b"", tarfile.DIRTYPE), ("0.jpg", b"0"), ("0.npy", b"n"), ("0.mp4", b"m"), ("README", b"r")),
        *(("._0.jpg", b"l"), ("x/.DS_Store", b"l"), ("PaxHeaders.1/0.jpg", b"l"), (".hidden.jpg", b"h")),
        *(("only.cls", b"1"), ("only.txt", b"t"), ("pipe.jpg", b"", tarfile.FIFOTYPE)),
    )
    assert [name for name, _, _ in told(source)] == ["0.jpg"]
    assert source.passed_over() == Counter(
        litter=3, hidden=1, ending_npy=1, ending_mp4=1, name_without_ending=1, no_image=1, device_entry=1
    )


def test_a_hostile_number_of_endings_is_counted_together(tmp_path: Path) -> None:
    source = opened(tmp_path, *((f"a.{number}", b"x") for number in range(100)))
    assert told(source) == []
    assert len(source.passed_over()) <= 21
    assert source.passed_over().total() == 100


def test_hard_and_symbolic_links_lead_to_members_of_the_archive(tmp_path: Path) -> None:
    source = opened(
        tmp_path,
        *(("d/late.jpg", b"../e/a.jpg", SYMBOLIC), ("e/a.jpg", b"image"), ("e/a.cls", b"3")),
        *(("e/b.jpg", b"./e/a.jpg", HARD), ("e/b.cls", b"e/a.cls", HARD), ("e/c.jpg", b"b.jpg", SYMBOLIC)),
        *(
            ("bad.jpg", b"/etc/passwd", SYMBOLIC),
            ("gone.jpg", b"nowhere.jpg", HARD),
            ("loop.jpg", b"loop.jpg", SYMBOLIC),
        ),
        *(("out.jpg", b"../../etc/passwd", SYMBOLIC), ("f.jpg", b"f"), ("f.cls", b"gone.cls", SYMBOLIC)),
    )
    records = list(source.scan())
    found = {record.source.partition("::")[2]: record for record in records}
    for name in ("d/late.jpg", "e/a.jpg", "e/b.jpg", "e/c.jpg"):
        assert source.read(found[name]) == b"image"
    assert found["e/b.jpg"].label == 3
    for name in ("bad.jpg", "gone.jpg", "loop.jpg", "out.jpg", "f.jpg"):
        assert reason(found[name]) == "link_not_followed"


def test_names_that_are_no_utf8_are_carried_escaped_and_read_by_their_place(tmp_path: Path) -> None:
    source = opened(tmp_path, (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), b"image"))
    (record,) = source.scan()
    assert record.source == "a.tar::caf\\xe9.jpg"
    assert source.read(record) == b"image"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("json", b'{"label": NaN}')], "bad_json"),
        ([("json", b'{"x": [1e999]}')], "bad_json"),
        ([("json", b'{"x": "\\ud800"}')], "bad_json"),
        ([("json", b"[" * 100_000)], "bad_json"),
        ([("json", b"")], "bad_json"),
        ([("json", b" " * (17 << 20))], "bad_json"),
        ([("txt", b"caf\xe9")], "bad_caption"),
        ([("txt", b" " * (17 << 20))], "bad_caption"),
        ([("cls", b"")], "bad_label"),
        ([("cls", b"\xff")], "bad_label"),
        ([("cls", b"3000000000")], "bad_label"),
        ([("cls", b"1"), ("cls", b"2")], "ambiguous_sample"),
        ([("json", b'{"label": true}')], "bad_label"),
        ([("json", b'{"label": [1]}')], "bad_label"),
        ([("json", b'{"label": -1}')], ""),
        ([("json", b'{"label": null}')], ""),
        ([("cls", b"1"), ("cls", b"1")], ""),
    ],
)
def test_one_bad_description_is_one_row_beside_sound_ones(
    tmp_path: Path, members: list[tuple[str, bytes]], why: str
) -> None:
    bad = [(f"bad.{ext}", data) for ext, data in members]
    source = opened(
        tmp_path, ("0.jpg", b"0"), ("0.cls", b"0"), ("bad.jpg", b"x"), *bad, ("1.jpg", b"1"), ("1.cls", b"1")
    )
    assert [(name, reason) for name, _, reason in told(source)] == [("0.jpg", ""), ("bad.jpg", why), ("1.jpg", "")]


def test_a_name_that_occurs_again_never_gets_another_ones_label(tmp_path: Path) -> None:
    complete = told(
        opened(tmp_path, *[("0.jpg", b"a"), ("0.cls", b"1")], ("x.jpg", b"x"), ("0.jpg", b"b"), ("0.cls", b"2"))
    )
    assert [(label, why) for _, label, why in complete] == [(None, ""), (1, ""), (2, "")]
    half = told(opened(tmp_path, *[("0.jpg", b"a"), ("0.cls", b"1")], ("x.jpg", b"x"), ("0.jpg", b"b")))
    assert [why for _, _, why in half] == ["", "ambiguous_sample", "ambiguous_sample"]
    appended = told(opened(tmp_path, ("0.jpg", b"a"), ("x.jpg", b"x"), ("0.jpg", b"b")))
    assert [why for _, _, why in appended] == ["", "", ""]


def test_a_huge_member_is_a_row_by_its_header_and_is_never_read(tmp_path: Path) -> None:
    tmp_path.joinpath("a.tar").write_bytes(b"")
    info = tarfile.TarInfo("slide.tif")
    info.size = 40 << 30
    with (tmp_path / "a.tar").open("wb") as file:  # a file of holes
        file.write(tar_bytes(("0.jpg", b"0"))[:1024] + info.tobuf(tarfile.GNU_FORMAT))
        file.seek(info.size, io.SEEK_CUR)
        file.write(tar_bytes(("1.jpg", b"1")))
    source = open_source(TarParams(path=str(tmp_path)))
    records = list(source.scan(64 << 20))
    assert [(reason(record), record.length) for record in records] == [("", 1), ("too_many_bytes", 0), ("", 1)]
    assert records[1].problem
    assert str(40 << 30) in records[1].problem.detail


SOUND = tar_bytes(*((f"{number}.jpg", bytes([number + 1]) * 700) for number in range(4)))
DAMAGED = {
    "cut inside a member": SOUND[: 512 + 1024 + 512 + 300],
    "cut between members": SOUND[: 2 * 1536],
    "no end marker": SOUND[: 4 * 1536],
    "half an end marker": SOUND[: 4 * 1536 + 512],
    "zeros from inside a member on": SOUND[: 1536 + 512 + 300] + bytes(len(SOUND) - 1536 - 812),
    "a tail of zeros": SOUND + bytes(8 << 20),
    "something else behind it": SOUND + b"<html>404</html>" * 99,
    "a flipped bit in a header": SOUND[:1540] + b"?" + SOUND[1541:],
    "gzip": gzip.compress(SOUND),
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html>403</html>" * 40,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_tar_is_refused_and_its_head_is_taken_where_that_is_wished(tmp_path: Path, damage: str) -> None:
    source = opened(tmp_path, raw=DAMAGED[damage])
    with pytest.raises(UserError, match=r"1 of 1 tars .*a\.tar \(byte \d+: "):
        list(source.scan())
    records = list(opened(tmp_path, raw=DAMAGED[damage], damaged="head").scan())
    assert reason(records[-1]) == "damaged_archive"
    assert all(record.sha256 for record in records[:-1])


def test_all_damaged_tars_are_told_at_once(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.tar").write_bytes(SOUND[: 2000 + number] if number % 2 else SOUND)
    with pytest.raises(UserError, match=r"3 of 6 tars .*1\.tar .*3\.tar .*5\.tar ") as caught:
        list(open_source(TarParams(path=str(tmp_path))).scan())
    assert "0.tar" not in str(caught.value)


def test_the_sample_in_which_a_tar_breaks_off_is_not_taken_without_its_label(tmp_path: Path) -> None:
    raw = tar_bytes(*[("0.jpg", b"0"), ("0.cls", b"0"), ("1.jpg", b"1"), ("1.cls", b"1")])
    source = opened(tmp_path, raw=raw[: 3 * 1024 + 512], damaged="head")  # the label's header is there, its data is not
    assert told(source)[:2] == [("0.jpg", 0, ""), ("1.jpg", None, "damaged_archive")]


def test_an_archive_of_nothing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(tar_bytes())
    source = opened(tmp_path, ("0.jpg", b"0"))
    assert len(told(source)) == 1
    assert source.passed_over() == Counter(empty_archive=1)


def test_a_picture_that_was_padded_with_zeros_is_no_damage(tmp_path: Path) -> None:
    source = opened(tmp_path, ("0.jpg", b"\xff\xd8 a picture \xff\xd9" + bytes(30_000)))
    assert [why for _, _, why in told(source)] == [""]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst", "a.tar.xz"])
def test_compressed_tars_are_told_with_the_command_that_unpacks_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(SOUND))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=r"compressed, .* unpack such files with `(gunzip|unxz|zstd -d)`"):
            open_source(TarParams(path=str(path)))
    (tmp_path / "b.tar").write_bytes(SOUND)
    with pytest.raises(UserError, match="compressed"):  # a part of the data would be left out
        open_source(TarParams(path=str(tmp_path)))
    (tmp_path / "a.tar").write_bytes(SOUND)
    source = open_source(TarParams(path=str(tmp_path)))  # unpacked already
    assert len(list(source.scan())) == 8
    assert source.passed_over() == Counter(compressed=1)


def test_what_is_scanned_is_what_is_read_whatever_the_form_of_the_tar(tmp_path: Path) -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        members = [(f"{'d' * 60}/{'ü' * 20}{number}.jpg", bytes([number]) * 5000) for number in range(3)]
        source = opened(tmp_path, raw=tar_bytes(*members, form=form))
        records = list(source.scan())
        assert [source.read(record) for record in records] == [data for _, data in members]


def test_a_tar_on_another_storage_is_read_alike(tmp_path: Path) -> None:
    Storage("memory://faults-archives").write_bytes(
        "a.tar", SOUND + tar_bytes(("a.jpg", b"a"), ("b.jpg", b"b"), ("a.cls", b"1"))
    )
    source = open_source(TarParams(path="memory://faults-archives"))
    assert [(label, why) for _, label, why in told(source)] == [*[(None, "")] * 5, (1, "")]


def test_json_labels_and_boxes_go_to_the_first_image_only(tmp_path: Path) -> None:
    facts = json.dumps({"label": 2, "annotations": []}).encode()
    records = list(opened(tmp_path, ("a.jpg", b"1"), ("a.json", facts), ("a.b.jpg", b"2"), images="all").scan())
    assert [(record.label, record.document is not None) for record in records] == [(2, True), (2, False)]


def test_lint_knows_the_same_endings_and_the_same_tails(tmp_path: Path) -> None:
    members = (("a.jfif", b"\xff\xd8\xff"), ("b.heic", b"h"), ("c.image", b"i"), ("d.npy", b"\x93NUMPY"))
    (tmp_path / "a.tar").write_bytes(tar_bytes(*members) + tar_bytes(("e.jpg", b"\xff\xd8\xff")))
    (tmp_path / "b.tar").write_bytes(SOUND + bytes(8 << 20))
    found = Counter((finding.code, finding.where) for finding in lint(str(tmp_path)).findings)
    assert found[("no_image", "a.tar:d")] == 1
    assert found[("foreign_image", "a.tar:b.heic")] == 1
    assert {where for code, where in found if code == "data_after_end"} == {"a.tar", "b.tar"}
    assert {where for code, where in found if code == "no_image"} == {"a.tar:d"}


def test_pipes_are_not_waited_for_and_links_to_nothing_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match="what is called so is no file"):
        open_source(TarParams(path=str(tmp_path / "pipe.tar")))
    (tmp_path / "far").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to(tmp_path / "far")
    os.mkfifo(tmp_path / "in/pipe.tar")
    source = opened(tmp_path / "in", ("0.jpg", b"0"))
    assert len(told(source)) == 1
    assert source.passed_over() == Counter(not_a_file=1, link_not_followed=1)
    (tmp_path / "in/lost.tar").symlink_to("nowhere.tar")
    (tmp_path / "in/loop.tar").symlink_to("loop.tar")
    with pytest.raises(UserError, match=r"2 of 3 tars .*loop\.tar \(cannot be read: .*lost\.tar \(cannot be read: "):
        told(open_source(TarParams(path=str(tmp_path / "in"))))


def test_names_of_tars_may_hold_anything(tmp_path: Path) -> None:
    for name in ("zip::a.tar", "b{1}.tar", "c [2024].tar", "d\n.tar", os.fsdecode(b"caf\xe9.tar")):
        folder = tmp_path / f"x::y [{len(name)}]"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(tar_bytes(("0.jpg", b"0")))
        for path in (folder / "*.tar", folder / name if name.isascii() else folder):
            source = open_source(TarParams(path=str(path)))
            records = list(source.scan())
            assert {source.read(record) for record in records} == {b"0"}
            assert all(record.file.encode() and record.source.encode() for record in records)


def test_a_pattern_looks_only_into_the_folders_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.tar").write_bytes(b"no tar at all")
    (tmp_path / "a.tar").write_bytes(SOUND)
    assert len(list(open_source(TarParams(path=str(tmp_path / "*.tar"))).scan())) == 4
