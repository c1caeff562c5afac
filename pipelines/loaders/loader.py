"""A DataLoader over epochs that knows what the trainer has been given, so that a run can stop and go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from pipelines.loaders.epochs import EpochDataset


class StreamLoader(DataLoader[Any]):
    """Batches in canonical order, the same for 0 or more workers; one pass of a `for` loop is one epoch.

    An epoch that was left early is continued by the next pass, and the pass after its last batch is the next epoch:

        loader = StreamLoader(StreamDataset(folder, batch_size=256, seed=1, tail="drop"), num_workers=4)
        loader.load_state_dict(state)                          # or not
        for epoch in range(loader.epoch, 90):
            for batch in loader:
                train(batch)                                   # loader.state_dict() between any two batches

    `options` are DataLoader's, except those that the dataset decides: batches, their collation and their order.
    """

    dataset: EpochDataset

    def __init__(self, dataset: EpochDataset, num_workers: int = 0, **options: Any) -> None:
        decided = {
            "batch_size",
            "shuffle",
            "sampler",
            "batch_sampler",
            "drop_last",
            "collate_fn",
            "in_order",
        } & options.keys()
        if decided:
            raise TypeError(f"the dataset decides about {sorted(decided)}")
        super().__init__(dataset, batch_size=None, num_workers=num_workers, **options)

    @property
    def epoch(self) -> int:
        """The epoch that is read next, or is being read."""
        return self.dataset.epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch from its start in the next pass."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        mark = self.dataset.begin_pass()
        given: Iterator[Any] | None = super().__iter__()
        try:
            for batches, batch in enumerate(given, 1):  # type: ignore[arg-type]
                self.dataset.consumed(mark, batches)
                yield batch
        except Exception as error:
            if self.num_workers == 0:
                raise
            # The text tells what happened in the worker. Torch's own traceback keeps its iterator in a cycle, and an
            # iterator that the garbage collector finds waits 5 s for each worker.
            given = None
            raise error.with_traceback(None) from None
        self.dataset.end_pass(mark)

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch, and the position up to which all ranks have been given their batches; between any two batches."""
        return self.dataset.consumed_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, on any rank; batch size, ranks and workers may be others now."""
        self.dataset.load_state_dict(state)
