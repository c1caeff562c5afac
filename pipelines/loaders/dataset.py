"""PyTorch datasets over a dataset folder or URL: the same order for any number of workers and ranks, resumable in mid-epoch.

`MapDataset` is for a sampler of your own. `StreamDataset` brings its order: every sample exactly once an epoch over all
ranks and workers, batches in one global order. Both read members by offset; nothing is unpacked or cached.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, get_worker_info

from pipelines.errors import UserError
from pipelines.images.process import decode_rgb
from pipelines.loaders.order import Shuffle, Tail, batches_of, epoch_order, fit_tail
from pipelines.outcomes import Outcome
from pipelines.shards.dataset import Dataset
from pipelines.shards.sample import IMAGE_EXTENSIONS

T = TypeVar("T")
#: A decoded sample: `key`, `image` (3, H, W) uint8, and `label`, `caption`, `json` where the sample has them.
Item = dict[str, Any]
#: Bad samples in a row that turn a skip into an error.
MAX_CONSECUTIVE = 16


class BadSampleError(UserError):
    """A sample that cannot be decoded, with its key, its shard and the command that shows it."""


class MapDataset(TorchDataset[Any], Generic[T]):
    """Random access by position: `dataset[i]` is sample i of the index order, decoded, then `transform`ed.

    Raises `BadSampleError` when a sample does not decode.
    """

    def __init__(self, location: str, transform: Callable[[Item], T] | None = None) -> None:
        self.source = Dataset.open(location)
        rows = self.source.rows(["key", "label", "members"])
        self._keys = rows["key"].to_pylist()
        labels = rows["label"].to_pylist()
        self._labels = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
        self._shards = rows["shard"].to_numpy()
        self._members = rows["members"]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, position: int) -> Any:
        item = self.decoded(position)
        return item if self._transform is None else self._transform(item)

    def decoded(self, position: int) -> Item:
        """The sample at a position of the index order."""
        key, shard = self._keys[position], int(self._shards[position])
        members = self.source.read(shard, self._members[position].as_py())
        item: Item = {"key": key}
        encoded = next((members[ext] for ext in IMAGE_EXTENSIONS if ext in members), None)
        if encoded is not None:
            pixels = decode_rgb(encoded)
            if isinstance(pixels, Outcome):
                where = self.source.shards[shard].path
                raise BadSampleError(
                    f"sample {key} in {where} does not decode ({pixels.reason}); see: limbeck show {key}"
                )
            item["image"] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        if self._labels[position] >= 0:
            item["label"] = int(self._labels[position])
        if "txt" in members:
            item["caption"] = members["txt"].decode()
        if "json" in members:
            item["json"] = json.loads(members["json"])
        return item


class StreamDataset(IterableDataset[Any]):
    """Batches of an epoch in the canonical order. Use as `DataLoader(stream, batch_size=None, num_workers=n)`.

    Every item is a list of samples (after `transform`); `collate` makes it a batch. All ranks and workers together give
    each sample exactly once (see `Tail` for the end). Call `set_epoch` before each epoch but the first; `state_dict` after
    the n-th batch of the training loop continues exactly there, also on another number of workers or ranks. `on_error`
    `skip` leaves a bad sample out of its batch (counted in `skipped`) until 16 in a row are bad.
    """

    def __init__(
        self,
        location: str,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: Shuffle = "full",
        rank: int = 0,
        world: int = 1,
        tail: Tail = "exact",
        transform: Callable[[Item], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank must be 0..{world - 1}, got {rank}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.samples = MapDataset[Any](location, transform)
        self._batch, self._seed, self._shuffle = batch_size, seed, shuffle
        self._rank, self._world, self._tail = rank, world, tail
        self._collate, self._on_error = collate, on_error
        # Shared with persistent workers, which keep the copy of this object that they were started with.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._start = torch.zeros((), dtype=torch.int64).share_memory_()
        self._skipped = torch.zeros((), dtype=torch.int64).share_memory_()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def skipped(self) -> int:
        """Bad samples left out so far."""
        return int(self._skipped)

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch from its start; takes effect for the next iterator."""
        self._epoch.fill_(epoch)
        self._start.fill_(0)

    def __len__(self) -> int:
        """Batches of this rank that are left of the epoch."""
        return len(self._batches())

    def _batches(self) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        order = epoch_order(len(self.samples), self._seed, int(self._epoch), self._shuffle)
        order = fit_tail(order, self._world, self._tail)
        batches = batches_of(order, int(self._start), self._rank, self._world, self._batch)
        return [batch for batch in batches if len(batch)]

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        place, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        # A DataLoader asks its workers in turn, so dealing whole batches keeps the global order.
        for positions in self._batches()[place::workers]:
            samples = self._read(positions)
            yield samples if self._collate is None else self._collate(samples)

    def _read(self, positions: np.ndarray[Any, np.dtype[np.int64]]) -> list[Any]:
        samples, consecutive = [], 0
        for position in positions.tolist():
            try:
                samples.append(self.samples[position])
                consecutive = 0
            except BadSampleError:
                consecutive += 1
                if self._on_error == "raise" or consecutive >= MAX_CONSECUTIVE:
                    raise
                with self._lock:
                    self._skipped += 1
        return samples

    def state_dict(self, batches_done: int) -> dict[str, int]:
        """Where the training is: after `batches_done` batches taken from this epoch's iterator."""
        position = int(self._start) + batches_done * self._batch * self._world
        return {"seed": self._seed, "epoch": int(self._epoch), "position": position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at the position of `state`; the order must be the same, ranks and workers need not be."""
        if state["seed"] != self._seed:
            raise ValueError(f"the state belongs to seed {state['seed']}, this loader has {self._seed}")
        self._epoch.fill_(state["epoch"])
        self._start.fill_(state["position"])
