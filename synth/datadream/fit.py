"""Training the classifier: real and synthetic in one loop, selected on the validation split, never on the test split.

The published code keeps the epoch that is best on its test loader, and for three data sets that loader holds the training split
(`docs/specs/datadream.md`, classifier). Here `fit` sees a validation set only; whoever calls it tests once, with
`classifier_accuracy`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from augment.seeds import operation_seed
from synth.datadream.accuracy import half_precision
from synth.datadream.classifier import ClipClassifier
from synth.datadream.config import FitConfig, Mode
from synth.datadream.pooled import Examples, Pool, mixed, pooled_loss, repeats
from synth.datadream.schedules import classifier_rates
from synth.datadream.selection import BestEpoch, Fitted
from synth.datadream.views import Views, published_views, views_seed
from synth.errors import SynthError
from synth.quiet import quiet_generators


def fit(
    classifier: ClipClassifier,
    real: Examples | None,
    synthetic: Examples | None,
    validation: Examples,
    config: FitConfig | None = None,
    *,
    run_seed: int = 0,
    views: Views | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    resume: Mapping[str, Any] | None = None,
    checkpoint: Callable[[dict[str, Any]], None] | None = None,
) -> Fitted:
    """Train on real images, synthetic ones, or both, and leave `classifier` with the weights of its best validation epoch.

    `views` (images, keys, epoch) -> images of the classifier's size; the published ones unless given. Of equally good epochs the
    first counts. Deterministic by `run_seed`, on one device.

    `checkpoint` is given the state after every epoch but the last: live tensors and plain values, to be saved or copied at once.
    A fit that goes on from such a state, with everything else the same, ends with the bits of an unbroken one; `report` is told the
    epochs that are left. SynthError, before anything is reported or checkpointed, for a classifier that diverged.
    """
    config = config or FitConfig()
    parts = [part for part in (real, synthetic) if part is not None]
    if not parts:
        raise SynthError("there is nothing to train on: give real images, synthetic ones or both")
    if not validation.keys:
        raise SynthError("there is no validation image to choose an epoch by")
    real_count, synthetic_count = (0 if part is None else len(part.keys) for part in (real, synthetic))
    pool = pool_of(real_count, synthetic_count, config, classifier.classes)
    views = views or published_views(classifier.size, views_seed(run_seed))
    weight = config.real_weight if len(parts) == 2 else float(real is not None)
    device = next(classifier.parameters()).device
    rates = classifier_rates(
        config.epochs, pool.batches, peak=config.learning_rate, warmup_epochs=config.warmup_epochs, floor=config.floor
    )
    optimizer = torch.optim.AdamW(
        classifier.trainable(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=device.type == "cuda"
    )
    batches = _Batches(pool, real, synthetic, views, classifier.classes, config.mix, run_seed, device, config.mode)
    best = BestEpoch(
        classifier,
        optimizer,
        validation,
        epochs=config.epochs,
        evaluate_every=config.evaluate_every,
        diverged=lambda what, epoch: _diverged(what, epoch, config),
        report=report,
        resume=resume,
        checkpoint=checkpoint,
    )
    step = best.begin * pool.batches
    for epoch in range(best.begin, config.epochs):
        total = torch.zeros((), device=device)
        for places in pool.epoch(epoch, run_seed):
            images, targets, is_real = batches.make(places, epoch, step)
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            classifier.train()
            with _seeded(device, operation_seed(run_seed, step, "datadream/dropout")), half_precision(device):
                loss = pooled_loss(classifier(images), targets, is_real, weight)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
            step += 1
        best.end(epoch, total, pool.batches)
    return best.restore()


def _diverged(what: str, epoch: int, config: FitConfig) -> SynthError:
    return SynthError(
        f"the classifier diverged: {what} in epoch {epoch + 1} of {config.epochs}; lower learning_rate (now "
        f"{config.learning_rate:g}) or lengthen warmup_epochs"
    )


def pool_of(real: int, synthetic: int, config: FitConfig, classes: int) -> Pool:
    """Plan an epoch of so many `real` and `synthetic` images, either of which may be 0; repetitions of real ones follow from `mode`."""
    times = 1
    if real and synthetic:
        times = (
            repeats(synthetic // classes, max(1, real // classes))
            if config.mode == "reference"
            else max(1, synthetic // real)
        )
    return Pool(synthetic, real, times, config.batch_size, even=config.mode == "improved")


@dataclass(frozen=True)
class _Batches:
    """Makes batches: the kinds are augmented and mixed apart, a real image anew at each repetition."""

    pool: Pool
    real: Examples | None
    synthetic: Examples | None
    views: Views
    classes: int
    mix: float
    run_seed: int
    device: torch.device
    mode: Mode

    def make(self, places: np.ndarray, epoch: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make the batch of these places in the pool: images (n, 3, h, w), soft labels (n, classes) and which are real (n,) bool."""
        synthetic_rows, real_rows, times = self.pool.split(places)
        kinds: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for examples, rows, again, kind in (
            (self.synthetic, synthetic_rows, [0] * len(synthetic_rows), "synthetic"),
            (self.real, real_rows, times, "real"),
        ):
            if examples is None or not rows:
                continue
            keys = [f"{kind}/{examples.keys[row]}/{time}" for row, time in zip(rows, again, strict=True)]
            images = self.views(examples.images(rows).to(self.device), keys, epoch)
            labels = examples.labels[rows].to(self.device)
            images, targets = mixed(
                images, labels, self.classes, p=self.mix, run_seed=self.run_seed, step=step, part=kind, mode=self.mode
            )
            kinds.append((images, targets, torch.full((len(rows),), kind == "real", device=self.device)))
        images, targets, is_real = (torch.cat(part) for part in zip(*kinds, strict=True))
        return images, targets, is_real


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators, from which dropout draws, and put them back afterwards."""
    with quiet_generators(device):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
