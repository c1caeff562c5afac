"""One trainer for teachers and students: whole sets as uint8 on the device, hard or soft labels, resumable to the bit.

Everything random in epoch e follows from (seed, e), so `state()` after an epoch and `load_state` before the next give the
weights of an unbroken run. No files and no global random state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from augment.values import require_spread
from distill.accuracy import accuracy_and_loss, normalise
from distill.config import TrainConfig
from distill.errors import DistillError, DivergedError
from distill.soundness import fault_of
from distill.views import Views, apply_views, draw_views

#: Logits of an epoch's views by position (n, C): from a table, or made on the spot by a teacher.
SoftLabels = Callable[[int, Views, torch.Tensor, slice], torch.Tensor]
Row = dict[str, float | int]
#: Steps between two looks at the loss on a GPU, which has to be waited for; on a CPU every step is looked at.
LOOK_EVERY = 50
#: A training that ends at so many times the loss of a network without an opinion has diverged, though its numbers are finite.
HOPELESS, LEAST_BLANK = 100.0, 0.01
#: The same for the look after the last step, in eval mode: statistics of a few steps alone may put a sound network far off.
SENSELESS = 100_000.0
#: Share of the learning rate that a warm-up starts from (SRe2L's Tiny-ImageNet teachers).
WARMUP_START = 0.01


def kl_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float, t_squared: bool = False) -> torch.Tensor:
    """Compute KL(teacher || student) of softmaxes at `temperature`, mean over the batch; logits (B, C).

    SRe2L and CDA leave out the factor T^2 of Hinton et al. 2015, except on Tiny-ImageNet.
    """
    loss = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return loss * temperature**2 if t_squared else loss


def mse_gt_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weight: float = 0.025
) -> torch.Tensor:
    """Compute EDC's loss: MSE of logits (B, C) plus `weight` times cross-entropy with the true labels (B,)."""
    return F.mse_loss(student, teacher) + weight * F.cross_entropy(student, labels)


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Return the rate of `epoch`, from 0: linear warm-up from `WARMUP_START`, then the schedule over the epochs that are left."""
    if epoch < config.warmup_epochs:
        return config.learning_rate * (WARMUP_START + (1 - WARMUP_START) * epoch / config.warmup_epochs)
    if config.schedule == "constant":
        return config.learning_rate
    span = max(config.epochs - config.warmup_epochs, 1)
    fraction = (epoch - config.warmup_epochs) / span
    return config.learning_rate * schedule_factor(config.schedule, fraction)


def schedule_factor(schedule: str, fraction: float) -> float:
    """Return 0.5(1 + cos(pi f)) for `cosine`, the same of f / 2 for `half_cosine` (RDED, EDC, DD-Ranking)."""
    return 0.5 * (1 + math.cos(math.pi * (fraction if schedule == "cosine" else fraction / 2)))


def batch_bounds(count: int, batch_size: int, company: bool) -> list[tuple[int, int]]:
    """Return start and stop of an epoch's batches. With `company` a lone last sample joins the batch before it, if there is one."""
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if company and batch_size > 1 and len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], count)]
    return bounds


def needs_company(model: nn.Module) -> bool:
    """Say whether a sample can be trained together with others only: batch norm has no statistics of one."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


class Trainer:
    """Trains `model` on `data` (images (N, 3, S, S) uint8, labels (N,) int64), on soft labels if given.

    `seed` decides the views only (weights come initialised), and after `view_epochs` epochs they begin again: that is
    how fewer epochs of labels than of training are stored (LPLD). `validation` is (images, labels) of the same kind,
    looked at every `evaluate_every` epochs, after those of `evaluate_at` (counted from 1) and after the last. With
    `config.ema` the averaged network, weights and statistics, is what is evaluated and returned as `final`; its decay rises
    as (1 + t) / (10 + t), so that a short run does not remember where it began. (EDC averages weights only; its runs are
    long enough for both.)

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
    ) -> None:
        images = data[0]
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), got {images.dtype} {tuple(images.shape)}")
        require_spread(mean, std)
        if len(images) == 0:
            raise DistillError("there is no image to train on")
        if data[1].numel() and int(data[1].min()) < 0:
            raise DistillError(f"labels are class numbers from 0, got {int(data[1].min())}")
        self._highest = int(data[1].max()) if data[1].numel() else 0
        self.model = model.to(memory_format=torch.channels_last)
        self.config, self.seed = config, seed
        self._images, self._labels = data
        self._mean, self._std = tuple(mean), tuple(std)
        self._validation, self._soft = validation, soft_labels
        self._view_epochs = view_epochs or max(config.epochs, 1)
        self._evaluate_at = frozenset(evaluate_at)
        self._optimizer = _optimizer(model, config)
        self._average = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        self._bounds = batch_bounds(len(images), config.batch_size, needs_company(model))
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

    def _one_epoch(self) -> Row:
        config, epoch = self.config, self.epoch
        rate = learning_rate(config, epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        drawn = epoch % self._view_epochs
        views = draw_views(len(self._images), self._images.shape[-1], config.views, self.seed, drawn, config.batch_size)
        self.model.train()
        total, blank = (torch.zeros((), device=self._images.device) for _ in range(2))
        self._labels_are_sound = torch.ones((), dtype=torch.bool, device=self._images.device)
        look_every = LOOK_EVERY if self._images.is_cuda else 1
        for step, (start, stop) in enumerate(self._bounds, 1):
            loss, unsure = self._losses(epoch, views, start, stop)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self.steps += 1
            self._update_average()
            total += loss.detach() * (stop - start)
            blank += unsure * (stop - start)
            if (step % look_every == 0 or step == len(self._bounds)) and not math.isfinite(float(total)):
                raise self._diverged(f"its loss is not a finite number at epoch {epoch + 1}, step {step}", rate)
        if (fault := fault_of(self.final)) is not None:
            raise self._diverged(f"{fault} after epoch {epoch + 1}", rate)
        train_loss = float(total) / len(views)
        if epoch + 1 == config.epochs:
            # What the last step did shows in no loss of the training: its batch is looked at once more.
            last = self._final_loss(epoch, views, *self._bounds[-1])
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
    def _final_loss(self, epoch: int, views: Views, start: int, stop: int) -> float:
        """Compute the batch's loss for `final`, which is put to eval mode."""
        self.final.eval()
        return float(self._losses(epoch, views, start, stop, self.final)[0])

    def _losses(
        self, epoch: int, views: Views, start: int, stop: int, model: nn.Module | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the batch's loss, and in the last epoch what a network that answers nothing but zeros would have had."""
        config, chunk = self.config, views.slice(start, stop)
        batch = normalise(apply_views(self._images, views, chunk), self._mean, self._std)
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.is_cuda):
            logits = (model or self.model)(batch)
        logits = logits.float()  # losses in full precision: at T = 20 softmaxes differ in the third digit
        if self._highest >= logits.shape[1]:
            raise DistillError(f"a label is {self._highest}, and the network knows classes 0 to {logits.shape[1] - 1}")
        labels = self._labels[chunk.order.to(self._labels.device)]
        teacher = None
        if self._soft is not None:
            teacher = self._soft(epoch % self._view_epochs, views, batch, slice(start, stop)).to(logits.device)
            self._labels_are_sound &= teacher.isfinite().all()
        unsure = logits.new_zeros(())
        if epoch + 1 == config.epochs:
            with torch.no_grad():
                unsure = self._loss(torch.zeros_like(logits), labels, teacher, chunk)
        return self._loss(logits, labels, teacher, chunk), unsure

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None, chunk: Views
    ) -> torch.Tensor:
        config = self.config
        if teacher is not None:
            if config.soft_loss == "mse_gt":
                return mse_gt_loss(logits, teacher, labels)
            return kl_loss(logits, teacher, config.temperature, config.t_squared)
        loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
        if config.views.mix == "none":
            return loss.mean()
        other = self._labels[chunk.partner.to(self._labels.device)]
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


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": config.weight_decay}]
    if config.decay == "matrices":
        groups = [
            {"params": [w for w in parameters if w.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [w for w in parameters if w.ndim <= 1], "weight_decay": 0.0},
        ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
