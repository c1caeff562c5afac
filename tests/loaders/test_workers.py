"""With worker processes: the order of none, epochs that move on, states that count what the trainer got."""

from __future__ import annotations

import multiprocessing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipelines.errors import UserError
from pipelines.loaders.loader import StreamLoader
from pipelines.loaders.reading import BadSampleError
from pipelines.loaders.stream import StreamDataset
from tests.loaders.making import COUNT, key_of, merged, numbers, write_dataset

FORK = {"multiprocessing_context": "fork"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def stream(folder: str, batch_size: int = 4, **options: Any) -> StreamDataset:
    return StreamDataset(folder, batch_size, collate=numbers, threads=1, **options)


@pytest.mark.parametrize(("workers", "world"), [(1, 1), (2, 2), (2, 3), (4, 1), (4, 2)])
def test_batches_are_those_of_no_workers(folder: str, workers: int, world: int) -> None:
    ranks = []
    for rank in range(world):
        plain = list(stream(folder, seed=3, rank=rank, world=world))
        # One rank with worker processes is enough to see that they change nothing.
        used = workers if rank == world - 1 else 0
        loader = DataLoader(
            stream(folder, seed=3, rank=rank, world=world), batch_size=None, num_workers=used, **FORK if used else {}
        )
        ranks.append(list(loader))
        assert ranks[-1] == plain
    assert sorted(merged(ranks)) == list(range(COUNT))


def test_persistent_workers_go_on_to_the_next_epoch(folder: str) -> None:
    loader = StreamLoader(stream(folder, seed=1), num_workers=2, persistent_workers=True, **FORK)
    alone = StreamLoader(stream(folder, seed=1))
    epochs = [list(loader) for _ in range(3)]
    assert epochs == [list(alone) for _ in range(3)]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_plain_dataloader_follows_set_epoch(folder: str, persistent: bool) -> None:
    dataset = stream(folder, seed=1)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=persistent, **FORK)
    first = list(loader)
    dataset.set_epoch(1)
    second, expected = list(loader), stream(folder, seed=1)
    expected.set_epoch(1)
    assert second == list(expected) != first


@pytest.mark.parametrize("persistent", [False, True])
def test_a_plain_dataloader_refuses_to_repeat_an_epoch(folder: str, persistent: bool) -> None:
    loader = DataLoader(stream(folder, seed=1), batch_size=None, num_workers=2, persistent_workers=persistent, **FORK)
    list(loader)
    problem = None
    try:
        list(loader)
    except UserError as error:
        # Torch's traceback and its error hold each other; left to the garbage collector, its workers stop after 10 s.
        problem = str(error.with_traceback(None))
    assert "call set_epoch(1)" in str(problem)


def test_a_state_counts_what_was_given_and_not_what_was_read_ahead(folder: str) -> None:
    dataset = stream(folder, seed=6)
    loader = StreamLoader(dataset, num_workers=2, prefetch_factor=4, **FORK)
    seen = list(islice(loader, 5))
    state = loader.state_dict()
    assert state["position"] == 20
    assert dataset.state_dict(batches_done=5) == state
    with pytest.raises(UserError, match="read ahead"):
        dataset.state_dict()
    for workers in (0, 3):
        resumed = StreamLoader(stream(folder, seed=6), num_workers=workers, **FORK if workers else {})
        resumed.load_state_dict(state)
        assert seen + list(resumed) == list(stream(folder, seed=6))


def test_a_pass_left_early_goes_on_with_persistent_workers(folder: str) -> None:
    loader = StreamLoader(stream(folder, seed=6), num_workers=2, persistent_workers=True, **FORK)
    assert list(islice(loader, 5)) + list(islice(loader, 2)) + list(loader) == list(stream(folder, seed=6))
    assert loader.epoch == 1


def test_spawned_workers_see_the_same_epoch(folder: str) -> None:
    loader = StreamLoader(stream(folder, seed=1), num_workers=1, multiprocessing_context="spawn")
    loader.set_epoch(3)
    alone = stream(folder, seed=1)
    alone.set_epoch(3)
    assert list(loader) == list(alone)


def test_a_bad_sample_is_named_across_processes(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, bad={7})
    with pytest.raises(BadSampleError, match=f"limbeck show {key_of(7)}"):
        list(StreamLoader(stream(folder, shuffle="none"), num_workers=2, **FORK))
    assert multiprocessing.active_children() == []


def test_skipped_samples_are_counted_across_processes(tmp_path: Path) -> None:
    skipping = stream(write_dataset(tmp_path, bad={7, 31}), on_error="skip")
    loader = StreamLoader(skipping, num_workers=2, **FORK)
    assert sum(len(batch) for batch in loader) == COUNT - 2
    assert skipping.skipped == 2


def test_no_worker_outlives_a_pass_that_was_left(folder: str) -> None:
    assert len(list(islice(StreamLoader(stream(folder), num_workers=2, **FORK), 1))) == 1
    assert multiprocessing.active_children() == []
