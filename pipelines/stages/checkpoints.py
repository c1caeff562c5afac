"""Training that survives a kill: a checkpoint now and then in the unit's scratch folder, read back on the next run.

Everything random in a trainer derives from (seed, epoch), so an interrupted run ends with the bytes of an unbroken one.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from pipelines.runtime.units import UnitOutput

if TYPE_CHECKING:
    from distill.training import Row, Trainer

#: Seconds between checkpoints: often enough to lose little, seldom enough to cost nothing.
INTERVAL = 10.0


def train_resumably(trainer: Trainer, output: UnitOutput) -> list[Row]:
    """Run `trainer` to its last epoch, going on from the unit's checkpoint if there is one; returns its history.

    The checkpoint carries the unit's identity: one that belongs to other parameters or other data is not used.
    """
    import torch

    scratch, name = output.scratch(), f"{output.identity}.pt"
    if scratch.exists(name):
        trainer.load_state(torch.load(io.BytesIO(scratch.read_bytes(name)), weights_only=True))
    saved = time.monotonic()
    for row in trainer.run():
        accuracy = row.get("val_top1")
        note = f"loss {row['train_loss']:.3f}" + ("" if accuracy is None else f", top-1 {accuracy:.1%}")
        output.tick(trainer.epoch, trainer.config.epochs, note)
        if time.monotonic() - saved >= INTERVAL and trainer.epoch < trainer.config.epochs:
            buffer = io.BytesIO()
            torch.save(trainer.state(), buffer)
            scratch.write_bytes(name, buffer.getvalue())
            saved = time.monotonic()
    return trainer.history
