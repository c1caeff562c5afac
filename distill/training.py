"""One trainer for teachers and students: whole sets as uint8 on the device, hard or soft labels, resumable to the bit.

Everything random in epoch e follows from (seed, e), so `state()` after an epoch and `load_state` before the next give the
weights of an unbroken run. No files and no global random state.

Which images an epoch shows is every image once, or a list of its own (`Positions`): curricula, repeated tails, balanced classes
and mixes of real and synthetic images are all such lists.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from augment.values import require_spread
from distill.accuracy import accuracy_and_loss, normalise
from distill.config import TrainConfig
from distill.errors import DistillError, DivergedError
from distill.losses import kl_loss, mse_gt_loss, shift_of
from distill.norms import logits_by_kind
from distill.optimisation import learning_rate, optimizer_of
from distill.retraining import class_counts, to_train_mode
from distill.siamese import SiameseViews
from distill.soundness import fault_of
from distill.views import Views, apply_views, draw_views

#: Logits of an epoch's views by position (n, C): from a table, or made on the spot by a teacher.
SoftLabels = Callable[[int, Views, torch.Tensor, slice], torch.Tensor]
#: The images of an epoch: its number -> places in the data, as whole numbers, in any order, any of them as often as wanted.
Positions = Callable[[int], Any]
#: What is done to a batch of views (B, C, H, W) in [0, 1]: with the epoch, and where in it the batch stands.
BatchOperation = Callable[[torch.Tensor, int, slice], torch.Tensor]
Row = dict[str, float | int]
#: Steps between two looks at the loss on a GPU, which has to be waited for; on a CPU every step is looked at.
LOOK_EVERY = 50
#: A training that ends at so many times the loss of a network without an opinion has diverged, though its numbers are finite.
HOPELESS, LEAST_BLANK = 100.0, 0.01
#: The same for the look after the last step, in eval mode: statistics of a few steps alone may put a sound network far off.
SENSELESS = 100_000.0


def batch_bounds(count: int, batch_size: int, company: bool) -> list[tuple[int, int]]:
    """Return start and stop of an epoch's batches. With `company` a lone last sample joins the batch before it, if there is one."""
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if company and batch_size > 1 and len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], count)]
    return bounds


def needs_company(model: nn.Module) -> bool:
    """Say whether a sample can be trained together with others only: batch norm has no statistics of one."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


class _Epoch(NamedTuple):
    """The views of an epoch. Its sample i is image i of the data, or where it has a list of its own, image `rows[i]`."""

    number: int
    views: Views
    rows: torch.Tensor | None

    def images(self, samples: torch.Tensor) -> torch.Tensor:
        """The places in the data (n,) of samples."""
        return samples if self.rows is None else self.rows[samples]


class Trainer:
    """Trains `model` on `data` (images (N, 3, S, S) uint8, labels (N,) int64), on soft labels if given.

    `seed` decides the views only (weights come initialised), and after `view_epochs` epochs they begin again: that is
    how fewer epochs of labels than of training are stored (LPLD). `validation` is (images, labels) of the same kind,
    looked at every `evaluate_every` epochs, after those of `evaluate_at` (counted from 1) and after the last. With
    `config.ema` the averaged network, weights and statistics, is what is evaluated and returned as `final`; its decay rises
    as (1 + t) / (10 + t), so that a short run does not remember where it began. (EDC averages weights only; its runs are
    long enough for both.)

    `positions` are each epoch's own list of images, shuffled here as all images are: they may be of any length, and the rate then
    falls over the total of steps where `config.rate_per` is `step`. Stored labels are of every image once, and do not go with
    them. `counts` are the images of each class (C,) that `config.loss` goes by; without them those of the data. `batch_operation` is done
    to every batch of views. `other_kind` (N,) bool are images with batch norms of their own, of a model that `distill.norms` has
    split. Layers whose weights are all frozen stay in eval mode.

    `DivergedError` at the first loss that is no finite number, for weights that are none, and for a training that ends far
    beyond the loss of a network without an opinion: no such network is handed out or checkpointed.
    """

    def __init__(
        self,
        model: nn.Module,
        data: tuple[torch.Tensor, torch.Tensor],
        config: TrainConfig,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        validation: tuple[torch.Tensor, torch.Tensor] | None = None,
        soft_labels: SoftLabels | None = None,
        view_epochs: int | None = None,
        evaluate_at: Collection[int] = (),
        positions: Positions | None = None,
        counts: Sequence[int] | None = None,
        batch_operation: BatchOperation | None = None,
        other_kind: torch.Tensor | None = None,
    ) -> None:
        images = data[0]
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), got {images.dtype} {tuple(images.shape)}")
        require_spread(mean, std)
        if len(images) == 0:
            raise DistillError("there is no image to train on")
        if data[1].numel() and int(data[1].min()) < 0:
            raise DistillError(f"labels are class numbers from 0, got {int(data[1].min())}")
        if positions is not None and soft_labels is not None:
            raise ValueError("soft labels are of every image once an epoch: positions go with hard labels")
        self._highest = int(data[1].max()) if data[1].numel() else 0
        self.model = model.to(memory_format=torch.channels_last)
        self.config, self.seed = config, seed
        self._images, self._labels = data
        self._mean, self._std = tuple(mean), tuple(std)
        self._validation, self._soft = validation, soft_labels
        self._view_epochs = view_epochs or max(config.epochs, 1)
        self._evaluate_at = frozenset(evaluate_at)
        self._optimizer = optimizer_of(model, config)
        self._average = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        self._company = needs_company(model)
        self._positions, self._operation, self._other = positions, batch_operation, other_kind
        self._siamese = SiameseViews(mean, std, seed) if config.views.siamese else None
        self._counts, self._shift = counts, torch.empty(0)
        self._total_steps = (
            sum(self._steps_of(epoch) for epoch in range(config.epochs)) if config.rate_per == "step" else 0
        )
        self.epoch, self.steps = 0, 0
        self.history: list[Row] = []

    @property
    def final(self) -> nn.Module:
        """The network to keep: averaged weights if asked for."""
        return self._average if self._average is not None else self.model

    def run(self) -> Iterator[Row]:
        """Train the epochs that are left, yielding a row after each; `DivergedError` as the class says."""
        while self.epoch < self.config.epochs:
            yield self._one_epoch()

    def _rows(self, epoch: int) -> torch.Tensor | None:
        """The images (n,) int64 of an epoch by place in the data; None for all of them once."""
        if self._positions is None:
            return None
        rows = torch.as_tensor(self._positions(epoch), dtype=torch.int64)
        if not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= len(self._images):
            raise DistillError(
                f"epoch {epoch + 1} takes at least one of the images 0 to {len(self._images) - 1}; its list has {len(rows)} places"
                + (f" from {int(rows.min())} to {int(rows.max())}" if len(rows) else "")
            )
        return rows

    def _bounds(self, rows: torch.Tensor | None) -> list[tuple[int, int]]:
        count = len(self._images) if rows is None else len(rows)
        return batch_bounds(count, self.config.batch_size, self._company)

    def _steps_of(self, epoch: int) -> int:
        return len(self._bounds(self._rows(epoch)))

    def _set_rate(self, epoch: int) -> float:
        by_step = self.config.rate_per == "step"
        rate = learning_rate(self.config, self.steps / self._total_steps * self.config.epochs if by_step else epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _one_epoch(self) -> Row:
        config, epoch = self.config, self.epoch
        rate, rows = self._set_rate(epoch), self._rows(epoch)
        bounds, count = self._bounds(rows), len(self._images) if rows is None else len(rows)
        drawn = epoch % self._view_epochs
        views = draw_views(count, self._images.shape[-1], config.views, self.seed, drawn, config.batch_size)
        shown = _Epoch(epoch, views, rows)
        to_train_mode(self.model)
        total, blank = (torch.zeros((), device=self._images.device) for _ in range(2))
        self._labels_are_sound = torch.ones((), dtype=torch.bool, device=self._images.device)
        look_every = LOOK_EVERY if self._images.is_cuda else 1
        for step, (start, stop) in enumerate(bounds, 1):
            if config.rate_per == "step":
                self._set_rate(epoch)
            loss, unsure = self._losses(shown, start, stop)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self.steps += 1
            self._update_average()
            total += loss.detach() * (stop - start)
            blank += unsure * (stop - start)
            if (step % look_every == 0 or step == len(bounds)) and not math.isfinite(float(total)):
                raise self._diverged(f"its loss is not a finite number at epoch {epoch + 1}, step {step}", rate)
        if (fault := fault_of(self.final)) is not None:
            raise self._diverged(f"{fault} after epoch {epoch + 1}", rate)
        train_loss = float(total) / len(views)
        if epoch + 1 == config.epochs:
            # What the last step did shows in no loss of the training: its batch is looked at once more.
            last = self._final_loss(shown, *bounds[-1])
            unsure_loss = float(blank) / len(views)
            for ending, limit in ((train_loss, HOPELESS), (last, SENSELESS)):
                if not ending <= limit * max(unsure_loss, LEAST_BLANK):
                    raise self._diverged(
                        f"its loss ended at {ending:.3g}, where a network without an opinion has {unsure_loss:.3g}",
                        rate,
                    )
        self.epoch += 1
        row: Row = {"epoch": epoch, "learning_rate": rate, "train_loss": train_loss}
        due = self.epoch % config.evaluate_every == 0 or self.epoch in (*self._evaluate_at, config.epochs)
        if self._validation is not None and due:
            try:
                top1, val_loss = accuracy_and_loss(self.final, *self._validation, mean=self._mean, std=self._std)
            except DivergedError as error:
                raise self._diverged(f"{error} after epoch {epoch + 1}", rate) from None
            row |= {"val_top1": top1, "val_loss": val_loss}
        self.history.append(row)
        return row

    def _diverged(self, what: str, rate: float) -> DivergedError:
        if not bool(self._labels_are_sound):
            return DivergedError(
                "the soft labels hold values that are not finite numbers: their teacher is at fault, not this training"
            )
        lower = f"lower learning_rate (now {self.config.learning_rate:g}; {rate:.3g} in that epoch)"
        if rate * self.config.weight_decay >= 1:  # a step takes away more than there is
            lower += f", weight_decay (now {self.config.weight_decay:g})"
        return DivergedError(f"the training diverged: {what}; {lower} or lengthen warmup_epochs")

    @torch.no_grad()
    def _final_loss(self, shown: _Epoch, start: int, stop: int) -> float:
        """Compute the batch's loss for `final`, which is put to eval mode."""
        self.final.eval()
        return float(self._losses(shown, start, stop, self.final)[0])

    def _losses(
        self, shown: _Epoch, start: int, stop: int, model: nn.Module | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the batch's loss, and in the last epoch what a network that answers nothing but zeros would have had."""
        config, epoch, chunk = self.config, shown.number, shown.views.slice(start, stop)
        pixels = apply_views(self._images, shown.views, chunk, shown.rows)
        if self._siamese is not None:
            pixels = self._siamese(pixels, epoch % self._view_epochs, slice(start, stop))
        if self._operation is not None:
            pixels = self._operation(pixels, epoch, slice(start, stop))
        batch = normalise(pixels, self._mean, self._std)
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.is_cuda):
            logits = self._logits(model or self.model, batch, shown.images(chunk.order))
        logits = logits.float()  # losses in full precision: at T = 20 softmaxes differ in the third digit
        if self._highest >= logits.shape[1]:
            raise DistillError(f"a label is {self._highest}, and the network knows classes 0 to {logits.shape[1] - 1}")
        labels = self._labels[shown.images(chunk.order).to(self._labels.device)]
        teacher = None
        if self._soft is not None:
            teacher = self._soft(epoch % self._view_epochs, shown.views, batch, slice(start, stop)).to(logits.device)
            self._labels_are_sound &= teacher.isfinite().all()
        unsure = logits.new_zeros(())
        if epoch + 1 == config.epochs:
            with torch.no_grad():
                unsure = self._loss(torch.zeros_like(logits), labels, teacher, chunk, shown)
        return self._loss(logits, labels, teacher, chunk, shown), unsure

    def _logits(self, model: nn.Module, batch: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        if self._other is None:
            logits: torch.Tensor = model(batch)
            return logits
        return logits_by_kind(model, batch, self._other[images.to(self._other.device)].to(batch.device))

    def _shifted(self, logits: torch.Tensor) -> torch.Tensor:
        """What the loss sees of logits: what `config.loss` adds to them is computed at the first batch, which tells the classes."""
        if self.config.loss == "cross_entropy":
            return logits
        if not len(self._shift):
            counts = class_counts(self._labels, logits.shape[1]) if self._counts is None else self._counts
            shift = shift_of(self.config.loss, self.config.tau, counts)
            assert shift is not None
            self._shift = shift.to(logits)
        return logits + self._shift

    def _loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        teacher: torch.Tensor | None,
        chunk: Views,
        shown: _Epoch,
    ) -> torch.Tensor:
        config = self.config
        if teacher is not None:
            if config.soft_loss == "mse_gt":
                return mse_gt_loss(logits, teacher, labels)
            return kl_loss(logits, teacher, config.temperature, config.t_squared)
        logits = self._shifted(logits)
        loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
        if config.views.mix == "none":
            return loss.mean()
        other = self._labels[shown.images(chunk.partner).to(self._labels.device)]
        mixed = F.cross_entropy(logits, other, reduction="none", label_smoothing=config.label_smoothing)
        share = own_share(chunk, self._images.shape[-1]).to(loss.device)
        return (share * loss + (1 - share) * mixed).mean()

    def _update_average(self) -> None:
        if self._average is None:
            return
        decay = min(self.config.ema, (1 + self.steps) / (10 + self.steps))
        averages = self._average.state_dict()
        with torch.no_grad():
            for name, fresh in self.model.state_dict().items():
                stored = averages[name]
                # Statistics are averaged with the weights they belong to; a count of batches is none.
                stored.lerp_(fresh, 1 - decay) if fresh.is_floating_point() else stored.copy_(fresh)

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on, tensors and plain values. They are the live ones: save or copy at once."""
        average = self._average.state_dict() if self._average is not None else None
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": average,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load what `state` gave, to go on from there."""
        self.epoch, self.steps, self.history = int(state["epoch"]), int(state["steps"]), list(state["history"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def own_share(views: Views, size: int) -> torch.Tensor:
    """Return the share (n,) of its own pixels in each mixed view: lambda of mixup, the uncovered area of cutmix."""
    box = views.mix_box.float()
    covered = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / size**2
    return views.share * (1 - covered)
