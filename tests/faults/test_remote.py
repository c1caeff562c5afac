"""Sources on other storages: zips, web servers, memory, what goes wrong with them, and that no byte is ever another's."""

from __future__ import annotations

import socket
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines.errors import UserError
from pipelines.remote import RemoteError
from pipelines.sources import FolderParams, ParquetParams, Source, TarParams, open_source
from pipelines.storage import Storage
from tests.faults.making import fates, png, run_ingest
from tests.faults.servers import Cutting, Flapping, Forbidding, Parts, Plain, Sorting, serving
from tests.faults.test_archives import tar_bytes

NAMES = [f"{folder}/{name}.png" for folder in ("cat", "sea lion") for name in ("0 a", "1 %", "2%20", "3+&=;,#?ü")]
PHOTOS = {name: png(number) for number, name in enumerate(NAMES)}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.remote._PAUSES", (0.0, 0.0))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, data in PHOTOS.items():
        (tmp_path / "www/photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "www/photos" / name).write_bytes(data)
    (tmp_path / "www/s.tar").write_bytes(
        tar_bytes(*((f"{place}.png", data) for place, data in enumerate(PHOTOS.values())))
    )
    pq.write_table(pa.table({"image": list(PHOTOS.values())}), tmp_path / "www/t.parquet", row_group_size=2)
    return tmp_path / "www"


def folder(path: str) -> Source:
    return open_source(FolderParams(path=path))


def read_all(source: Source) -> dict[str, bytes]:
    return {record.source: source.read(record) for record in source.scan()}


def problems(source: Source) -> set[tuple[str, str | None]]:
    return {(record.problem.reason, record.problem.error_class) for record in source.scan() if record.problem}


def zipped(path: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{prefix}empty/", b"")
        for name, data in PHOTOS.items():
            archive.writestr(prefix + name, data)
    return path


def test_a_zip_is_a_folder_with_the_same_paths(tmp_path: Path) -> None:
    assert read_all(folder(f"zip://::{zipped(tmp_path / 'a.zip')}")) == PHOTOS
    assert read_all(folder(f"zip://photos/of::{zipped(tmp_path / 'b.zip', 'photos/of/')}")) == PHOTOS
    dataset = run_ingest(tmp_path / "data", {"type": "folder", "path": f"zip://::{tmp_path}/a.zip"})
    assert fates(dataset) == {name: name.partition("/")[0] for name in PHOTOS}


def test_a_tar_as_a_folder_is_read_by_many_threads_without_mixing_files(tmp_path: Path) -> None:
    many = {f"c/{number:03d}.png": png(number) for number in range(60)}
    (tmp_path / "a.tar").write_bytes(tar_bytes(*many.items()))
    assert read_all(folder(f"tar://::{tmp_path}/a.tar")) == many


def test_a_damaged_entry_of_a_zip_is_a_row_and_a_damaged_zip_a_sentence(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"\x89PNG") + 40] ^= 1
    path.write_bytes(raw)
    assert problems(folder(f"zip://::{path}")) == {("unreadable", "permanent")}
    path.write_bytes(raw[:-30])
    for broken in (path, tmp_path / "none.zip"):
        with pytest.raises(UserError, match="cannot open storage"):
            folder(f"zip://::{broken}")


def test_memory_and_empty_roots_have_the_same_paths() -> None:
    store = Storage("memory://faults-remote/deep")
    for name, data in PHOTOS.items():
        store.write_bytes(name, data)
    assert read_all(folder("memory://faults-remote/deep")) == PHOTOS
    assert set(Storage("memory://").list()) >= {f"faults-remote/deep/{name}" for name in PHOTOS}


@pytest.mark.parametrize("handler", [Plain, Parts, Sorting, Flapping, Cutting])
def test_a_folder_of_a_web_server_is_read_whatever_its_habits(photos: Path, handler: type[Plain]) -> None:
    with serving(photos, handler) as address:
        assert read_all(folder(f"{address}/photos")) == PHOTOS
        assert read_all(folder(f"{address}/photos/")) == PHOTOS


@pytest.mark.parametrize("handler", [Parts, Flapping])
def test_tars_and_tables_are_read_in_parts_from_a_server_that_serves_them(photos: Path, handler: type[Plain]) -> None:
    with serving(photos, handler) as address:
        assert list(read_all(open_source(TarParams(path=f"{address}/s.tar"))).values()) == list(PHOTOS.values())
        table = open_source(ParquetParams(path=f"{address}/t.parquet", image_column="image"))
        assert list(read_all(table).values()) == list(PHOTOS.values())


def test_a_server_of_whole_files_is_told_and_a_kept_copy_serves(photos: Path) -> None:
    with serving(photos, Plain) as address:
        for params in (
            TarParams(path=f"{address}/s.tar"),
            ParquetParams(path=f"{address}/t.parquet", image_column="image"),
        ):
            with pytest.raises(UserError, match=r"whole files only .*simplecache::http"):
                open_source(params)
        copied = open_source(TarParams(path=f"simplecache::{address}/s.tar"))
        assert list(read_all(copied).values()) == list(PHOTOS.values())
        assert read_all(folder(f"simplecache::{address}/photos")) == PHOTOS
        with pytest.raises(RemoteError, match="whole files"):
            Storage(address).pread("s.tar", 512, 10)


def test_an_endpoint_that_is_down_is_a_sentence_without_credentials() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for path in (f"http://user:secret@{address}/photos", "http://no-such-host.invalid/photos?token=secret"):
            for params in (FolderParams(path=path), TarParams(path=path), ParquetParams(path=path, image_column="i")):
                with pytest.raises(UserError) as caught:
                    list(open_source(params).scan())
                assert "cannot look into http://" in str(caught.value)
                assert "secret" not in str(caught.value)


def test_what_may_not_be_read_is_said_and_what_is_missing_is_missing(photos: Path) -> None:
    (photos / "photos/cat/secret.png").write_bytes(png(5))
    with serving(photos, Forbidding) as address:
        assert problems(folder(f"{address}/photos")) == {("unreadable", "permanent")}
        with pytest.raises(UserError, match="the server answered 403"):
            list(folder(f"{address}/secret").scan())
        with pytest.raises(UserError, match="no folder at"):
            list(folder(f"{address}/nothing").scan())
        with pytest.raises(UserError, match="no tar archive at"):
            open_source(TarParams(path=f"{address}/no.tar"))


class Marked(MemoryFileSystem):
    """A bucket as consoles leave it: keys for folders, and listings that hold them."""

    protocol = "marked"
    store: dict[str, Any] = {}  # noqa: RUF012 - as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("marked://", "memory://")))

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any) -> Any:
        found = super().find(path, maxdepth, withdirs, detail=True)
        for marker in ("/bucket/cat/", "/bucket/cat", "/bucket/cat_$folder$"):
            found[marker] = {"name": marker, "size": 0, "type": "file"}
        return found


def test_markers_of_folders_in_a_bucket_are_no_files() -> None:
    fsspec.register_implementation("marked", Marked, clobber=True)
    Storage("marked://bucket").write_bytes("cat/1.png", png(1))
    Storage("marked://bucket").write_bytes("cat/empty.png", b"")
    assert Storage("marked://bucket").list() == ["cat/1.png", "cat/empty.png"]


def test_a_file_that_changed_its_length_never_gives_other_bytes(tmp_path: Path, photos: Path) -> None:
    with serving(photos, Parts) as address:
        source = open_source(TarParams(path=f"{address}/s.tar"))
        records = list(source.scan())
        raw = (photos / "s.tar").read_bytes()
        (photos / "s.tar").write_bytes(raw[: records[2].offset + 5])
        assert source.read(records[0]) == next(iter(PHOTOS.values()))
        assert len(source.read(records[2])) == 5  # its hash tells
        with pytest.raises(OSError, match="416"):
            source.read(records[3])


def test_huge_files_of_a_server_are_refused_by_their_length(photos: Path) -> None:
    with serving(photos, Parts) as address:
        told = [record.problem and record.problem.reason for record in folder(f"{address}/photos").scan(10)]
    assert told == ["too_many_bytes"] * len(PHOTOS)


def test_tables_and_tars_that_a_server_gives_no_more_are_told_as_what_they_are(tmp_path: Path, photos: Path) -> None:
    with serving(photos, Parts) as address:
        table = open_source(ParquetParams(path=f"{address}/t.parquet", image_column="image"))
        tar = open_source(TarParams(path=f"{address}/s.tar"))
    for source in (table, tar):  # the server is gone
        with pytest.raises(UserError, match="cannot be read: no connection"):
            list(source.scan())
