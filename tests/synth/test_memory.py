"""The batch that fits: two trials, a straight line, and half as much when the line was wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from synth.memory import largest_batch


class Card:
    """A made-up GPU: `fixed` bytes for the model, `each` for an image, and a wall that the line does not know of."""

    def __init__(self, room: int, fixed: int, each: int, wall: int = 1 << 60) -> None:
        self.size, self.fixed, self.each, self.wall = room, fixed, each, wall
        self.batch, self.tried = 0, list[int]()

    def room(self) -> int:
        return self.size

    def run(self, batch: int) -> None:
        self.batch = batch
        self.tried.append(batch)
        if batch > self.wall:
            raise torch.cuda.OutOfMemoryError("full")

    def peak(self, run: Callable[[], None]) -> int:
        run()
        return self.fixed + self.each * self.batch


@pytest.mark.parametrize(
    ("card", "batch"),
    [
        (Card(1000, 100, 10), 64),  # 75 fit into 85 %
        (Card(1000, 100, 400), 1),
        (Card(1000, 100, 1), 256),  # the limit
        (Card(1000, 900, 100), 1),  # nothing fits: one is tried all the same
        (Card(1000, 100, 10, wall=40), 32),
    ],
)
def test_the_batch_fits_and_is_a_round_number(card: Card, batch: int) -> None:
    assert largest_batch(card.run, torch.device("cpu"), meter=card) == batch


def test_a_batch_too_large_is_tried_smaller_until_it_fits() -> None:
    card = Card(1000, 100, 10, wall=40)
    largest_batch(card.run, torch.device("cpu"), meter=card)
    assert card.tried == [1, 2, 64, 48, 32]
