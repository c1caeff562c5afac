"""An epoch of a dataset in canonical order as a torch dataset: exact, the same for any number of workers, resumable.

Imports torch; `import pipelines` does not reach it. Order is in `order`, bytes and pixels in `reading`, the work in `epochs`, and
`loader.StreamLoader` is the DataLoader that keeps account of what a trainer has really been given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils import data

from pipelines.images.params import ImageLimits
from pipelines.loaders.dataset import Location, Transform, opened
from pipelines.loaders.epochs import EpochDataset, OnError, require_choice, require_positive
from pipelines.loaders.order import Order, Shuffle, Tail
from pipelines.loaders.reading import SampleReader
from pipelines.shards.dataset import Dataset
from pipelines.storage import canonical_json


class StreamDataset(EpochDataset):
    """Batches of one rank's share of an epoch in canonical order (see `order`), the same for any number of workers.

    Use it as `DataLoader(stream, batch_size=None, num_workers=n)`, or through `StreamLoader`. A batch is `collate` of a list
    of at most `batch_size` samples, each as in `MapDataset` plus `epoch` and `seed`, 63 bits that follow from (seed, epoch,
    position): augmentations drawn from it are the same for any number of workers. `transform` sees one sample.

    `rank` and `world` are torch.distributed's, or those of torchrun's environment, unless given. `shuffle`, `window` and
    `tail` are those of `order.Order` and `order.pass_end`. `threads` read and decode ahead in each worker process; at
    object stores, more of them hide the latency.

    A bad sample raises `BadSampleError` here or from the worker. With `on_error="skip"` it is left out of its batch, which
    is then shorter, and counted in `skipped`; the first one is told as a warning, and 16 bad samples in a row, or a batch of
    nothing else, are an error all the same. Every rank keeps its number of batches. Errors of the machine or the network are never skipped.

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
        tail: Tail = "exact",
        rank: int | None = None,
        world: int | None = None,
        transform: Transform | None = None,
        collate: Callable[[list[Any]], Any] = data.default_collate,
        members: Sequence[str] = (),
        on_error: OnError = "raise",
        limits: ImageLimits | None = None,
        decode: bool = True,
        threads: int = 2,
    ) -> None:
        require_choice("shuffle", shuffle, Shuffle)
        require_positive("window", window)
        # A window is read together with the next one while readers pass from it.
        keep = 2 * window + 1 if shuffle == "block" else None
        super().__init__(
            WholeDataset(SampleReader(opened(location), members, limits, keep, decode), seed, shuffle, window),
            batch_size,
            seed=seed,
            tail=tail,
            rank=rank,
            world=world,
            transform=transform,
            collate=collate,
            on_error=on_error,
            threads=threads,
        )


class WholeDataset:
    """The source of epochs that have all samples of one dataset, in an order of `order.Order`."""

    def __init__(self, reader: SampleReader, seed: int, shuffle: Shuffle, window: int) -> None:
        self.reader = reader
        self._seed, self._shuffle, self._window = seed, shuffle, window
        identity = {"dataset": content_digest(reader.dataset), "shuffle": shuffle}
        self._identity = identity | {"window": window if shuffle == "block" else None}

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return self.reader.dataset.classes

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree, with the seed, for a position to mean the same sample."""
        return self._identity

    @property
    def repeats(self) -> bool:
        """All epochs are the same."""
        return self._shuffle == "none"

    def __len__(self) -> int:
        return len(self.reader)

    def order(self, epoch: int) -> Order:
        """Sample numbers by position."""
        return Order(self.reader.sizes, self._seed, epoch, self._shuffle, self._window)

    def read(self, number: int) -> dict[str, Any]:
        """One sample."""
        return self.reader.read(number)


def content_digest(dataset: Dataset) -> str:
    """SHA-256 (hex) of the hashes of a dataset's shards."""
    return hashlib.sha256(canonical_json([shard.sha256 for shard in dataset.shards])).hexdigest()
