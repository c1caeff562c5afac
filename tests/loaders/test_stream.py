"""Reading an epoch: each sample once, one order for any ranks, resume exactly, bad samples by stated rules."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipelines.errors import UserError
from pipelines.images.params import ImageLimits
from pipelines.loaders.dataset import MapDataset
from pipelines.loaders.loader import StreamLoader
from pipelines.loaders.reading import BadSampleError
from pipelines.loaders.stream import StreamDataset
from tests.loaders.making import CLASSES, COUNT, key_of, merged, numbers, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def stream(folder: str, batch_size: int = 4, **options: Any) -> StreamDataset:
    return StreamDataset(folder, batch_size, collate=numbers, **options)


def flat(batches: Iterator[list[int]] | list[list[int]] | StreamDataset) -> list[int]:
    return [number for batch in batches for number in batch]


def test_a_sample_is_read_back_whole(folder: str) -> None:
    dataset = MapDataset(folder, members=("json", "cls"))
    assert (len(dataset), dataset.classes) == (COUNT, CLASSES)
    sample = dataset[20]
    assert sample["image"].shape == (3, 9, 8)
    assert sample["image"].dtype == torch.uint8
    assert sample["image"].unique().tolist() == [80]
    assert (sample["key"], sample["label"], sample["json"], sample["cls"]) == (key_of(20), 2, {"n": 20}, 2)
    assert dataset[-1]["key"] == key_of(COUNT - 1)
    assert dataset.labels.tolist() == [number % 3 for number in range(COUNT)]
    with pytest.raises(IndexError):
        dataset[COUNT]


def test_bytes_are_handed_out_undecoded_where_that_is_asked_for(folder: str) -> None:
    decoded, encoded = MapDataset(folder, members=("json",)), MapDataset(folder, members=("json",), decode=False)
    for number in (0, 20, COUNT - 1):
        shown, raw = decoded[number], encoded[number]
        assert isinstance(raw["image"], bytes)
        assert torch.equal(
            torch.from_numpy(cv2.imdecode(np.frombuffer(raw["image"], np.uint8), 1)[:, :, 0]), shown["image"][0]
        )
        assert {**shown, "image": None} == {**raw, "image": None}
    batch = next(iter(StreamDataset(folder, 4, shuffle="none", decode=False)))
    assert batch["image"] == [encoded[number]["image"] for number in range(4)]


@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_undecoded_epochs_have_the_order_of_decoded_ones(folder: str, shuffle: str) -> None:
    keys = [
        [
            key
            for batch in StreamDataset(folder, 4, seed=2, shuffle=shuffle, window=2, decode=decode)
            for key in batch["key"]
        ]
        for decode in (True, False)
    ]
    assert keys[0] == keys[1]


def test_undecoded_bytes_are_checked_like_others(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, bad={5})
    assert MapDataset(folder, decode=False)[5]["image"] == b"no image"  # as it was written; not looked into
    shard = tmp_path / "shards/test-000000.tar"
    damaged = bytearray(shard.read_bytes())
    damaged[512 + 20] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(BadSampleError, match=f"sample {key_of(0)} .*not what was written"):
        MapDataset(folder, decode=False)[0]
    skipping = StreamDataset(folder, 4, shuffle="none", decode=False, on_error="skip")
    with pytest.warns(UserWarning, match="left out"):
        assert sum(len(batch["key"]) for batch in skipping) == COUNT - 1


def test_limits_of_what_is_not_decoded_are_refused(folder: str) -> None:
    with pytest.raises(UserError, match="leave them out with decode=False"):
        StreamDataset(folder, 4, limits=ImageLimits(), decode=False)


def test_batches_come_collated(folder: str) -> None:
    batch = next(iter(StreamDataset(folder, 4, shuffle="none")))
    assert batch["image"].shape == (4, 3, 9, 8)
    assert batch["label"].tolist() == [0, 1, 2, 0]
    assert batch["key"] == [key_of(number) for number in range(4)]


@pytest.mark.parametrize("shuffle", ["full", "block", "none"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_sample_once_in_one_order_for_any_number_of_ranks(folder: str, world: int, shuffle: str) -> None:
    alone = flat(stream(folder, seed=3, shuffle=shuffle, window=2))
    ranks = [stream(folder, 5, seed=3, shuffle=shuffle, window=2, rank=rank, world=world) for rank in range(world)]
    assert merged([list(rank) for rank in ranks]) == alone
    assert sorted(alone) == list(range(COUNT))
    assert (alone == list(range(COUNT))) == (shuffle == "none")


def test_rows_of_few_shards_stay_in_memory_when_blocks_are_shuffled(folder: str) -> None:
    blocks = stream(folder, shuffle="block", window=1)
    assert sorted(flat(blocks)) == list(range(COUNT))
    assert len(blocks._source.reader._rows) <= 3


@pytest.mark.parametrize("tail", ["exact", "pad", "drop"])
def test_an_epoch_is_as_long_as_it_says(folder: str, tail: str) -> None:
    ranks = [stream(folder, seed=1, rank=rank, world=3, tail=tail) for rank in range(3)]
    batches = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(rank) for rank in batches]
    whole = flat(stream(folder, seed=1))
    read = merged(batches)
    if tail == "exact":
        assert read == whole
    elif tail == "pad":
        assert read == whole + whole[:1]
    else:
        assert read == whole[:48]
        assert {len(batch) for rank in batches for batch in rank} == {4}


def test_nothing_is_left_by_a_drop_is_said_at_once(folder: str) -> None:
    with pytest.raises(UserError, match="leaves nothing of 53 samples"):
        stream(folder, 30, world=2, rank=0, tail="drop")


def test_epochs_differ_and_the_same_seed_agrees(folder: str) -> None:
    loader = StreamLoader(stream(folder, seed=1))
    epochs = [flat(list(loader)) for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    again = stream(folder, seed=1)
    again.set_epoch(2)
    assert flat(again) == epochs[2]
    assert flat(stream(folder, seed=2)) != epochs[0]


def test_an_epoch_is_not_repeated_unawares(folder: str) -> None:
    dataset = stream(folder, seed=1)
    first = flat(dataset)
    with pytest.raises(UserError, match=r"call set_epoch\(1\)"):
        list(dataset)
    dataset.set_epoch(0)
    assert flat(dataset) == first
    ordered = stream(folder, shuffle="none")
    assert flat(ordered) == flat(ordered)


def test_augmentation_seeds_follow_from_the_position_and_not_from_the_rank(folder: str) -> None:
    def seeds(**options: Any) -> dict[str, int]:
        read = StreamDataset(folder, 4, collate=list, **options)
        return {sample["key"]: sample["seed"] for batch in read for sample in batch}

    alone = seeds(seed=1)
    assert seeds(seed=1, rank=0, world=2) | seeds(seed=1, rank=1, world=2) == alone
    assert len(set(alone.values())) == COUNT
    assert seeds(seed=2) != alone


@pytest.mark.parametrize("trial", range(12))
def test_resume_goes_on_exactly_also_on_other_ranks_and_batches(folder: str, trial: int) -> None:
    chance = random.Random(trial)
    world, then = chance.choice([1, 2, 3]), chance.choice([1, 2, 3])
    batch_size, shuffle = chance.choice([1, 4, 7]), chance.choice(["full", "block"])
    epoch, options = chance.randrange(3), {"seed": 5, "shuffle": shuffle, "window": 2}
    unbroken = stream(folder, **options)
    unbroken.set_epoch(epoch)
    whole = flat(unbroken)
    done = chance.randrange(-(-COUNT // (batch_size * world)))
    before = [StreamLoader(stream(folder, batch_size, rank=rank, world=world, **options)) for rank in range(world)]
    for loader in before:
        loader.set_epoch(epoch)
    seen = [list(islice(loader, done)) for loader in before]
    states = [json.loads(json.dumps(loader.state_dict())) for loader in before]
    assert all(state == states[0] for state in states)
    after = [StreamLoader(stream(folder, chance.choice([2, 5]), rank=0, world=1, **options))]
    if then > 1:
        after = [StreamLoader(stream(folder, 3, rank=rank, world=then, **options)) for rank in range(then)]
    for loader in after:
        loader.load_state_dict(states[0])
        assert loader.epoch == epoch
    rest = merged([list(loader) for loader in after])
    assert (merged(seen) if done else []) + rest == whole


def test_a_state_is_right_for_a_plain_dataloader_too(folder: str) -> None:
    dataset = stream(folder, seed=2)
    whole = flat(stream(folder, seed=2))
    seen = flat(list(islice(DataLoader(dataset, batch_size=None), 3)))
    assert dataset.state_dict() == dataset.state_dict(batches_done=3)
    resumed = stream(folder, seed=2)
    resumed.load_state_dict(dataset.state_dict())
    assert seen + flat(resumed) == whole


def test_an_epoch_left_early_is_continued_and_a_finished_one_is_followed_by_the_next(folder: str) -> None:
    loader = StreamLoader(stream(folder, seed=4))
    first = flat(list(islice(loader, 2))) + flat(list(loader))
    assert sorted(first) == list(range(COUNT))
    assert loader.epoch == 1
    flat(list(islice(loader, len(loader))))  # all batches, but the end was not asked for
    at_the_end = loader.state_dict()
    assert (at_the_end["epoch"], at_the_end["position"]) == (1, COUNT)
    second = stream(folder, seed=4)
    second.set_epoch(2)
    expected = flat(second)
    assert flat(list(loader)) == expected
    resumed = StreamLoader(stream(folder, seed=4))
    resumed.load_state_dict(at_the_end)
    assert resumed.epoch == 2
    assert flat(list(resumed)) == expected


def test_setting_an_epoch_in_the_middle_of_one_begins_it_anew(folder: str) -> None:
    loader = StreamLoader(stream(folder, seed=4))
    for place, _ in enumerate(loader):
        if place == 3:
            loader.set_epoch(7)
    assert (loader.epoch, loader.state_dict()["position"]) == (7, 0)


def test_a_state_of_other_data_or_another_order_is_refused(folder: str, tmp_path: Path) -> None:
    state = stream(folder, seed=1).state_dict()
    for other, word in (
        (stream(folder, seed=2), "seed"),
        (stream(folder, seed=1, shuffle="none"), "shuffle"),
        (stream(write_dataset(tmp_path, bad={3}), seed=1), "dataset"),
    ):
        with pytest.raises(UserError, match=word):
            other.load_state_dict(state)


def test_a_bad_sample_is_named_with_the_command_that_shows_it(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, bad={7})
    with pytest.raises(BadSampleError, match=f"{key_of(7)} in .*test-000000.tar .*limbeck show {key_of(7)}"):
        list(stream(folder))
    with pytest.raises(BadSampleError, match=key_of(7)):
        MapDataset(folder)[7]


def test_skipped_samples_shorten_their_batch_and_move_no_other(tmp_path: Path) -> None:
    bad = {7, 8, 31}
    folder = write_dataset(tmp_path / "bad", bad)
    sound = list(stream(write_dataset(tmp_path / "sound"), seed=1))
    read = stream(folder, seed=1, on_error="skip")
    with pytest.warns(UserWarning, match="left out, and further ones without a word") as told:
        assert list(read) == [[number for number in batch if number not in bad] for batch in sound]
    assert (read.skipped, len(told)) == (3, 1)


def test_bad_samples_in_a_row_and_batches_of_nothing_else_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 bad samples in a row"):
        list(stream(write_dataset(tmp_path / "row", range(2, 20)), 20, shuffle="none", on_error="skip"))
    with pytest.raises(UserError, match="every sample of a batch is bad"):
        list(stream(write_dataset(tmp_path / "batch", range(4, 8)), 4, shuffle="none", on_error="skip"))


def test_a_cut_shard_is_a_bad_sample_and_a_missing_one_an_error_of_the_machine(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    shard = tmp_path / "shards/test-000005.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    with pytest.raises(BadSampleError, match="is damaged"):
        list(stream(folder))
    shard.unlink()
    with pytest.raises(Exception, match="test-000005") as error:
        list(stream(folder, 53, on_error="skip"))
    assert not isinstance(error.value, BadSampleError)


def test_a_failing_transform_says_on_which_sample(folder: str) -> None:
    def fail(sample: dict[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        MapDataset(folder, fail)[5]
    assert key_of(5) in error.value.__notes__[0]


def test_wrong_arguments_are_named(folder: str) -> None:
    with pytest.raises(UserError, match=r"rank must be 0\.\.1"):
        stream(folder, rank=2, world=2)
    with pytest.raises(UserError, match="both rank and world"):
        stream(folder, rank=1)
    with pytest.raises(UserError, match="shuffle is one of full, block, none"):
        stream(folder, shuffle="some")
    with pytest.raises(UserError, match="batch_size must be 1"):
        stream(folder, 0)
    with pytest.raises(UserError, match="no member 'jpg'"):
        stream(folder, members=("jpg",))
    with pytest.raises(TypeError, match="batch_size"):
        StreamLoader(stream(folder), batch_size=3)


def test_torchruns_environment_places_a_rank(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    placed = stream(folder)
    assert (placed.rank, placed.world) == (1, 3)
