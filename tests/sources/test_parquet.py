"""Parquet tables with images or with paths to them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.sources import ParquetParams, open_source
from pipelines.sources.base import Record


def write(path: Path, columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None, rows: int = 2) -> Path:
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=rows)
    return path


def scan(path: Path, **params: Any) -> list[Record]:
    return list(open_source(ParquetParams(path=str(path), **params)).scan())


def test_bytes_with_number_labels_and_captions(tmp_path: Path) -> None:
    images = [f"image {number}".encode() for number in range(5)]
    columns = {"img": images, "y": [0, 1, 1, None, 0], "text": ["a", None, "c", "d", "e"]}
    table = write(tmp_path / "t.parquet", columns)
    records = scan(
        table, image_column="img", label_column="y", caption_column="text", classes=["no", "yes"], split="val"
    )
    assert [(r.source, r.label, r.label_name, r.caption, r.split) for r in records] == [
        ("t.parquet#0", 0, "no", "a", "val"),
        ("t.parquet#1", 1, "yes", None, "val"),
        ("t.parquet#2", 1, "yes", "c", "val"),
        ("t.parquet#3", None, None, "d", "val"),
        ("t.parquet#4", 0, "no", "e", "val"),
    ]
    source = open_source(ParquetParams(path=str(table), image_column="img"))
    shuffled = random.Random(0).sample(list(zip(records, images, strict=True)), 5)
    for record, image in shuffled:
        assert source.read(record) == image


def test_text_labels_are_class_names(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", {"img": [b"x"], "y": ["dog"]})
    write(tmp_path / "2.parquet", {"img": [b"y"], "y": pa.array(["cat"]).dictionary_encode()})
    records = scan(tmp_path, image_column="img", label_column="y")
    assert [(record.label, record.label_name) for record in records] == [(None, "dog"), (None, "cat")]


def test_hugging_face_structs_and_class_names_are_understood(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"on disk")
    features = {"info": {"features": {"label": {"names": ["tench", "church"], "_type": "ClassLabel"}}}}
    images = [{"bytes": b"inside", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    table = write(
        tmp_path / "t.parquet",
        {"image": images, "label": [1, 0, 1]},
        {b"huggingface": json.dumps(features).encode()},
    )
    records = scan(table, image_column="image", label_column="label")
    source = open_source(ParquetParams(path=str(table), image_column="image"))
    assert [source.read(record) for record in records[:2]] == [b"inside", b"on disk"]
    assert [record.problem and record.problem.reason for record in records] == [None, None, "empty"]
    assert [record.label_name for record in records] == ["church", "tench", "church"]


def test_paths_are_relative_to_the_table_and_may_not_leave_its_folder(tmp_path: Path) -> None:
    (tmp_path / "sub/pictures").mkdir(parents=True)
    (tmp_path / "sub/pictures/1.jpg").write_bytes(b"one")
    table = write(tmp_path / "sub/t.parquet", {"path": ["pictures/1.jpg"]})
    for where in (table, tmp_path):
        (record,) = scan(where, path_column="path")
        assert open_source(ParquetParams(path=str(where), path_column="path")).read(record) == b"one"
    bad = ["../secret.jpg", "/etc/passwd", "file:///etc/passwd", "s3://bucket/key", "C:\\a.jpg", "a\0b", "gone.jpg", ""]
    write(tmp_path / "bad.parquet", {"path": bad})
    told = [record.problem and record.problem.reason for record in scan(tmp_path / "bad.parquet", path_column="path")]
    assert told == ["path_outside"] * 6 + ["missing_file", "empty"]


def test_mistakes_are_told_in_a_sentence(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", {"img": [b"x"], "y": [3]})
    with pytest.raises(UserError, match="no column 'image'; it has img, y"):
        scan(table, image_column="image")
    with pytest.raises(UserError, match="column 'y' of type int64 does not hold images"):
        scan(table, image_column="y")
    outside = scan(table, image_column="img", label_column="y", classes=["a", "b"])[0].problem
    assert outside is not None
    assert (outside.reason, outside.detail) == ("bad_label", "the index 3 is outside 0..1, the 2 classes")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match=r"1 of 1 tables .* bad\.parquet is not a sound parquet file"):
        scan(tmp_path / "bad.parquet", image_column="img")
    with pytest.raises(ValidationError, match="exactly one of image_column and path_column"):
        ParquetParams(path="x", image_column="a", path_column="b")
