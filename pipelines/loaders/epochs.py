"""Any epochs as a torch dataset: exact, the same for any number of workers, resumable. What they consist of says a source.

Imports torch; `import pipelines` does not reach it. `stream` is the source of a whole dataset, `curriculum` that of a curriculum, and
`loader.StreamLoader` is the DataLoader that keeps account of what a trainer has really been given.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch.utils import data

from pipelines.errors import UserError
from pipelines.loaders.dataset import Transform, finished
from pipelines.loaders.order import Numbers, Tail, dealt_batches, pass_end
from pipelines.loaders.reading import BadSampleError
from pipelines.seeds import seed_for

OnError = Literal["raise", "skip"]
Read = dict[str, Any] | BadSampleError

#: Samples that a decoding thread takes at once: handing over single small images costs as much as decoding them.
_CHUNK = 8
#: Bad samples in a row that turn a skip into an error.
MAX_CONSECUTIVE = 16
#: Workers of one rank with a place of their own in shared memory.
_WATCHED = 256
# Places in the memory shared with worker processes.
_SERIAL, _EPOCH, _START, _USED = range(4)


class Pass(NamedTuple):
    """One reading of an epoch from a position on; `serial` tells passes apart."""

    serial: int
    start: int


class Positions(Protocol):
    """An epoch's order: sample numbers by position; positions past its end begin again at its start."""

    def take(self, positions: Sequence[int] | Numbers) -> Numbers: ...


class EpochSource(Protocol):
    """What epochs consist of. It is pickled to worker processes; `read` is called from many threads.

    Every epoch has `len` samples. `identity` is what must agree for a position to mean the same sample, as JSON has it. `repeats`: all
    epochs are the same, so one may be read twice.
    """

    @property
    def classes(self) -> list[str]: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def repeats(self) -> bool: ...
    def __len__(self) -> int: ...
    def order(self, epoch: int) -> Positions: ...
    def read(self, number: int) -> dict[str, Any]: ...


class EpochDataset(data.IterableDataset[Any]):
    """Batches of one rank's share of the epochs of `source`; see `stream.StreamDataset`, which says what the options are."""

    def __init__(
        self,
        source: EpochSource,
        batch_size: int,
        *,
        seed: int = 0,
        tail: Tail = "exact",
        rank: int | None = None,
        world: int | None = None,
        transform: Transform | None = None,
        collate: Callable[[list[Any]], Any] = data.default_collate,
        on_error: OnError = "raise",
        threads: int = 2,
    ) -> None:
        super().__init__()
        for name, value, choices in (("tail", tail, Tail), ("on_error", on_error, OnError)):
            require_choice(name, value, choices)
        for name, number in (("batch_size", batch_size), ("threads", threads)):
            require_positive(name, number)
        self.rank, self.world = _whereabouts(rank, world)
        if not 0 <= self.rank < self.world:
            raise UserError(f"rank must be 0..{self.world - 1}, got {self.rank}")
        self._source = source
        self._transform, self._collate, self._threads = transform, collate, threads
        self._tail, self._on_error = tail, on_error
        self.batch_size, self.seed = batch_size, seed
        self._consumed = 0
        if not self._stop(0):
            raise UserError(
                f"tail=drop leaves nothing of {len(source)} samples for {self.world} ranks and batches of {batch_size}"
            )
        # Worker processes, persistent ones too, read where to begin here; `_SERIAL` counts what was begun.
        self._shared = torch.tensor([0, 0, 0, -1]).share_memory_()
        self._finished = torch.full((_WATCHED,), -1, dtype=torch.int64).share_memory_()
        self._skipped = torch.zeros(_WATCHED, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return -(-len(range(self.rank, self._stop(0), self.world)) // self.batch_size)

    @property
    def epoch(self) -> int:
        """The epoch that is read next, or is being read."""
        return int(self._shared[_EPOCH])

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return self._source.classes

    @property
    def skipped(self) -> int:
        """Bad samples left out by this rank so far, as of what its workers have read ahead."""
        return int(self._skipped.sum())

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch from its start at the next iteration, in all workers."""
        self._go_to(epoch, 0)

    def state_dict(self, batches_done: int | None = None) -> dict[str, Any]:
        """How far the run has come: the epoch, and the position up to which all ranks together have consumed it.

        Right between batches, on any rank, as long as all ranks have taken the same number. Worker processes read ahead
        of the trainer; only `StreamLoader` knows what it was given. With a plain DataLoader, say how many `batches_done`
        were taken since the epoch was set or the state loaded.
        """
        if batches_done is not None:
            start = int(self._shared[_START])
            return self.consumed_state(self._after(start, batches_done))
        if self._shared[_USED] == self._shared[_SERIAL]:
            raise UserError("worker processes read ahead; take StreamLoader.state_dict(), or say how many batches_done")
        return self.consumed_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; batch size, ranks and workers may be others now.

        Raises `UserError` when the dataset, the seed or the order is not the one of the state.
        """
        for name, own in self._identity.items():
            if state.get(name) != own:
                raise UserError(f"the state was taken with {name} {state.get(name)!r}, this dataset has {own!r}")
        self._go_to(int(state["epoch"]), int(state["position"]))
        self._skip_if_over()

    def consumed_state(self, position: int | None = None) -> dict[str, Any]:
        """`state_dict` without its check; for a loader that calls the three methods below."""
        return self._identity | {"epoch": self.epoch, "position": self._consumed if position is None else position}

    def begin_pass(self) -> Pass:
        """Go on where consumption stopped, with the next epoch if that was an epoch's end."""
        self._skip_if_over()
        self._go_to(self.epoch, self._consumed)
        return Pass(int(self._shared[_SERIAL]), self._consumed)

    def consumed(self, begun: Pass, batches: int) -> None:
        """The trainer has been given so many batches of this pass. Without effect once another epoch was set."""
        if self._shared[_SERIAL] == begun.serial:
            self._consumed = self._after(begun.start, batches)

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
            if again and self._source.repeats:
                start = self._consumed = 0
        if again and not self._source.repeats:
            # Raised at the first sample, where a worker process can still report it.
            return _refused(f"epoch {epoch} was read to its end; call set_epoch({epoch + 1}), or use StreamLoader")
        return self._batches(serial, epoch, start, worker, workers, alone=info is None)

    def _batches(self, serial: int, epoch: int, start: int, worker: int, workers: int, alone: bool) -> Iterator[Any]:
        order = self._source.order(epoch)
        dealt = dealt_batches(start, self._stop(start), self.batch_size, self.rank, self.world, worker, workers)
        bad_in_a_row = 0
        for number, (positions, results) in enumerate(self._read_ahead(order, dealt), 1):
            samples = []
            for position, sample in zip(positions, results, strict=True):
                if isinstance(sample, BadSampleError):
                    bad_in_a_row += 1
                    self._skip(sample, bad_in_a_row, worker)
                    continue
                bad_in_a_row = 0
                sample["seed"] = seed_for(self.seed, "loader", str(epoch), f"position {position}")
                sample["epoch"] = epoch
                samples.append(finished(sample, self._transform))
            if not samples:
                raise UserError(f"every sample of a batch is bad; the last: {results[-1]}")
            if alone and self._shared[_SERIAL] == serial:
                self._consumed = self._after(start, number)
            yield self._collate(samples)
        if not alone:
            self._finished[worker % _WATCHED] = serial

    def _skip(self, error: BadSampleError, bad_in_a_row: int, worker: int) -> None:
        if self._on_error == "raise":
            raise error
        if bad_in_a_row >= MAX_CONSECUTIVE:
            raise UserError(f"{bad_in_a_row} bad samples in a row; the last: {error}")
        if not self._skipped[worker % _WATCHED]:
            warnings.warn(f"left out, and further ones without a word (see `skipped`): {error}", stacklevel=2)
        self._skipped[worker % _WATCHED] += 1

    def _read_ahead(self, order: Positions, dealt: Iterator[range]) -> Iterator[tuple[range, list[Read]]]:
        """The samples of each batch in order, while the threads decode what comes next."""

        def read(numbers: Sequence[int]) -> list[Read]:
            return [self._read(number) for number in numbers]

        pool = ThreadPoolExecutor(self._threads)
        waiting: deque[tuple[range, list[Future[list[Read]]]]] = deque()
        ahead = 0
        try:
            for batch in dealt:
                numbers = order.take(batch).tolist()
                chunks = [numbers[place : place + _CHUNK] for place in range(0, len(numbers), _CHUNK)]
                waiting.append((batch, [pool.submit(read, chunk) for chunk in chunks]))
                ahead += len(chunks)
                while waiting and ahead - len(waiting[0][1]) >= 2 * self._threads:
                    positions, futures = waiting.popleft()
                    ahead -= len(futures)
                    yield positions, [sample for future in futures for sample in future.result()]
            for positions, futures in waiting:
                yield positions, [sample for future in futures for sample in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, number: int) -> Read:
        try:
            return self._source.read(number)
        except BadSampleError as error:
            return error

    def _after(self, start: int, batches: int) -> int:
        """The position that all ranks have reached with so many batches each."""
        return min(start + batches * self.batch_size * self.world, self._stop(start))

    def _stop(self, start: int) -> int:
        return pass_end(len(self._source), start, self.world, self.batch_size, self._tail)

    def _go_to(self, epoch: int, position: int) -> None:
        self._consumed = position
        self._shared[_EPOCH], self._shared[_START] = epoch, position
        self._shared[_SERIAL] += 1

    def _skip_if_over(self) -> None:
        """At the end of an epoch, the next one is what comes."""
        if self._consumed and self._stop(self._consumed) == self._consumed:
            self.set_epoch(self.epoch + 1)

    @property
    def _identity(self) -> dict[str, Any]:
        return self._source.identity | {"seed": self.seed}


def require_choice(name: str, value: str, choices: Any) -> None:
    """Raise `UserError` for an option that is none of a Literal's choices."""
    if value not in get_args(choices):
        raise UserError(f"{name} is one of {', '.join(get_args(choices))}, got {value!r}")


def require_positive(name: str, number: int) -> None:
    """Raise `UserError` for a number below 1."""
    if number < 1:
        raise UserError(f"{name} must be 1 or more, got {number}")


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
