"""Parquet tables as they are met: damaged groups, odd types, hostile paths; one bad row is one row."""

from __future__ import annotations

import base64
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.sources import ParquetParams, Source, open_source
from pipelines.sources.row_groups import batches, open_table
from pipelines.storage import Storage

IMAGES = [b"image %d" % number for number in range(6)]


def opened(path: Path, **params: Any) -> Source:
    named = {"image_column": "image"} if "path_column" not in params else {}
    return open_source(ParquetParams(path=str(path), **named, **params))


def written(folder: Path, columns: dict[str, Any], name: str = "t.parquet", **how: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **how)
    return path


def reasons(source: Source, limit: int | None = None) -> list[str]:
    return [record.problem.reason if record.problem else "" for record in source.scan(limit)]


def all_read(source: Source) -> list[bytes]:
    """What every record's bytes are, read by an object that has not scanned, last first."""
    return [source.read(record) for record in reversed(list(source.scan()))][::-1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(IMAGES, pa.binary()),
        pa.array(IMAGES, pa.large_binary()),
        pa.array(IMAGES, pa.binary_view()),
        pa.array(IMAGES, pa.binary(7)),
        pa.array(IMAGES, pa.binary()).dictionary_encode(),
        pa.array([list(image) for image in IMAGES], pa.list_(pa.uint8())),
        pa.array([list(image) for image in IMAGES], pa.large_list(pa.uint8())),
        pa.array([base64.b64encode(image).decode() for image in IMAGES]),
        pa.array([base64.urlsafe_b64encode(image).decode().rstrip("=") for image in IMAGES], pa.large_string()),
        pa.array(["data:image/png;base64," + base64.encodebytes(image).decode() for image in IMAGES]),
        pa.array([{"bytes": image, "path": "x.png"} for image in IMAGES]),
        pa.array([{"bytes": image} for image in IMAGES]),
        pa.chunked_array([pa.array(IMAGES[:2]), pa.array([], pa.binary()), pa.array(IMAGES[2:])]),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_images_are_read_from_every_type_that_can_hold_them(tmp_path: Path, column: Any) -> None:
    assert all_read(opened(written(tmp_path, {"image": column}, row_group_size=4))) == IMAGES


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([[{"bytes": b"a", "path": "x"}]], "holds several images in a row"),
        ([[b"a", b"b"]], "holds several images in a row"),
        ([1], "does not hold images"),
        ([[1.5]], "does not hold images"),
        ([{"url": "x"}], "a struct of url, without the bytes or path"),
        (pa.array([None], pa.null()), "does not hold images"),
    ],
)
def test_a_column_that_cannot_hold_images_is_told_before_work(tmp_path: Path, column: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        list(opened(written(tmp_path, {"image": column})).scan())


def test_odd_cells_are_rows(tmp_path: Path) -> None:
    table = written(
        tmp_path,
        {
            "image": [b"0", None, b"", b"3", b"4", b"5", b"6"],
            "label": pa.array([0.0, 1.0, 1.0, float("nan"), 0.5, 3e9, -1.0]),
            "text": [None, "a", "", "c", "d", "e", "f"],
        },
    )
    source = opened(table, label_column="label", caption_column="text", classes=["a", "b"])
    assert [(record.label, record.problem.reason if record.problem else "") for record in source.scan()] == [
        (0, ""),
        (1, "empty"),
        (1, ""),  # the image path refuses a file of no bytes
        (None, ""),
        (None, "bad_label"),
        (None, "bad_label"),
        (None, ""),
    ]


def test_text_that_is_no_utf8_is_a_row(tmp_path: Path) -> None:
    broken = pa.array([b"cat", b"caf\xe9", b"dog"], pa.binary()).view(pa.string())
    columns = {"image": IMAGES[:3], "path": broken, "label": broken, "text": broken}
    table = written(tmp_path, columns, store_schema=True)
    assert reasons(opened(table, caption_column="text")) == ["", "bad_caption", ""]
    assert reasons(opened(table, label_column="label")) == ["", "bad_label", ""]
    assert reasons(opened(table, path_column="path")) == ["missing_file", "bad_cell", "missing_file"]


def test_text_that_is_no_base64_names_the_column_of_paths(tmp_path: Path) -> None:
    (record,) = opened(written(tmp_path, {"image": ["cat/1.jpg"]})).scan()
    assert record.problem is not None
    assert (record.problem.reason, "path_column" in record.problem.detail) == ("bad_cell", True)


def test_paths_may_hold_colons_and_lead_anywhere_inside_the_source(tmp_path: Path) -> None:
    names = ["10:20.jpg", "a b/ü.jpg", "C.jpg", "x..jpg", "back\\slash.jpg"]
    for name in names:
        (tmp_path / "d/images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d/images" / name).write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "d/images/link.jpg").symlink_to(tmp_path / "secret.jpg")
    good = [f"../images/{name}" for name in names] + [str(tmp_path / "d/images" / names[0]), "./../images//C.jpg"]
    bad = ["../../secret.jpg", str(tmp_path / "secret.jpg"), "../images/link.jpg", "../images/../../secret.jpg", ".."]
    written(tmp_path / "d", {"path": [*good, *bad, "../images"]}, "tables/t.parquet")
    source = opened(tmp_path / "d", path_column="path")
    told = reasons(source)
    assert told[: len(good)] == [""] * len(good)
    assert told[len(good) : -1] == ["path_outside"] * (len(bad) - 1) + ["unreadable"]
    assert told[-1] == "unreadable"
    records = list(source.scan())
    assert [source.read(record) for record in records[: len(names)]] == [name.encode() for name in names]
    with pytest.raises(OSError, match="leads out"):
        source.read(records[len(good)])


def test_missing_files_are_rows_and_hide_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": "no.jpg"}, {"bytes": None, "path": None}, None]
    table = written(tmp_path, {"image": pa.array(cells, struct), "path": ["no.jpg", "a.jpg", None, ""]})
    assert reasons(opened(table)) == ["", "missing_file", "empty", "empty"]
    assert reasons(opened(table, path_column="path")) == ["missing_file", "", "empty", "empty"]


def damage_group(path: Path, group: int, column: int = 0) -> None:
    """Overwrite the pages of one column of a row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(raw)


@pytest.mark.parametrize("column", [0, 1])
def test_a_damaged_row_group_costs_its_rows_and_no_others(tmp_path: Path, column: int) -> None:
    table = written(tmp_path, {"image": IMAGES, "label": ["a", "b", "c"] * 2}, row_group_size=2)
    damage_group(table, 1, column)
    source = opened(table, label_column="label")
    records = list(source.scan())
    assert [record.problem.reason if record.problem else "" for record in records] == [
        "",
        "",
        *["damaged_table"] * 2,
        "",
        "",
    ]
    assert [record.source for record in records] == [f"t.parquet#{row}" for row in range(6)]
    assert [source.read(records[row]) for row in (5, 0)] == [IMAGES[5], IMAGES[0]]
    if column == 0:
        with pytest.raises(OSError, match="row"):
            source.read(records[2])


def test_a_checksum_of_a_page_is_checked_where_there_is_one(tmp_path: Path) -> None:
    table = written(tmp_path, {"image": IMAGES}, compression="none", use_dictionary=False, write_page_checksum=True)
    raw = bytearray(table.read_bytes())
    raw[raw.index(b"image 3")] ^= 1
    table.write_bytes(raw)
    assert set(reasons(opened(table))) == {"damaged_table"}


def test_all_tables_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    good = written(tmp_path, {"image": IMAGES, "label": [1] * 6}, "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(good[:-20])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "text.parquet").write_bytes(b"<html>404</html>")
    written(tmp_path, {"image": IMAGES}, "unlabelled.parquet")
    written(tmp_path, {"picture": IMAGES, "label": [1] * 6}, "other.parquet")
    twice = pa.Table.from_arrays([pa.array(IMAGES), *[pa.array([1] * 6)] * 2], names=["image", "label", "label"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="6 of 7 tables") as caught:
        list(opened(tmp_path, label_column="label").scan())
    for name in ("cut", "empty", "text", "unlabelled", "other", "twice"):
        assert f"{name}.parquet" in str(caught.value)


def test_what_spark_leaves_is_passed_over_and_its_partitions_are_labels(tmp_path: Path) -> None:
    for place, name in enumerate(("label=cat", "label=sea%20lion", "label=__HIVE_DEFAULT_PARTITION__")):
        written(tmp_path / "out.parquet" / name, {"image": IMAGES[place : place + 1]}, "part-0.snappy.parquet")
    for junk in ("_SUCCESS", "_metadata", ".part.crc", "_temporary/0/x.parquet", "readme.txt"):
        (tmp_path / "out.parquet" / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out.parquet" / junk).write_bytes(b"junk")
    source = opened(tmp_path / "out.parquet", label_column="label")
    assert [record.label_name for record in source.scan()] == [None, "cat", "sea lion"]
    assert source.passed_over() == Counter(hidden=4, other_file=1)
    numbered = tmp_path / "numbered"
    for label in (0, 1):
        written(numbered / f"label={label}", {"image": [b"%d" % label]})
    assert [record.label for record in opened(numbered, label_column="label").scan()] == [0, 1]


def test_empty_groups_and_files_give_no_rows_and_stop_nothing(tmp_path: Path) -> None:
    nothing = {"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())}
    written(tmp_path, nothing, "a.parquet")
    schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
    with pq.ParquetWriter(tmp_path / "b.parquet", schema) as writer:
        for part in (
            nothing,
            {"image": IMAGES[:2], "label": ["x", "y"]},
            nothing,
            {"image": IMAGES[2:3], "label": ["x"]},
        ):
            writer.write_table(pa.table(part, schema=schema))
    source = opened(tmp_path, label_column="label")
    assert [(record.source, record.label_name) for record in source.scan()] == [
        ("b.parquet#0", "x"),
        ("b.parquet#1", "y"),
        ("b.parquet#2", "x"),
    ]
    assert all_read(source) == IMAGES[:3]


def test_cells_above_the_limit_are_rows_with_their_size(tmp_path: Path) -> None:
    table = written(tmp_path, {"image": [b"a", bytes(5000), b"c"]})
    assert reasons(opened(table), 4999) == ["", "too_many_bytes", ""]
    (tmp_path / "big.jpg").write_bytes(bytes(5000))
    assert reasons(opened(written(tmp_path, {"p": ["big.jpg"]}), path_column="p"), 4999) == ["too_many_bytes"]


def test_a_large_row_group_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    rows, size = 200, 1 << 20
    path = tmp_path / "t.parquet"
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_batch_size=4) as writer:
        writer.write_table(
            pa.table({"image": [os.urandom(size) for _ in range(rows)]}, schema=schema), row_group_size=rows
        )
    pa.default_memory_pool().release_unused()
    before, most = pa.total_allocated_bytes(), 0
    with open_table(Storage(tmp_path), "t.parquet") as table:
        for batch in batches(table, ["image"]):
            assert batch.rows is not None
            assert batch.rows.nbytes < 2 * (32 << 20)
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 100 << 20 < rows * size
    source = opened(path)
    records = list(source.scan())
    assert all(len(source.read(record)) == size for record in (records[-1], records[0], records[150]))
    assert pa.total_allocated_bytes() - before < 300 << 20


def test_a_column_is_named_whole_even_with_dots(tmp_path: Path) -> None:
    table = written(tmp_path, {"image": IMAGES, "image.bytes": ["x"] * 6, "img.png": IMAGES[::-1]})
    assert all_read(opened(table)) == IMAGES
    assert all_read(open_source(ParquetParams(path=str(table), image_column="img.png"))) == IMAGES[::-1]


def test_names_of_tables_may_hold_anything_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    name = os.fsdecode(b"caf\xe9.parquet")
    written(tmp_path, {"image": IMAGES}).replace(tmp_path / name)
    source = opened(tmp_path)
    assert all_read(source) == IMAGES
    assert {record.source.partition("#")[0] for record in source.scan()} == {"caf\\xe9.parquet"}
    assert source.passed_over() == Counter(not_a_file=1)
