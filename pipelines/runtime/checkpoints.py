"""Training that survives a kill: a checkpoint now and then in the unit's scratch folder, read back on the next run.

Everything random in a training derives from its seed and the number of the step, so an interrupted run ends with the bytes of an
unbroken one.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipelines.runtime.units import UnitOutput

if TYPE_CHECKING:
    from distill.training import Row, Trainer

#: Seconds between checkpoints at the least: often enough to lose little, seldom enough to cost nothing.
INTERVAL = 10.0
#: Checkpoints that take longer than this many seconds to write come as much more seldom.
QUICK = 0.2


class Progress(NamedTuple):
    """How far a training is, and what is to be said of it."""

    done: float
    total: float
    note: str


class Resumable(Protocol):
    """A training that goes step by step and can be put down between two of them."""

    @property
    def done(self) -> bool:
        """Whether there is no step left."""
        ...

    def advance(self) -> Progress:
        """Take a step."""
        ...

    def state(self) -> dict[str, Any]:
        """What the next step depends on, tensors and plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class Checkpoint:
    """A unit's resumable state: tensors and plain values in its scratch folder.

    The folder carries the unit's identity: a state that belongs to other parameters, data or code is not used. A unit with several
    trainings gives each state a name.
    """

    def __init__(self, output: UnitOutput, name: str = "training") -> None:
        self._scratch, self._name = output.scratch(), f"{name}.pt"
        self._saved, self._took = time.monotonic(), 0.0

    def read(self) -> dict[str, Any] | None:
        """What was saved last, or None."""
        import torch

        if not self._scratch.exists(self._name):
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(self._scratch.read_bytes(self._name)), weights_only=True)
        return state

    @property
    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved >= INTERVAL * max(1.0, self._took / QUICK)

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` if it is time to."""
        import torch

        if self.due:
            began = time.monotonic()
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self._scratch.write_bytes(self._name, buffer.getvalue())
            self._saved = time.monotonic()
            self._took = self._saved - began


def run_resumably(training: Resumable, output: UnitOutput, checkpoint: Checkpoint) -> None:
    """Take every step of `training` that is left, going on from the unit's checkpoint if there is one; ticks after each."""
    state = checkpoint.read()
    if state is not None:
        training.load_state(state)
    while not training.done:
        output.tick(*training.advance())
        if not training.done and checkpoint.due:
            checkpoint.save(training.state())


def train_resumably(trainer: Trainer, output: UnitOutput, name: str = "training") -> list[Row]:
    """Run `trainer` to its last epoch, going on from the unit's checkpoint of this name if there is one; returns its history."""
    run_resumably(_Epochs(trainer), output, Checkpoint(output, name))
    return trainer.history


class _Epochs:
    """A trainer, an epoch a step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._rows: Iterator[Row] | None = None

    @property
    def done(self) -> bool:
        return self._trainer.epoch >= self._trainer.config.epochs

    def advance(self) -> Progress:
        self._rows = self._rows or self._trainer.run()
        row = next(self._rows)
        accuracy = row.get("val_top1")
        note = f"loss {row['train_loss']:.3f}" + ("" if accuracy is None else f", top-1 {accuracy:.1%}")
        return Progress(self._trainer.epoch, self._trainer.config.epochs, note)

    def state(self) -> dict[str, Any]:
        return self._trainer.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._trainer.load_state(state)
