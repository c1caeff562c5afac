"""One trainer for teachers and students: whole sets as uint8 on the device, hard or soft labels, resumable to the bit.

Everything random in epoch e follows from (seed, e), so `state()` after an epoch and `load_state` before the next give the
weights of an unbroken run. No files and no global random state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distill.config import TrainConfig
from distill.views import Views, apply_views, draw_views

#: Logits of an epoch's views by position (n, C): from a table, or made on the spot by a teacher.
SoftLabels = Callable[[int, Views, torch.Tensor, slice], torch.Tensor]
Row = dict[str, float | int]
EVALUATION_BATCH = 512
#: Share of the learning rate that a warm-up starts from (SRe2L's Tiny-ImageNet teachers).
WARMUP_START = 0.01


def kl_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float, t_squared: bool = False) -> torch.Tensor:
    """KL(teacher || student) of softmaxes at `temperature`, mean over the batch; logits (B, C).

    SRe2L and CDA leave out the factor T^2 of Hinton et al. 2015, except on Tiny-ImageNet.
    """
    loss = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return loss * temperature**2 if t_squared else loss


def mse_gt_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weight: float = 0.025
) -> torch.Tensor:
    """EDC's loss: MSE of logits (B, C) plus `weight` times cross-entropy with the true labels (B,)."""
    return F.mse_loss(student, teacher) + weight * F.cross_entropy(student, labels)


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The rate of an epoch: linear warm-up from `WARMUP_START`, then the schedule over the epochs that are left."""
    if epoch < config.warmup_epochs:
        return config.learning_rate * (WARMUP_START + (1 - WARMUP_START) * epoch / config.warmup_epochs)
    if config.schedule == "constant":
        return config.learning_rate
    span = max(config.epochs - config.warmup_epochs, 1)
    fraction = (epoch - config.warmup_epochs) / span
    return config.learning_rate * schedule_factor(config.schedule, fraction)


def schedule_factor(schedule: str, fraction: float) -> float:
    """0.5(1 + cos(pi f)) for `cosine`; the same of f / 2 for `half_cosine` (RDED, EDC, DD-Ranking)."""
    return 0.5 * (1 + math.cos(math.pi * (fraction if schedule == "cosine" else fraction / 2)))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[float, float]:
    """(top-1 accuracy in [0, 1], mean cross-entropy) of uint8 images (N, 3, H, W) in eval mode."""
    was_training = model.training
    model.eval()
    right, loss = 0, 0.0
    for start in range(0, len(images), EVALUATION_BATCH):
        batch = normalise(images[start : start + EVALUATION_BATCH].float() / 255, mean, std)
        logits, target = model(batch), labels[start : start + EVALUATION_BATCH]
        right += int((logits.argmax(1) == target).sum())
        loss += float(F.cross_entropy(logits, target, reduction="sum"))
    model.train(was_training)
    return right / len(images), loss / len(images)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(images - mean) / std per channel, channels last in memory; images (B, C, H, W) float in [0, 1]."""
    shape = (1, len(mean), 1, 1)
    shift = torch.tensor(mean, dtype=images.dtype, device=images.device).reshape(shape)
    scale = torch.tensor(std, dtype=images.dtype, device=images.device).reshape(shape)
    return ((images - shift) / scale).contiguous(memory_format=torch.channels_last)


def teacher_labels(teacher: nn.Module) -> SoftLabels:
    """Labels made on the spot: the teacher, in eval mode, sees exactly the batch that the student sees."""
    assert not teacher.training, "in train mode the labels would depend on the batch and change the teacher"

    @torch.no_grad()
    def of(_epoch: int, _views: Views, batch: torch.Tensor, _where: slice) -> torch.Tensor:
        logits: torch.Tensor = teacher(batch)
        return logits

    return of


class Trainer:
    """Trains `model` on `data` (images (N, 3, S, S) uint8, labels (N,) int64), on soft labels if given.

    `seed` decides the views only (weights come initialised), and after `view_epochs` epochs they begin again: that is
    how fewer epochs of labels than of training are stored (LPLD). `validation` is (images, labels) of the same kind,
    looked at every `evaluate_every` epochs and after the last. With `config.ema` the averaged weights are what is
    evaluated and returned as `final`.
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
    ) -> None:
        images = data[0]
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), got {images.dtype} {tuple(images.shape)}")
        self.model = model.to(memory_format=torch.channels_last)
        self.config, self.seed = config, seed
        self._images, self._labels = data
        self._mean, self._std = tuple(mean), tuple(std)
        self._validation, self._soft = validation, soft_labels
        self._view_epochs = view_epochs or max(config.epochs, 1)
        self._optimizer = _optimizer(model, config)
        self._average = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        self.epoch = 0
        self.history: list[Row] = []

    @property
    def final(self) -> nn.Module:
        """The network to keep: averaged weights if asked for."""
        return self._average if self._average is not None else self.model

    def run(self) -> Iterator[Row]:
        """Train the epochs that are left, yielding a row after each."""
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
        total, seen = torch.zeros((), device=self._images.device), 0
        for start in range(0, len(views), config.batch_size):
            stop = min(start + config.batch_size, len(views))
            if stop - start == 1 and start > 0:
                break  # batch norm cannot train on a lone sample
            loss = self._loss(epoch, views, start, stop)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._update_average()
            total += loss.detach() * (stop - start)
            seen += stop - start
        self.epoch += 1
        row: Row = {"epoch": epoch, "learning_rate": rate, "train_loss": float(total) / seen}
        due = self.epoch % config.evaluate_every == 0 or self.epoch == config.epochs
        if self._validation is not None and due:
            top1, val_loss = evaluate(self.final, *self._validation, mean=self._mean, std=self._std)
            row |= {"val_top1": top1, "val_loss": val_loss}
        self.history.append(row)
        return row

    def _loss(self, epoch: int, views: Views, start: int, stop: int) -> torch.Tensor:
        config, chunk = self.config, views.slice(start, stop)
        batch = normalise(apply_views(self._images, views, chunk), self._mean, self._std)
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.is_cuda):
            logits = self.model(batch)
        logits = logits.float()  # losses in full precision: at T = 20 softmaxes differ in the third digit
        labels = self._labels[chunk.order.to(self._labels.device)]
        if self._soft is not None:
            teacher = self._soft(epoch % self._view_epochs, views, batch, slice(start, stop)).to(logits.device)
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
        with torch.no_grad():
            for kept, new in zip(self._average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - self.config.ema)
            for stored, fresh in zip(self._average.buffers(), self.model.buffers(), strict=True):
                stored.copy_(fresh)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on; tensors and plain values. They are the live ones: save or copy at once."""
        average = self._average.state_dict() if self._average is not None else None
        return {
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": average,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.history = int(state["epoch"]), list(state["history"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def own_share(views: Views, size: int) -> torch.Tensor:
    """(n,) share of its own pixels in each mixed view: lambda of mixup, the uncovered area of cutmix."""
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
