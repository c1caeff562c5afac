"""Training that survives a kill: a checkpoint now and then in the unit's scratch folder, read back on the next run.

Everything random in a trainer derives from (seed, epoch), so an interrupted run ends with the bytes of an unbroken one.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

from pipelines.runtime.units import UnitOutput

if TYPE_CHECKING:
    from distill.training import Row, Trainer

#: Seconds between checkpoints: often enough to lose little, seldom enough to cost nothing.
INTERVAL = 10.0


class Checkpoint:
    """A unit's resumable state: tensors and plain values in its scratch folder.

    The name carries the unit's identity: a state that belongs to other parameters or other data is not used.
    """

    def __init__(self, output: UnitOutput) -> None:
        self._scratch, self._name = output.scratch(), f"{output.identity}.pt"
        self._saved = time.monotonic()

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
        return time.monotonic() - self._saved >= INTERVAL

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` if it is time to."""
        import torch

        if self.due:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self._scratch.write_bytes(self._name, buffer.getvalue())
            self._saved = time.monotonic()


def train_resumably(trainer: Trainer, output: UnitOutput) -> list[Row]:
    """Run `trainer` to its last epoch, going on from the unit's checkpoint if there is one; returns its history."""
    checkpoint = Checkpoint(output)
    state = checkpoint.read()
    if state is not None:
        trainer.load_state(state)
    for row in trainer.run():
        accuracy = row.get("val_top1")
        note = f"loss {row['train_loss']:.3f}" + ("" if accuracy is None else f", top-1 {accuracy:.1%}")
        output.tick(trainer.epoch, trainer.config.epochs, note)
        if trainer.epoch < trainer.config.epochs and checkpoint.due:
            checkpoint.save(trainer.state())
    return trainer.history
