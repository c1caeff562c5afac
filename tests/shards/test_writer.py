"""The tar writer: bytes that never change, and that other people's readers read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset

from pipelines.errors import UserError
from pipelines.shards import tar
from pipelines.shards.sample import Sample
from pipelines.shards.tar import ShardInfo, ShardWriter, ustar_header
from tests.shards.builders import samples

#: SHA-256 of `_tiny`. A change means that every shard ever written would be rewritten: bump stage versions with it.
GOLDEN = "1c08b2146682da3a86bcdab218cebda8b9858b480f1eb12414af2ae96e5517f5"


def write(path: Path, content: list[Sample]) -> ShardInfo:
    with ShardWriter(path) as writer:
        for sample in content:
            writer.add(sample.key, sample.members)
    assert writer.info is not None
    return writer.info


def _tiny(path: Path) -> ShardInfo:
    members = (("jpg", b"\xff\xd8\xff" + bytes(range(256)) * 2), ("json", b'{"a":1}'), ("cls", b"7"))
    empty = (("png", b""), ("npy", bytes(512)))
    return write(path, [Sample("a" * 26, members), Sample("b" * 26 + "-d0003", empty)])


def test_a_shard_has_the_same_bytes_in_every_run(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.tar", samples(20)), write(tmp_path / "b.tar", samples(20))
    assert first == second
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_the_bytes_of_a_shard_are_those_of_the_first_release(tmp_path: Path) -> None:
    assert _tiny(tmp_path / "a.tar").sha256 == GOLDEN


def test_the_info_of_a_shard_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = write(path, samples(20))
    raw = path.read_bytes()
    assert info == ShardInfo(20, len(raw), hashlib.sha256(raw).hexdigest())
    assert len(raw) % 512 == 0


def test_a_header_is_what_stdlib_tarfile_writes() -> None:
    for name, size in [("a.jpg", 0), ("k" * 96 + ".jpg", 30_000), ("ä.json", (8 << 30) - 1)]:
        entry = tarfile.TarInfo(name)
        entry.size = size
        expected = entry.tobuf(tarfile.USTAR_FORMAT, "utf-8")
        ours = ustar_header(name, size)
        # stdlib leaves the device numbers empty, POSIX and GNU tar write zeros; neither changes what is read.
        assert tarfile.TarInfo.frombuf(ours, "utf-8", "strict").name == name  # which checks the checksum
        assert ours[:148] == expected[:148]
        assert ours[156:329] == expected[156:329]


def test_every_field_of_a_header_is_fixed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path, samples(3))
    with tarfile.open(path) as archive:
        for entry in archive:
            assert (entry.uid, entry.gid, entry.mtime, entry.mode) == (0, 0, 0, 0o644)
            assert (entry.uname, entry.gname, entry.type, entry.pax_headers) == ("", "", tarfile.REGTYPE, {})


def test_stdlib_tarfile_reads_a_shard(tmp_path: Path) -> None:
    path, content = tmp_path / "a.tar", samples(12)
    write(path, content)
    expected = [(f"{sample.key}.{ext}", data) for sample in content for ext, data in sample.members]
    with tarfile.open(path, "r:") as archive:
        found = []
        for entry in archive:
            stream = archive.extractfile(entry)
            assert stream is not None
            found.append((entry.name, stream.read()))
    assert found == expected


def test_gnu_tar_reads_a_shard(tmp_path: Path) -> None:
    path, content = tmp_path / "a.tar", samples(12)
    write(path, content)
    listing = subprocess.run(["tar", "-tvf", path], capture_output=True, check=True, env={**os.environ, "TZ": "UTC"})
    assert listing.stderr == b""
    lines = listing.stdout.decode().splitlines()
    assert [line.split()[-1] for line in lines] == [f"{s.key}.{ext}" for s in content for ext, _ in s.members]
    assert lines[0].startswith("-rw-r--r-- 0/0")
    assert "1970-01-01 00:00" in lines[0]
    streamed = subprocess.run(["tar", "-xOf", path], capture_output=True, check=True)
    assert streamed.stderr == b""
    assert streamed.stdout == b"".join(data for sample in content for _, data in sample.members)


def test_webdataset_reads_a_shard(tmp_path: Path) -> None:
    path, content = tmp_path / "a.tar", samples(12)
    write(path, content)
    found = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [sample.key for sample in content]
    for got, sample in zip(found, content, strict=True):
        assert {k: v for k, v in got.items() if not k.startswith("__")} == dict(sample.members)


def test_spans_say_where_the_data_lies(tmp_path: Path) -> None:
    path, content = tmp_path / "a.tar", samples(12)
    with ShardWriter(path) as writer:
        spans = [writer.add(sample.key, sample.members) for sample in content]
    raw = path.read_bytes()
    for sample, places in zip(content, spans, strict=True):
        assert [(ext, raw[offset : offset + size]) for ext, offset, size, _ in places] == list(sample.members)


def test_batches_do_not_show_in_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "a.tar", samples(40))
    monkeypatch.setattr(tar, "_BATCH_BYTES", 700)
    monkeypatch.setattr(tar, "_MAX_GATHER", 3)
    monkeypatch.setattr(tar, "_SMALL", 600)
    assert write(tmp_path / "b.tar", samples(40)) == whole
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_kernel_that_takes_less_than_it_is_given_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "a.tar", samples(10))
    monkeypatch.setattr(os, "writev", lambda handle, parts: os.write(handle, b"".join(parts)[:1000]))
    assert write(tmp_path / "b.tar", samples(10)) == whole
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_the_writer_knows_the_size_it_would_have(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a.tar")
    for sample in samples(5):
        writer.add(sample.key, sample.members)
    expected = writer.bytes_written
    assert writer.close().bytes == expected == (tmp_path / "a.tar").stat().st_size


def test_a_name_over_100_bytes_is_refused(tmp_path: Path) -> None:
    ustar_header("k" * 96 + ".jpg", 1)
    for name in ["k" * 97 + ".jpg", "ä" * 50 + "k", ""]:
        with pytest.raises(UserError, match="bytes"):
            ustar_header(name, 1)
    with pytest.raises(UserError, match="8 GiB"):
        ustar_header("a.jpg", 8 << 30)


def test_a_key_may_stand_in_a_shard_once(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a.tar")
    writer.add("a", [("jpg", b"x")])
    with pytest.raises(AssertionError, match="already"):
        writer.add("a", [("jpg", b"x")])


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"

    def build(close: bool) -> None:
        with ShardWriter(path) as writer:
            writer.add("a", [("jpg", b"x")])
            if close:
                writer.close()
            raise RuntimeError("stop")

    for close in (False, True):
        with pytest.raises(RuntimeError, match="stop"):
            build(close)
        assert not path.exists()
