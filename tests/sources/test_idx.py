"""IDX files, and the embedded sample that is made of them."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines import sample
from pipelines.errors import UserError
from pipelines.images import decode_rgb
from pipelines.sample.make import CLASSES, as_array, make
from pipelines.sources import IdxParams, open_source
from pipelines.sources.idx import read_idx
from pipelines.storage import Storage

ORIGINALS = Path("/usr/share/datasets/fashion-mnist")


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 12, 10), dtype=np.uint8)


def params(folder: Path, **more: object) -> IdxParams:
    return IdxParams(path=str(folder), images="images", labels="labels", **more)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_images_pass_the_safe_path_with_their_exact_pixels(tmp_path: Path, images: np.ndarray, pack) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2, 1], np.uint8)
    (tmp_path / "images").write_bytes(pack(idx(images)))
    (tmp_path / "labels").write_bytes(pack(idx(labels)))
    source = open_source(params(tmp_path, classes=["a", "b", "c"], split="test"))
    records = list(source.scan())
    assert [record.label_name for record in records] == list("abcabcb")
    assert [record.row for record in records] == list(range(7))
    elsewhere = open_source(params(tmp_path))
    for record, image in zip(records, images, strict=True):
        raw = elsewhere.read(record)
        assert (len(raw), hashlib.sha256(raw).digest()) == (record.length, record.sha256)
        np.testing.assert_array_equal(decode_rgb(raw), np.repeat(image[:, :, None], 3, axis=2))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path, images: np.ndarray, make) -> None:
    (tmp_path / "images").write_bytes(idx(images))
    make(tmp_path / "labels")
    with pytest.raises(UserError, match=r"labels in .* cannot be read"):
        list(open_source(params(tmp_path)).scan())


def test_colour_images_and_absent_labels_are_fine(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    (tmp_path / "images").write_bytes(idx(colour))
    source = open_source(IdxParams(path=str(tmp_path), images="images"))
    for record, image in zip(source.scan(), colour, strict=True):
        np.testing.assert_array_equal(decode_rgb(source.read(record)), image)
        assert record.label is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: it starts with nothing"),
        (b"PK\x03\x04....", "not an IDX file: it starts with 504b0304"),
        (b"\0\0\x0d\x01" + bytes(8), "values of type 0x0d"),
        (b"\0\0\x08\x03\0\0\0\1", "ends inside its header"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "should have 13 bytes .* has only 11"),
        (b"\0\0\x08\x01\0\0\0\x05abcdefgh", "should have 13 bytes .* has more"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "more than 8589934592 bytes"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcde", mtime=0)[:-9], "should have 13 bytes|damaged gzip"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcde", mtime=0)[:-4] + b"0000", "damaged gzip"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcde" + bytes(1 << 20), mtime=0), "has more"),
        (b"\x1f\x8b" + b"\0" * 40, "damaged gzip"),
        (
            gzip.compress(b"\0\0\x08\x03\0\0\x04\0\0\0\x04\0\0\0\x04\0" + bytes(1 << 20), mtime=0),
            "more than 200 times what is packed",
        ),
    ],
)
def test_a_file_that_is_not_as_it_says_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(Storage(tmp_path), "images")


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    packed = zlib.compressobj(9, wbits=31)
    head = idx(np.zeros((2, 64, 64), np.uint8))
    data = packed.compress(head) + b"".join(packed.compress(bytes(1 << 20)) for _ in range(200)) + packed.flush()
    (tmp_path / "images").write_bytes(data)
    seen: list[int] = []
    monkeypatch.setattr("pipelines.sources.idx._unpacked", _counting(seen))
    with pytest.raises(UserError, match="has more"):
        read_idx(Storage(tmp_path), "images")
    assert sum(seen) == len(head) + 1


def _counting(seen: list[int]):
    from pipelines.sources.idx import _unpacked

    def counted(*arguments) -> bytes:
        data = _unpacked(*arguments)
        seen.append(len(data))
        return data

    return counted


def test_images_above_the_limit_are_rows_and_images_of_no_pixels_are_told(tmp_path: Path, images: np.ndarray) -> None:
    (tmp_path / "images").write_bytes(idx(images))
    told = list(open_source(IdxParams(path=str(tmp_path), images="images")).scan(20))
    assert [record.problem and record.problem.reason for record in told] == ["too_many_bytes"] * len(images)
    (tmp_path / "images").write_bytes(b"\0\0\x08\x03\xff\xff\xff\xff" + bytes(8))
    with pytest.raises(UserError, match="images of no pixels"):
        list(open_source(IdxParams(path=str(tmp_path), images="images")).scan())


def test_counts_labels_and_checksums_are_checked(tmp_path: Path, images: np.ndarray) -> None:
    (tmp_path / "images").write_bytes(idx(images))
    (tmp_path / "labels").write_bytes(idx(np.array([0, 1], np.uint8)))
    with pytest.raises(UserError, match=r"labels holds values of shape \(2,\), but images has 7 images"):
        list(open_source(params(tmp_path)).scan())
    (tmp_path / "labels").write_bytes(idx(np.full(7, 9, np.uint8)))
    outside = list(open_source(params(tmp_path, classes=["a", "b"])).scan())
    assert {record.problem and record.problem.reason for record in outside} == {"bad_label"}
    with pytest.raises(UserError, match=f"has sha256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        list(open_source(params(tmp_path, sha256={"images": "0" * 64})).scan())
    with pytest.raises(UserError, match="neither `images` nor `labels`"):
        open_source(params(tmp_path, sha256={"typo": "0" * 64}))
    with pytest.raises(UserError, match=r"labels holds values of shape \(7,\); images are"):
        list(open_source(IdxParams(path=str(tmp_path), images="labels")).scan())
    with pytest.raises(UserError, match="no file gone"):
        list(open_source(IdxParams(path=str(tmp_path), images="gone")).scan())


# The embedded sample ------------------------------------------------------------


def embedded(part: str) -> tuple[np.ndarray, np.ndarray]:
    storage = Storage(sample.folder())
    images, labels = (read_idx(storage, f"{part}-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    return as_array(images), as_array(labels)


def test_the_sample_is_balanced_and_its_parts_share_no_image() -> None:
    train, test = embedded("train"), embedded("t10k")
    assert train[0].shape == (10_000, 28, 28)
    assert test[0].shape == (2_000, 28, 28)
    assert Counter(train[1].tolist()) == dict.fromkeys(range(10), 1000)
    assert Counter(test[1].tolist()) == dict.fromkeys(range(10), 200)
    pixels = [image.tobytes() for part in (train, test) for image in part[0]]
    assert len(set(pixels)) == len(pixels)


def test_the_sample_matches_its_checksums_and_carries_its_licence() -> None:
    folder = sample.folder()
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in folder.glob("*.gz")}
    assert len(sums) == 4
    for name, expected in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert "Copyright (c) 2017 Zalando SE" in (folder / "LICENSE").read_text()


def test_the_sample_is_a_source_like_any_other() -> None:
    source = open_source(
        IdxParams(path="sample:fashion_mnist", images="t10k-images-idx3-ubyte.gz", labels="t10k-labels-idx1-ubyte.gz")
    )
    records = list(source.scan())
    assert source.classes() == list(CLASSES)
    assert {record.label_name for record in records} == set(CLASSES)
    assert len({record.sha256 for record in records}) == 2000


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_making_the_sample_again_gives_the_same_bytes(tmp_path: Path) -> None:
    make(ORIGINALS, tmp_path)
    for path in sorted(sample.folder().iterdir()):
        again = (tmp_path / path.name).read_bytes()
        if path.suffix == ".gz" and not zlib.ZLIB_RUNTIME_VERSION.startswith("1.2."):
            # Another deflate may pack the same values into other bytes; what it packs must not differ.
            assert gzip.decompress(again) == gzip.decompress(path.read_bytes())
        elif path.name != "SHA256SUMS" or zlib.ZLIB_RUNTIME_VERSION.startswith("1.2."):
            assert again == path.read_bytes(), path.name


def test_the_sample_is_only_made_from_the_originals(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match="expected b0564c3e"):
        make(tmp_path, tmp_path / "out")
