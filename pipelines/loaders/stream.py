"""An epoch of a dataset in canonical order as a torch dataset: exact, the same for any number of workers, resumable.

Imports torch; `import pipelines` does not reach it. Order is in `order`, bytes and pixels in `reading`, and
`loader.StreamLoader` is the DataLoader that keeps account of what a trainer has really been given.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple, get_args

import torch
from torch.utils import data

from pipelines.errors import UserError
from pipelines.images.params import ImageLimits
from pipelines.loaders.dataset import Location, Transform, finished, opened
from pipelines.loaders.order import Ends, Order, Shuffle, dealt_batches, order_seed, pass_end
from pipelines.loaders.reading import OnError, SampleReader
from pipelines.storage import canonical_json

#: Samples that a decoding thread takes at once: handing over single small images costs as much as decoding them.
_CHUNK = 8
#: Workers of one rank that are watched for reading an epoch twice.
_WATCHED = 256
# Places in the memory shared with worker processes.
_SERIAL, _EPOCH, _START, _USED = range(4)


class Pass(NamedTuple):
    """One reading of an epoch from a position on; `serial` tells passes apart."""

    serial: int
    start: int


class StreamDataset(data.IterableDataset[Any]):
    """One rank's share of an epoch in canonical order (see `order`), the same for any number of workers.

    Samples are those of `MapDataset` plus `seed`, 63 bits that follow from (seed, epoch, position): draw augmentations
    from it and they too are the same for any number of workers. `batch_size` belongs to the dataset, because whole
    batches are dealt to workers; a plain `DataLoader` must be given the same one.

    `rank` and `world` are torch.distributed's, or those of torchrun's environment, unless given. `shuffle`, `window` and
    `ends` are those of `order.Order` and `order.pass_end`. `threads` read and decode ahead in each worker process; at
    object stores, more of them hide the latency.

    An epoch is read once: `set_epoch(e)` before each, which persistent workers see too, or `StreamLoader`, which moves
    on by itself. Reading a shuffled epoch a second time is a `UserError`, not a silent repetition.
    """

    def __init__(
        self,
        location: Location,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: Shuffle = "full",
        window: int = 16,
        ends: Ends = "exact",
        rank: int | None = None,
        world: int | None = None,
        transform: Transform | None = None,
        members: Sequence[str] = (),
        on_error: OnError = "raise",
        bad_in_a_row: int = 8,
        limits: ImageLimits | None = None,
        threads: int = 2,
    ) -> None:
        super().__init__()
        for name, value, known in (("shuffle", shuffle, Shuffle), ("ends", ends, Ends)):
            if value not in get_args(known):
                raise UserError(f"{name} is one of {', '.join(get_args(known))}, got {value!r}")
        self.rank, self.world = _whereabouts(rank, world)
        if not 0 <= self.rank < self.world or min(batch_size, window, threads) < 1:
            raise UserError(
                f"rank counts from 0 below world, and batch_size, window and threads are at least 1; got rank {self.rank} "
                f"of {self.world}, {batch_size}, {window}, {threads}"
            )
        # A window is read together with the next one while readers pass from it.
        keep = 2 * window + 1 if shuffle == "block" else None
        self._reader = SampleReader(opened(location), members, on_error, bad_in_a_row, limits, keep)
        self._transform, self._threads, self._ends = transform, threads, ends
        self.batch_size, self.seed, self._shuffle, self._window = batch_size, seed, shuffle, window
        self._consumed = 0
        if not self._stop(0):
            raise UserError(
                f"ends=drop leaves nothing of {len(self._reader)} samples for {self.world} ranks with batches of {batch_size}"
            )
        # Worker processes, persistent ones too, read where to begin here; `_SERIAL` counts what was begun.
        self._shared = torch.tensor([0, 0, 0, -1]).share_memory_()
        self._finished = torch.full((_WATCHED,), -1, dtype=torch.int64).share_memory_()
        self._replaced = torch.zeros(_WATCHED, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        stop = pass_end(len(self._reader), 0, self.world, self.batch_size, self._ends)
        return len(range(self.rank, stop, self.world))

    @property
    def epoch(self) -> int:
        """The epoch that is read next, or is being read."""
        return int(self._shared[_EPOCH])

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return self._reader.dataset.classes

    @property
    def replaced(self) -> int:
        """Bad samples that another stood in for, over all workers of this rank, as of what they have read ahead."""
        return int(self._replaced.sum())

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch from its start at the next iteration, in all workers."""
        self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """How far the run has come: the epoch, and the position up to which all ranks together have consumed it.

        Right between batches, on any rank, as long as all ranks have taken the same number. Worker processes read ahead
        of the trainer, so after a plain DataLoader with workers this is a `UserError`: take `StreamLoader.state_dict`.
        """
        if self._shared[_USED] == self._shared[_SERIAL]:
            raise UserError("worker processes read ahead of the trainer; take state_dict() of a StreamLoader")
        return self.consumed_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; batch size, ranks and workers may be others now.

        Raises `UserError` when the dataset, the seed or the order is not the one of the state.
        """
        for name, mine in self._identity.items():
            if state.get(name) != mine:
                raise UserError(f"the state was taken with {name} {state.get(name)!r}, this dataset has {mine!r}")
        self._go_to(int(state["epoch"]), int(state["position"]))
        self._skip_if_over()

    def consumed_state(self) -> dict[str, Any]:
        """`state_dict` without its check; for a loader that calls the three methods below."""
        return self._identity | {"epoch": self.epoch, "position": self._consumed}

    def begin_pass(self) -> Pass:
        """Go on where consumption stopped, with the next epoch if that was an epoch's end."""
        self._skip_if_over()
        self._go_to(self.epoch, self._consumed)
        return Pass(int(self._shared[_SERIAL]), self._consumed)

    def consumed(self, begun: Pass, batches: int) -> None:
        """The trainer has been given so many batches of this pass. Without effect once another epoch was set."""
        if self._shared[_SERIAL] == begun.serial:
            stop = self._stop(begun.start)
            self._consumed = min(begun.start + batches * self.batch_size * self.world, stop)

    def end_pass(self, begun: Pass) -> None:
        """The trainer has been given all of the epoch."""
        if self._shared[_SERIAL] == begun.serial:
            self.set_epoch(self.epoch + 1)

    def __iter__(self) -> Iterator[Any]:
        info = data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # Read now and not at the first sample: by then the trainer may have set the next epoch.
        serial, epoch, start = self._shared[:_USED].tolist()
        if info is not None:
            self._shared[_USED] = serial
            again = self._finished[worker % _WATCHED] == serial
        else:
            start = self._consumed
            again = self._stop(start) == start > 0
            if again and self._shuffle == "none":
                start = self._consumed = 0
        if again and self._shuffle != "none":
            # Raised at the first sample, where a worker process can still report it.
            return _refused(f"epoch {epoch} was read to its end; call set_epoch({epoch + 1}), or use StreamLoader")
        return self._samples(serial, epoch, start, worker, workers, alone=info is None)

    def _samples(self, serial: int, epoch: int, start: int, worker: int, workers: int, alone: bool) -> Iterator[Any]:
        stop = self._stop(start)
        order = Order(self._reader.sizes, self.seed, epoch, self._shuffle, self._window)
        batches = dealt_batches(start, stop, self.batch_size, self.rank, self.world, worker, workers)
        seen = self._reader.replaced
        for number, (position, sample) in enumerate(self._decoded(order, batches), 1):
            sample["seed"] = order_seed(self.seed, epoch, f"position {position}")
            if self._reader.replaced != seen:
                self._replaced[worker % _WATCHED] += self._reader.replaced - seen
                seen = self._reader.replaced
            if alone and self._shared[_SERIAL] == serial:
                last = position + self.world >= stop
                self._consumed = stop if last else start + number * self.world
            yield finished(sample, self._transform)
        if not alone:
            self._finished[worker % _WATCHED] = serial

    def _decoded(self, order: Order, batches: Iterator[range]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Samples of all batches in order with their positions, decoded a few chunks ahead by the threads."""
        chunks = (batch[place : place + _CHUNK] for batch in batches for place in range(0, len(batch), _CHUNK))

        def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
            return [self._reader.read(number) for number in numbers]

        pool = ThreadPoolExecutor(self._threads)
        waiting: deque[tuple[range, Future[list[dict[str, Any]]]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((chunk, pool.submit(read, order.take(chunk).tolist())))
                if len(waiting) > 2 * self._threads:
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            while waiting:
                done, future = waiting.popleft()
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def _stop(self, start: int) -> int:
        return pass_end(len(self._reader), start, self.world, self.batch_size, self._ends)

    def _go_to(self, epoch: int, position: int) -> None:
        self._consumed = position
        self._shared[_EPOCH], self._shared[_START] = epoch, position
        self._shared[_SERIAL] += 1

    def _skip_if_over(self) -> None:
        """At the end of an epoch, the next one is what comes."""
        if self._consumed and self._stop(self._consumed) == self._consumed:
            self.set_epoch(self.epoch + 1)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What must agree for a position to mean the same sample."""
        shards = [shard.sha256 for shard in self._reader.dataset.shards]
        digest = hashlib.sha256(canonical_json(shards)).hexdigest()
        window = self._window if self._shuffle == "block" else None
        return {"dataset": digest, "seed": self.seed, "shuffle": self._shuffle, "window": window}


def _whereabouts(rank: int | None, world: int | None) -> tuple[int, int]:
    if rank is not None and world is not None:
        return rank, world
    if (rank is None) != (world is None):
        raise UserError("give both rank and world, or neither")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _refused(problem: str) -> Iterator[Any]:
    raise UserError(problem)
    yield
