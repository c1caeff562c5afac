"""The canonical order of an epoch and how ranks and workers share it: arithmetic on integers, no files, no torch.

An epoch is one sequence of positions 0, 1, 2, ... whose samples follow from (seed, epoch) alone. Rank r of w takes the
positions r, r + w, r + 2 w, ...; so position p is read by rank p % w in its step p // w, whatever w is. A rank's
positions fall into batches, and worker i of n takes whole batches i, i + n, i + 2 n, ..., which is the order in which
torch's DataLoader asks its workers. A pass that goes on from position s does the same with the positions from s on, so
one number describes how far a run has come, and another number of ranks or workers can go on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from pipelines.seeds import seed_for

Shuffle = Literal["full", "block", "none"]
#: What is done when the samples cannot be shared out evenly; see `pass_end`.
Tail = Literal["exact", "pad", "drop"]
Numbers = np.ndarray[Any, np.dtype[np.int64]]

#: Windows kept permuted at once: readers pass from one into the next.
_WINDOWS = 2


def permutation(count: int, seed: int, epoch: int, purpose: str) -> Numbers:
    """0..count-1 in a random order, int64 (count,).

    The rank of `count` raw 64-bit outputs of PCG64: numpy promises those for ever, and `Generator.permutation` not.
    """
    keys = np.random.PCG64(seed_for(seed, "loader", str(epoch), purpose)).random_raw(count)
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


class Order:
    """Which sample stands at which position of an epoch, for shards of `sizes` samples.

    Samples are numbered through all shards in index order. `full` is a uniform permutation of all of them and holds
    8 bytes per sample. `block` permutes the shards, then all samples within each window of `window` consecutive shards:
    at any time only the shards of a window or two are read (page cache, sidecar rows, a caching file system), but
    samples of a shard stay within a window of each other, so with shards sorted by class a batch sees the classes of
    `window` random shards and not of all. Where that matters and reads are cheap, take `full`. `none` is index order.
    """

    def __init__(
        self, sizes: Sequence[int], seed: int = 0, epoch: int = 0, shuffle: Shuffle = "full", window: int = 16
    ) -> None:
        assert window >= 1, "a window holds at least one shard"
        self._sizes = np.asarray(sizes, np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        self._seed, self._epoch, self._shuffle = seed, epoch, shuffle
        self._known: dict[int, Numbers] = {}
        if shuffle == "block":
            shards = permutation(len(sizes), seed, epoch, "shards")
            self._groups = [shards[start : start + window] for start in range(0, len(shards), window)]
            lengths = [int(self._sizes[group].sum()) for group in self._groups]
            self._bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return int(self._firsts[-1])

    def take(self, positions: Sequence[int] | Numbers) -> Numbers:
        """Sample numbers at `positions` (n,) int64. Positions past the epoch's end begin again at its start."""
        places = np.asarray(positions, np.int64) % max(len(self), 1)
        if self._shuffle == "none":
            return places
        if self._shuffle == "full":
            if 0 not in self._known:
                self._known[0] = permutation(len(self), self._seed, self._epoch, "samples")
            return self._known[0][places]
        windows = np.searchsorted(self._bounds, places, side="right") - 1
        numbers = np.empty_like(places)
        for window in np.unique(windows):
            here = windows == window
            numbers[here] = self._window(int(window))[places[here] - self._bounds[window]]
        return numbers

    def _window(self, window: int) -> Numbers:
        order = self._known.pop(window, None)
        if order is None:
            group = self._groups[window]
            samples = np.concatenate([np.arange(self._firsts[shard], self._firsts[shard + 1]) for shard in group])
            order = samples[permutation(len(samples), self._seed, self._epoch, f"window {window}")]
        self._known[window] = order
        while len(self._known) > _WINDOWS:
            del self._known[next(iter(self._known))]
        return order


def pass_end(count: int, start: int, world: int, batch_size: int, tail: Tail) -> int:
    """The position at which a pass over `count` samples that goes on from `start` ends.

    `exact` reads every sample once: ranks may differ by one sample, and so by one batch, which is right for evaluation
    and hangs collective training. `pad` repeats samples from the start of the epoch until all ranks have the same
    number of samples. `drop` leaves out the last samples of the order so that all ranks have the same number of whole
    batches.
    """
    left = max(count - start, 0)
    if tail == "pad":
        left = -(-left // world) * world
    elif tail == "drop":
        left -= left % (world * batch_size)
    return start + left


def dealt_batches(
    start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1, worker: int = 0, workers: int = 1
) -> Iterator[range]:
    """The positions of each batch that a worker of a rank reads, in its order; the rank's last batch may be short."""
    assert 0 <= rank < world, f"rank {rank} of {world}"
    assert 0 <= worker < workers, f"worker {worker} of {workers}"
    own = range(start + rank, stop, world)
    for first in range(worker * batch_size, len(own), workers * batch_size):
        yield own[first : first + batch_size]
