"""Sidecars: every column comes back, bytes never change, and only what is asked for is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.shards.sample import MemberSpan
from pipelines.shards.sidecar import SCHEMA, Sidecar, read_sidecar
from pipelines.storage import Storage
from tests.shards.builders import failed_row

FULL_ROW = {
    "key": "k",
    "outcome": "kept",
    "reason": "",
    "error_class": None,
    "detail": "ä",
    "source": "a/b.jpg",
    "split": "train",
    "label": 3,
    "label_name": "eel",
    "width": 32,
    "height": 31,
    "src_width": 640,
    "src_height": 480,
    "src_format": "jpeg",
    "bytes": 1 << 40,
    "raw_sha256": "00" * 32,
    "pixel_sha256": "ff" * 32,
    "phash": "0123456789abcdef",
    "decoder": "simplejpeg",
    "orientation": 8,
    "members": [MemberSpan("jpg", 512, 100, (1 << 64) - 1), MemberSpan("json", 1536, 20, 0)],
    "parents": ["p", "q"],
    "op": "crop",
    "params": '{"a":1}',
    "seed": (1 << 63) - 1,
    "model_id": "m",
    "licence": "CC0-1.0",
    "notes": "extraneous bytes before EOI",
}


def written(folder: Path, rows: int = 1, name: str = "a.parquet") -> Path:
    sidecar = Sidecar()
    for number in range(rows):
        sidecar.add(FULL_ROW | {"key": f"k{number}"} if number % 2 == 0 else failed_row(number))
    sidecar.write(folder / name)
    return folder / name


def test_every_column_comes_back(tmp_path: Path) -> None:
    assert set(FULL_ROW) == set(SCHEMA.names)
    written(tmp_path, 2)
    table = read_sidecar(Storage(tmp_path), "a.parquet")
    assert table.schema.equals(SCHEMA)
    kept, lost = table.to_pylist()
    assert kept == FULL_ROW | {"key": "k0", "members": [span._asdict() for span in FULL_ROW["members"]]}  # type: ignore[attr-defined]
    assert lost == dict.fromkeys(SCHEMA.names) | failed_row(1)
    assert lost["members"] is None


def test_a_sidecar_has_the_same_bytes_in_every_run(tmp_path: Path) -> None:
    assert written(tmp_path, 3000, "a").read_bytes() == written(tmp_path, 3000, "b").read_bytes()


def test_a_sidecar_names_no_time_and_no_machine(tmp_path: Path) -> None:
    metadata = pq.read_metadata(written(tmp_path, 4))
    assert metadata.created_by == f"parquet-cpp-arrow version {pa.__version__}"
    assert set(metadata.metadata) == {b"ARROW:schema"}


def test_members_may_come_as_rows_of_another_sidecar_have_them(tmp_path: Path) -> None:
    first, second = Sidecar(), Sidecar()
    first.add(FULL_ROW)
    second.add(first.table().to_pylist()[0])
    assert first.table().equals(second.table())


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    written(tmp_path, 2)
    table = read_sidecar(Storage(tmp_path), "a.parquet", ["label", "key"])
    assert table.column_names == ["label", "key"]


def test_a_row_with_an_unknown_column_or_outcome_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="colour"):
        Sidecar().add({"key": "k", "outcome": "kept", "colour": "red"})
    with pytest.raises(AssertionError, match="maybe"):
        Sidecar().add({"key": "k", "outcome": "maybe"})


def test_a_row_without_a_key_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="without a key"):
        Sidecar().add({"key": None, "outcome": "kept"})


def test_a_damaged_sidecar_is_a_sentence(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with pytest.raises(UserError, match="no sidecar"):
        read_sidecar(storage, "a.parquet")
    path = written(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="lacks the columns"):
        read_sidecar(storage, "b.parquet", ["key"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a readable sidecar"):
        read_sidecar(storage, "a.parquet")
