"""The tar readers: damage never passes for data, other people's archives are read, and offsets equal sequence."""

from __future__ import annotations

import io
import pickle
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipelines.errors import UserError
from pipelines.shards.members import split_name
from pipelines.shards.reader import ShardReader, iterate_tar
from pipelines.shards.sample import MemberSpan
from pipelines.shards.tar import ShardWriter
from pipelines.shards.walker import TarDamage, TarWalker
from pipelines.storage import Storage
from tests.shards.builders import samples


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    with ShardWriter(path) as writer:
        for sample in samples(6):
            writer.add(sample.key, sample.members)
    return path


def foreign(form: int, names: list[str], size: int = 700) -> bytes:
    """An archive by stdlib tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for place, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.size = size + place
            entry.mtime = 1_700_000_000
            archive.addfile(entry, io.BytesIO(bytes([place % 256]) * entry.size))
    return out.getvalue()


class Watched(io.BytesIO):
    """Remembers how much was asked for in each read."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.asked: list[int] = []

    def read(self, size: int | None = -1) -> bytes:
        self.asked.append(-1 if size is None else size)
        return super().read(size)


def test_sequential_reading_gives_back_what_was_written(shard: Path) -> None:
    expected = [(sample.key, dict(sample.members)) for sample in samples(6)]
    assert list(iterate_tar(shard)) == expected
    assert list(iterate_tar(io.BytesIO(shard.read_bytes()))) == expected


def test_a_shard_cut_at_any_block_is_damaged(shard: Path) -> None:
    raw = shard.read_bytes()
    for length in range(0, len(raw), 512):
        with pytest.raises(TarDamage):
            list(iterate_tar(io.BytesIO(raw[:length])))


def test_a_shard_cut_anywhere_is_damaged(shard: Path, tmp_path: Path) -> None:
    raw = shard.read_bytes()
    generator = random.Random(0)
    for _ in range(200):
        length = generator.randrange(len(raw))
        with pytest.raises(TarDamage):
            list(iterate_tar(io.BytesIO(raw[:length])))
        with pytest.raises(TarDamage):  # the walker seeks over data here
            list(TarWalker(io.BytesIO(raw[:length])))


def test_a_flipped_bit_in_any_header_is_damage(shard: Path) -> None:
    raw = bytearray(shard.read_bytes())
    headers = [member.offset - 512 for member in TarWalker(io.BytesIO(raw))]
    generator = random.Random(0)
    for start in headers:
        place = start + generator.randrange(500)
        raw[place] ^= 0x10
        with pytest.raises(TarDamage) as caught:
            list(iterate_tar(io.BytesIO(raw)))
        assert caught.value.offset == start
        raw[place] ^= 0x10


def test_a_header_that_claims_a_huge_size_costs_no_memory() -> None:
    entry = tarfile.TarInfo("a.jpg")
    entry.size = 1 << 60
    raw = entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096)
    stream = Watched(raw)
    with pytest.raises(TarDamage, match="ends inside"):
        list(iterate_tar(stream))
    assert max(stream.asked) <= 1 << 20  # a file would allocate what it is asked for


def test_an_extension_header_that_claims_a_huge_size_is_refused() -> None:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    with pytest.raises(TarDamage, match="extension header"):
        list(iterate_tar(io.BytesIO(entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096))))


@pytest.mark.parametrize(
    "record", [b"9 path=x\n", b"11 size=-1\n", b"nonsense", b"0 a=b\n", b"22 GNU.sparse.major=1\n"]
)
def test_a_pax_header_that_makes_no_sense_is_damage(record: bytes) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, len(record)
    raw = entry.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + foreign(tarfile.USTAR_FORMAT, ["a.jpg"])
    if record == b"9 path=x\n":
        assert [key for key, _ in iterate_tar(io.BytesIO(raw))] == []  # a sound record: the name has no extension
        return
    with pytest.raises(TarDamage):
        list(iterate_tar(io.BytesIO(raw)))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_writers_are_read(form: int) -> None:
    long = "d" * 90 + "/" + "n" * 90
    names = ["a.jpg", "a.json", "dir/b.left.JPG", f"{long}.jpg", f"{long}.cls", "ünï.png"]
    raw = foreign(form, names)
    found = list(iterate_tar(io.BytesIO(raw)))
    assert [(key, sorted(members)) for key, members in found] == [
        ("a", ["jpg", "json"]),
        ("dir/b", ["left.jpg"]),
        (long, ["cls", "jpg"]),
        ("ünï", ["png"]),
    ]
    assert found[2][1]["cls"] == bytes([4]) * 704
    walker = TarWalker(io.BytesIO(raw))
    assert all(raw[m.offset : m.offset + m.size] == bytes([place]) * m.size for place, m in enumerate(walker))


def test_links_directories_and_names_without_extension_are_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in [("d", tarfile.DIRTYPE), ("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "../../etc/passwd"
            archive.addfile(entry)
        for name in ["README", "__meta__/x.json", ".hidden", "a.jpg"]:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
    assert list(iterate_tar(io.BytesIO(out.getvalue()))) == [("a", {"jpg": b"abc"})]
    kinds = [member.kind for member in TarWalker(io.BytesIO(out.getvalue()))]
    assert kinds == ["directory", "link", "hardlink", "file", "file", "file", "file"]


def test_two_members_of_one_name_are_damage() -> None:
    with pytest.raises(TarDamage, match="two members"):
        list(iterate_tar(io.BytesIO(foreign(tarfile.USTAR_FORMAT, ["a.jpg", "a.jpg"]))))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("k.jpg", ("k", "jpg")),
        ("a/b.c/k.seg.PNG", ("a/b.c/k", "seg.png")),
        ("k", None),
        (".jpg", None),
        ("k.", None),
        ("a.b/", None),
    ],
)
def test_names_split_at_the_first_dot_of_the_last_component(name: str, expected: tuple[str, str] | None) -> None:
    assert split_name(name) == expected


def spans_of(path: Path) -> dict[str, list[MemberSpan]]:
    spans: dict[str, list[MemberSpan]] = {}
    with path.open("rb") as stream:
        for member in TarWalker(stream):
            key, ext = split_name(member.name) or ("", "")
            spans.setdefault(key, []).append(MemberSpan(ext, member.offset, member.size))
    return spans


def memory_copy(path: Path) -> Storage:
    """The same shard in a storage that is not local."""
    fsspec.filesystem("memory").pipe_file(f"/shards-test/{path.name}", path.read_bytes())
    return Storage("memory://shards-test")


@pytest.mark.parametrize("remote", [False, True])
def test_reading_by_offset_equals_reading_in_sequence(shard: Path, remote: bool) -> None:
    storage = memory_copy(shard) if remote else Storage(shard.parent)
    reader = ShardReader(storage, shard.name)
    spans = spans_of(shard)
    for key, members in iterate_tar(shard):
        assert reader.read(spans[key]) == members
        assert reader.read(spans[key], exts=("json",)) == {"json": members["json"]}
        assert reader.read(spans[key], exts=("json", "cls")) == {ext: members[ext] for ext in ("json", "cls")}
        assert reader.read(spans[key], exts=("npy",)) == {}
    assert dict(reader.scan()) == dict(iterate_tar(shard))


def test_members_that_lie_far_apart_are_read_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with ShardWriter(path) as writer:
        first = writer.add("a", [("jpg", b"one")])
        writer.add("b", [("jpg", bytes(1 << 18))])
        last = writer.add("c", [("json", b"two")])
    assert ShardReader(Storage(tmp_path), "a.tar").read([*first, *last]) == {"jpg": b"one", "json": b"two"}


def test_a_sample_costs_one_read_and_an_index_reads_headers_only(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans, lengths = spans_of(shard), list[int]()
    pread = ShardReader.pread
    monkeypatch.setattr(ShardReader, "pread", lambda self, at, size: lengths.append(size) or pread(self, at, size))
    reader = ShardReader(Storage(shard.parent), shard.name)
    for members in spans.values():
        reader.read(members)
    assert len(lengths) == len(spans)
    stream = Watched(shard.read_bytes())
    assert len(list(TarWalker(stream))) == sum(map(len, spans.values()))
    assert max(stream.asked) == 512


def test_reading_past_the_end_is_damage(shard: Path) -> None:
    size = shard.stat().st_size
    for storage in (Storage(shard.parent), memory_copy(shard)):
        with pytest.raises(TarDamage):
            ShardReader(storage, shard.name).pread(size - 10, 11)


def test_one_reader_serves_many_threads_and_survives_pickling(shard: Path) -> None:
    spans, expected = spans_of(shard), dict(iterate_tar(shard))
    reader: ShardReader = pickle.loads(pickle.dumps(ShardReader(Storage(shard.parent), shard.name)))
    keys = list(spans) * 50
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: reader.read(spans[key]), keys))
    assert found == [expected[key] for key in keys]


def test_a_missing_shard_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="limbeck lint"):
        ShardReader(Storage(tmp_path), "no.tar")
