"""What the tar walker does with archives as they are met: joined, cut, with odd sizes, links and holes."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from pipelines.shards.members import image_ending, is_litter
from pipelines.shards.walker import TarDamage, TarMember, TarWalker


def archive(*names: str, form: int = tarfile.GNU_FORMAT, size: int = 700) -> bytes:
    """A tar with a file of `size` bytes for each name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for place, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([place + 1]) * size))
    return out.getvalue()


class Pipe(io.BytesIO):
    """A stream that cannot seek."""

    def seekable(self) -> bool:
        return False


def all_members(raw: bytes) -> list[TarMember]:
    """Members of all archives that lie one after the other."""
    walker = TarWalker(io.BytesIO(raw))
    found = list(walker)
    while walker.next_archive():
        found += list(walker)
    return found


def checksummed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("stream", [io.BytesIO, Pipe])
def test_archives_that_were_joined_are_read_one_after_the_other(stream: type[io.BytesIO]) -> None:
    raw = archive("a.jpg", "b.jpg") + archive("c.jpg") + archive() + archive("d.jpg")
    walker = TarWalker(stream(raw))
    told = [[member.name for member in walker]]
    while walker.next_archive():
        told.append([member.name for member in walker])
    assert told == [["a.jpg", "b.jpg"], ["c.jpg"], ["d.jpg"]]
    assert walker.tail == 10240 - 1024 - 512 - 1024  # the zeros that fill up the last record
    assert [raw[member.offset] for member in all_members(raw)] == [1, 2, 1, 1]


def test_what_follows_the_end_marker_and_is_no_tar_is_damage() -> None:
    for rest in (b"signature", b"x" * 512, b"\0" * 512 + b"x" * 600):
        walker = TarWalker(io.BytesIO(archive("a.jpg") + rest))
        assert len(list(walker)) == 1
        with pytest.raises(TarDamage, match="no tar follow"):
            walker.next_archive()


def test_more_zeros_than_a_record_holds_are_a_copy_that_broke_off() -> None:
    walker = TarWalker(io.BytesIO(archive("a.jpg") + bytes(5 << 20)))
    assert len(list(walker)) == 1
    with pytest.raises(TarDamage, match=r"\d+ zero bytes follow the end marker"):
        walker.next_archive()


@pytest.mark.parametrize(
    "size",
    [b"-0000000001\0", b"+0000000700\0", b"0o000000700\0", b"00000_00700\0", b"\xff" * 12, b"\x80" + b"\xff" * 11],
)
def test_a_size_that_is_no_size_is_damage_and_never_a_loop(size: bytes) -> None:
    header = bytearray(archive("a.jpg")[:512])
    header[124:136] = size
    raw = checksummed(header) + archive("b.jpg")
    for stream in (io.BytesIO(raw), Pipe(raw)):
        with pytest.raises(TarDamage):
            list(TarWalker(stream))


def test_sizes_in_base_256_are_read() -> None:
    header = bytearray(archive("a.jpg")[:512])
    header[124:136] = b"\x80" + (700).to_bytes(11, "big")
    assert [member.size for member in all_members(checksummed(header) + archive("a.jpg")[512:])] == [700]


def test_a_member_that_is_cut_off_is_not_given_out() -> None:
    raw = archive("a.jpg", "b.jpg", size=5000)[: 512 + 5120 + 512 + 4000]
    members = iter(TarWalker(io.BytesIO(raw)))
    assert next(members).name == "a.jpg"
    with pytest.raises(TarDamage, match=r"ends inside the data of 'b\.jpg'"):
        next(members)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_say_where_they_lead(form: int) -> None:
    out, far = io.BytesIO(), "f" * 90 + "/" + "g" * (90 if form != tarfile.USTAR_FORMAT else 5)
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind in (("h.jpg", tarfile.LNKTYPE), ("s.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, far
            tar.addfile(info)
    assert [(member.kind, member.target) for member in all_members(out.getvalue())] == [
        ("hardlink", far),
        ("link", far),
    ]


def test_members_with_holes_are_told_from_files_and_skipped() -> None:
    header = bytearray(archive("a.jpg")[:512])
    header[156:157], header[482] = b"S", 1
    old = checksummed(header) + bytes([0] * 504 + [1] + [0] * 7) + bytes(512) + bytes(1024)
    record = b"22 GNU.sparse.major=1\n" + b"25 GNU.sparse.name=c.jpg\n"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    new = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + archive("GNUSparseFile.0/c.jpg")[: 512 + 1024]
    found = all_members(old + new + archive("b.jpg"))
    assert [(member.name, member.kind) for member in found] == [
        ("a.jpg", "sparse"),
        ("c.jpg", "sparse"),
        ("b.jpg", "file"),
    ]


def test_entries_of_unknown_types_are_skipped_with_their_data() -> None:
    header = bytearray(archive("a.jpg")[:512])
    header[156:157] = b"V"
    found = all_members(checksummed(header) + bytes(1024) + archive("b.jpg"))
    assert [(member.name, member.kind) for member in found] == [("a.jpg", "other"), ("b.jpg", "file")]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "the file is empty"),
        (b"\x1f\x8b" + bytes(600), "compressed .gzip.*gunzip"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "zstd -d"),
        (b"PK\x03\x04" + b"x" * 600, "it is a zip"),
        (b"<html>403</html>" * 40, "a web page"),
        (b"x" * 600, "checksum"),
    ],
)
def test_a_file_that_is_no_tar_is_told_as_what_it_is(raw: bytes, told: str) -> None:
    with pytest.raises(TarDamage, match=told):
        list(TarWalker(io.BytesIO(raw)))


@pytest.mark.parametrize("size", [0, 5, 700, 3 << 20])
def test_the_digest_is_that_of_the_data_and_needs_no_more_than_a_piece(size: int) -> None:
    raw = archive("a.jpg", "b.jpg", size=size)
    for stream in (io.BytesIO(raw), Pipe(raw)):
        walker = TarWalker(stream)
        told = [walker.digest() for _ in walker]
        assert told == [hashlib.sha256(bytes([place]) * size).digest() for place in (1, 2)]


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.JFIF", "jfif"),
        ("a.jpe", "jpe"),
        ("a.image", "image"),
        ("a/b.left.img", "img"),
        ("a.heic", "heic"),
        ("jpg", None),
        ("a.cls", None),
        ("a.jpg/b", None),
    ],
)
def test_names_of_images_are_known_by_their_ending(name: str, ending: str | None) -> None:
    assert image_ending(name) == ending


def test_litter_is_known_by_name() -> None:
    for name in ("._a.jpg", "x/._a.jpg", "__MACOSX/a.jpg", "./PaxHeaders.92/a.jpg", "a/PaxHeader/b.jpg", "x/.DS_Store"):
        assert is_litter(name)
    assert not any(map(is_litter, ("a.jpg", "_.jpg", "x/Thumbs.db.jpg", "PaxHeaders.jpg", "a/b..jpg")))
