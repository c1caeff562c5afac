"""Hashing from several threads: in order, with what went wrong in its place, and never far ahead of who takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

import pytest

from pipelines.outcomes import Outcome, failed
from pipelines.sources.base import digest, hash_in_order


def load(number: int) -> tuple[int, bytes] | Outcome:
    if number % 7 == 3:
        raise FileNotFoundError
    return failed("empty") if number % 7 == 5 else digest(b"%d" % number)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 65, 200])
@pytest.mark.parametrize("window", [1, 5, 64])
def test_every_item_comes_in_order_with_its_hash_or_its_problem(count: int, window: int) -> None:
    hashed = list(hash_in_order(range(count), load, window))
    assert [item.item for item in hashed] == list(range(count))
    for number, item in enumerate(hashed):
        reason = {3: "missing_file", 5: "empty"}.get(number % 7)
        assert item.sha256 == (None if reason else hashlib.sha256(b"%d" % number).digest())
        assert (item.problem.reason if item.problem else None) == reason


@pytest.mark.parametrize("window", [1, 5, 64])
def test_no_more_than_a_window_is_under_way(window: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    hashed = hash_in_order(items(), load, window)
    for place, item in enumerate(islice(hashed, 300)):
        assert item.item == place
        assert len(taken) <= place + window
    hashed.close()  # type: ignore[attr-defined]


def test_a_bug_in_loading_is_not_swallowed() -> None:
    def broken(number: int) -> tuple[int, bytes]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(hash_in_order(range(20), broken))
