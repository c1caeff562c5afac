"""The best validation epoch of a training of CLIP: history, weights and checkpoints, whatever the loss is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from augment.values import not_finite
from synth.datadream.accuracy import classifier_accuracy
from synth.datadream.classifier import ClipHead
from synth.datadream.pooled import Examples
from synth.errors import SynthError


@dataclass
class Fitted:
    """The history of a fit, a line for each validation, and the best one, whose weights the classifier has."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = float("-inf")


class BestEpoch:
    """Ends each epoch of a training of `head`: looks at its soundness and at validation, keeps the best weights, checkpoints.

    Of equally good epochs the first counts. `resume` is a state that `checkpoint` was given: `begin` is the epoch to go on with, from 0.
    `diverged` (what, epoch) is the error for a training that did.
    """

    def __init__(
        self,
        head: ClipHead,
        optimizer: torch.optim.Optimizer,
        validation: Examples,
        *,
        epochs: int,
        evaluate_every: int,
        diverged: Callable[[str, int], SynthError],
        report: Callable[[dict[str, float]], None] | None,
        resume: Mapping[str, Any] | None,
        checkpoint: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._head, self._optimizer, self._validation = head, optimizer, validation
        self._epochs, self._evaluate_every = epochs, evaluate_every
        self._diverged, self._report, self._checkpoint = diverged, report, checkpoint
        self.fitted, self._weights, self.begin = Fitted(), head.state(), 0
        if resume is not None:
            self.fitted, self._weights = Fitted(**resume["fitted"]), dict(resume["best"])
            self.begin = int(resume["epoch"])
            head.load(resume["weights"])
            optimizer.load_state_dict(resume["optimizer"])

    def end(self, epoch: int, losses: torch.Tensor, batches: int) -> None:
        """End `epoch`, from 0, whose `batches` had `losses` () in sum. SynthError, before anything is reported, where it diverged."""
        # A sum with one NaN is NaN, and the weights are looked at for a last step that nothing follows.
        if not math.isfinite(float(losses)):
            raise self._diverged("its loss is no finite number", epoch)
        if not_finite(self._head.state()) is not None:
            raise self._diverged("its weights are no finite numbers", epoch)
        if (epoch + 1) % self._evaluate_every == 0 or epoch + 1 == self._epochs:
            self._measure(epoch, float(losses) / batches)
        if self._checkpoint is not None and epoch + 1 < self._epochs:
            state = {"epoch": epoch + 1, "weights": self._head.state(), "optimizer": self._optimizer.state_dict()}
            self._checkpoint(state | {"best": self._weights, "fitted": asdict(self.fitted)})

    def _measure(self, epoch: int, loss: float) -> None:
        try:
            measured = classifier_accuracy(self._head, self._validation)
        except SynthError as error:
            raise self._diverged(str(error), epoch) from None
        line = {"epoch": epoch + 1, "loss": loss, "val_accuracy": measured.accuracy, "val_loss": measured.loss}
        self.fitted.history.append(line)
        if self._report is not None:
            self._report(line)
        if measured.accuracy > self.fitted.best_accuracy:
            self.fitted.best_epoch, self.fitted.best_accuracy = epoch + 1, measured.accuracy
            self._weights = self._head.state()

    def restore(self) -> Fitted:
        """Load the best epoch's weights; returns the history."""
        self._head.load(self._weights)
        return self.fitted
