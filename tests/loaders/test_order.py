"""The canonical order: a pure function of seed and epoch, dealt to ranks and workers without loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipelines.loaders.order import Order, Shuffle, dealt_batches, pass_end

SIZES = (9, 1, 17, 4, 12, 10, 0, 3)
COUNT = sum(SIZES)
GOLDEN = {"full": [3, 4, 5, 2, 0, 1, 7, 6], "other": [7, 1, 2, 0, 3, 6, 4, 5], "block": [0, 1, 4, 5, 6, 7, 2, 3]}


def whole(shuffle: Shuffle, seed: int = 0, epoch: int = 0, window: int = 3) -> list[int]:
    return Order(SIZES, seed, epoch, shuffle, window).take(range(COUNT)).tolist()


@pytest.mark.parametrize("shuffle", ["full", "block", "none"])
def test_an_order_holds_every_sample_once(shuffle: Shuffle) -> None:
    assert sorted(whole(shuffle)) == list(range(COUNT))


@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_epochs_and_seeds_differ_and_each_is_always_the_same(shuffle: Shuffle) -> None:
    assert whole(shuffle) == whole(shuffle)
    assert len({tuple(whole(shuffle, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_orders_are_pinned_for_ever() -> None:
    assert Order((5, 3), 0, 0).take(range(8)).tolist() == GOLDEN["full"]
    assert Order((5, 3), 7, 2).take(range(8)).tolist() == GOLDEN["other"]
    assert Order((2, 2, 2, 2), 0, 0, "block", 2).take(range(8)).tolist() == GOLDEN["block"]
    assert Order((5, 3), 0, 0, "none").take(range(8)).tolist() == list(range(8))


def test_block_reads_a_window_of_shards_at_a_time() -> None:
    sizes = [10] * 40
    order = Order(sizes, 3, 1, "block", 4).take(range(400))
    windows = [set((order[start : start + 40] // 10).tolist()) for start in range(0, 400, 40)]
    assert all(len(shards) == 4 for shards in windows)
    assert set.union(*windows) == set(range(40))
    assert order[:40].tolist() != sorted(order[:40].tolist())


@pytest.mark.parametrize("shuffle", ["full", "block", "none"])
def test_any_part_of_an_order_is_the_same_however_it_is_asked_for(shuffle: Shuffle) -> None:
    order = Order(SIZES, 1, 1, shuffle, 2)
    there = np.random.default_rng(0).integers(0, COUNT, 200)
    assert order.take(there).tolist() == [whole(shuffle, 1, 1, 2)[place] for place in there]


def test_positions_past_the_end_begin_again() -> None:
    assert Order((4,), 0, 0).take([4, 5, 9]).tolist() == Order((4,), 0, 0).take([0, 1, 1]).tolist()


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_dealing_loses_and_doubles_nothing(workers: int, world: int, batch_size: int) -> None:
    start, stop = 6, 53
    for rank in range(world):
        dealt = [
            list(dealt_batches(start, stop, batch_size, rank, world, worker, workers)) for worker in range(workers)
        ]
        # The order in which a DataLoader asks its workers.
        asked = [batch for turn in itertools.zip_longest(*dealt) for batch in turn if batch is not None]
        assert [place for batch in asked for place in batch] == list(range(start + rank, stop, world))
        assert all(len(batch) == batch_size for batch in asked[:-1])


@pytest.mark.parametrize(("tail", "end"), [("exact", 53), ("pad", 54), ("drop", 48)])
def test_a_tail_ends_where_it_says(tail: str, end: int) -> None:
    assert pass_end(53, 0, world=3, batch_size=4, tail=tail) == end  # type: ignore[arg-type]
    assert pass_end(53, 24, world=3, batch_size=4, tail=tail) == end  # type: ignore[arg-type]


def test_a_pass_that_begins_at_the_end_is_empty() -> None:
    assert [pass_end(53, 54, 3, 4, tail) for tail in ("exact", "pad", "drop")] == [54, 54, 54]
