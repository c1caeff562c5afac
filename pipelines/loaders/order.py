"""The canonical order of an epoch, and who reads what of it. Pure functions of (seed, epoch, length); no torch.

Positions of the order are dealt to ranks in turn: position p belongs to rank p % world. The order itself knows nothing of
ranks or workers, so a run may go on with another number of either and see the samples it has not seen yet.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pipelines.seeds import seed_for

Shuffle = Literal["none", "full", "block"]
#: What happens to a tail that does not fill all ranks: `exact` leaves ranks uneven by one, `pad` repeats the epoch's first
#: samples, `drop` leaves the tail out.
Tail = Literal["exact", "pad", "drop"]
Positions = np.ndarray[Any, np.dtype[np.int64]]


def epoch_order(count: int, seed: int, epoch: int, shuffle: Shuffle = "full", block: int = 4096) -> Positions:
    """A permutation of 0..count-1 for one epoch.

    `full` is uniform. `block` shuffles blocks of `block` neighbours and the samples inside each, so that a reader of remote
    shards stays within a few of them at a time; neighbours in storage stay near each other in the epoch.
    """
    if shuffle == "none":
        return np.arange(count)
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "loader", str(epoch), shuffle)))
    if shuffle == "full":
        return rng.permutation(count)
    starts = rng.permutation(np.arange(0, count, block))
    pieces = [start + rng.permutation(min(block, count - start)) for start in starts]
    return np.concatenate(pieces) if pieces else np.arange(0)


def fit_tail(order: Positions, world: int, tail: Tail) -> Positions:
    """The order with its tail made to fit `world` ranks."""
    rest = len(order) % world
    if rest == 0 or tail == "exact":
        return order
    if tail == "drop":
        return order[: len(order) - rest]
    return np.resize(np.concatenate([order, order]), len(order) + world - rest)


def batches_of(order: Positions, start: int, rank: int, world: int, batch: int) -> list[Positions]:
    """The batches of one rank from position `start` of the order on, `batch` samples each, the last one maybe short.

    A global step takes `batch * world` positions; rank r gets every world-th of them, beginning at r.
    """
    step = batch * world
    return [order[first : first + step][rank::world] for first in range(start, len(order), step)]
