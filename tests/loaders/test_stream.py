"""The loader: each sample once, one order for any workers and ranks, resume exactly, bad samples by stated rules."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipelines.loaders.dataset import BadSampleError, MapDataset, StreamDataset
from pipelines.loaders.order import batches_of, epoch_order, fit_tail
from pipelines.shards.dataset import ShardEntry, publish
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sidecar import Sidecar
from pipelines.shards.tar import ShardWriter
from pipelines.storage import Storage

COUNT = 53
GOLDEN_ORDER = [0, 3, 7, 5, 2, 4, 6, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """53 small pictures in three shards."""
    return make(tmp_path_factory.mktemp("dataset"), broken=())


def make(root: Path, broken: tuple[int, ...]) -> str:
    storage, entries = Storage(root), []
    for shard, places in enumerate(np.array_split(np.arange(COUNT), 3)):
        name, sidecar = f"test-{shard:06d}", Sidecar()
        (root / "shards").mkdir(exist_ok=True)
        (root / "meta").mkdir(exist_ok=True)
        with ShardWriter(root / f"shards/{name}.tar") as writer:
            for place in places.tolist():
                pixels = np.full((9, 8, 3), place * 4, np.uint8)
                data = b"no image" if place in broken else cv2.imencode(".png", pixels)[1].tobytes()
                key = key_of_bytes(str(place).encode())
                members = (("png", data), ("json", json.dumps({"n": place}).encode()), ("cls", str(place % 3).encode()))
                spans = writer.add(key, members)
                sidecar.add({"key": key, "outcome": "kept", "label": place % 3, "members": spans})
            info = writer.close()
        sidecar.write(root / f"meta/{name}.parquet")
        path = f"shards/{name}.tar"
        entries.append(ShardEntry(f"{name}.tar", path, f"meta/{name}.parquet", info.samples, info.bytes, info.sha256))
    publish(storage, entries, ["a", "b", "c"], {"name": "test"})
    return str(root)


def numbers(batch: list[dict[str, object]]) -> list[int]:
    return [item["json"]["n"] for item in batch]  # type: ignore[index]


def read(folder: str, workers: int = 0, **options: object) -> list[list[int]]:
    stream = StreamDataset(folder, 4, collate=numbers, **options)  # type: ignore[arg-type]
    return list(DataLoader(stream, batch_size=None, num_workers=workers))


def test_a_sample_is_read_back_whole(folder: str) -> None:
    dataset = MapDataset(folder)
    assert len(dataset) == COUNT
    item = dataset[20]
    assert item["image"].shape == (3, 9, 8)
    assert item["image"].unique().tolist() == [80]
    assert (item["label"], item["json"]["n"], item["key"]) == (2, 20, key_of_bytes(b"20"))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_sample_once_in_one_order_for_any_workers_and_ranks(folder: str, world: int, workers: int) -> None:
    alone = list(itertools.chain(*read(folder, seed=3)))
    ranks = [read(folder, workers if rank == 0 else 0, seed=3, rank=rank, world=world) for rank in range(world)]
    merged: list[int] = []
    for step in itertools.zip_longest(*ranks, fillvalue=[]):
        longest = max(len(part) for part in step)
        merged += [part[place] for place in range(longest) for part in step if place < len(part)]
    assert merged == alone
    assert sorted(merged) == list(range(COUNT))


def test_epochs_differ_and_the_same_seed_agrees(folder: str) -> None:
    stream = StreamDataset(folder, 4, seed=1, collate=numbers)
    first = list(stream)
    stream.set_epoch(1)
    second = list(stream)
    assert first != second
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second))
    assert list(StreamDataset(folder, 4, seed=1, collate=numbers)) == first
    assert list(StreamDataset(folder, 4, seed=2, collate=numbers)) != first


def test_persistent_workers_see_the_next_epoch(folder: str) -> None:
    stream = StreamDataset(folder, 4, seed=1, collate=numbers)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    first = list(loader)
    stream.set_epoch(1)
    assert list(loader) == list(stream)
    assert list(stream) != first


@pytest.mark.parametrize(("world", "then"), [(1, 1), (2, 2), (1, 3), (3, 2)])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_resume_continues_exactly_even_on_other_ranks(folder: str, world: int, then: int, done: int) -> None:
    before = [StreamDataset(folder, 4, seed=5, rank=rank, world=world, collate=numbers) for rank in range(world)]
    for stream in before:
        stream.set_epoch(2)
    seen = [number for stream in before for batch in itertools.islice(stream, done) for number in batch]
    state = json.loads(json.dumps(before[0].state_dict(done)))
    rest: list[int] = []
    for rank in range(then):
        resumed = StreamDataset(folder, 4, seed=5, rank=rank, world=then, collate=numbers)
        resumed.load_state_dict(state)
        rest += itertools.chain(*resumed)
    assert len(seen) == min(done * 4 * world, COUNT)
    assert sorted(seen + rest) == list(range(COUNT))


def test_resume_gives_the_same_batches_as_going_on(folder: str) -> None:
    whole = read(folder, seed=5)
    resumed = StreamDataset(folder, 4, seed=5, collate=numbers)
    resumed.load_state_dict({"seed": 5, "epoch": 0, "position": 5 * 4})
    assert list(DataLoader(resumed, batch_size=None, num_workers=2)) == whole[5:]
    assert len(resumed) == len(whole) - 5


@pytest.mark.parametrize(("tail", "lengths"), [("exact", [18, 18, 17]), ("pad", [18, 18, 18]), ("drop", [17, 17, 17])])
def test_the_tail_does_what_it_says(folder: str, tail: str, lengths: list[int]) -> None:
    got = [sum(map(len, read(folder, rank=rank, world=3, tail=tail))) for rank in range(3)]
    assert got == lengths


def test_the_order_is_pinned() -> None:
    assert epoch_order(8, seed=0, epoch=0).tolist() == GOLDEN_ORDER
    assert sorted(epoch_order(1000, 0, 0, "block", 64).tolist()) == list(range(1000))
    blocks = epoch_order(1000, 0, 0, "block", 64)
    assert len({int(position) // 64 for position in blocks[:64]}) <= 2
    assert epoch_order(5, 0, 0, "none").tolist() == [0, 1, 2, 3, 4]


def test_padding_repeats_the_start_of_the_epoch() -> None:
    assert fit_tail(np.array([3, 1, 2, 0]), 3, "pad").tolist() == [3, 1, 2, 0, 3, 1]
    assert [part.tolist() for part in batches_of(np.arange(7), 0, 1, 2, 2)] == [[1, 3], [5]]


def test_a_bad_sample_is_named_or_skipped(tmp_path: Path) -> None:
    folder = make(tmp_path, broken=(7,))
    with pytest.raises(BadSampleError, match=f"limbeck show {key_of_bytes(b'7')}"):
        read(folder)
    stream = StreamDataset(folder, 4, collate=numbers, on_error="skip")
    assert sorted(itertools.chain(*DataLoader(stream, batch_size=None, num_workers=2))) == [
        number for number in range(COUNT) if number != 7
    ]
    assert stream.skipped == 1


def test_too_many_bad_samples_in_a_row_are_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path, broken=tuple(range(COUNT)))
    with pytest.raises(BadSampleError):
        list(StreamDataset(folder, 32, on_error="skip"))


def test_wrong_arguments_are_named(folder: str) -> None:
    with pytest.raises(ValueError, match="rank must be"):
        StreamDataset(folder, 4, rank=2, world=2)
    with pytest.raises(ValueError, match="seed 1"):
        StreamDataset(folder, 4, seed=2).load_state_dict({"seed": 1, "epoch": 0, "position": 0})


def test_the_readmes_three_lines_read_it_without_limbeck(folder: str) -> None:
    import webdataset

    shards = sorted(str(path) for path in Path(folder).glob("shards/*.tar"))
    pairs = list(webdataset.WebDataset(shards, shardshuffle=False).decode("torchrgb").to_tuple("png;jpg", "cls"))
    assert len(pairs) == COUNT
    assert [label for _, label in pairs] == [place % 3 for place in range(COUNT)]
    assert torch.allclose(pairs[5][0], torch.full((3, 9, 8), 20 / 255))
