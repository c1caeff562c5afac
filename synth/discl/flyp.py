"""FLYP: fine-tune all of a CLIP the way it was pretrained, images against the texts of their classes (Goyal et al. 2023).

The low-quality task of DisCL trains so. It sees the images that a curriculum names, or all of them, is selected on validation images, and
goes on from a checkpoint to the bits of an unbroken run, on one device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from augment.seeds import operation_seed
from synth.datadream.accuracy import center_resize, half_precision
from synth.datadream.classifier import ClipHead
from synth.datadream.pooled import Examples
from synth.datadream.selection import BestEpoch, Fitted
from synth.datadream.views import Views, policy_views, views_seed
from synth.discl.config import FlypConfig
from synth.discl.mix import random_order
from synth.errors import SynthError
from synth.family.objectives import contrast

#: CLIP's own limit of exp(logit scale).
HIGHEST_SCALE = math.log(100)
#: Rows of an epoch, in its order; all images in a random order unless given.
Positions = Callable[[int], np.ndarray]


def pretraining_views(size: tuple[int, int], seed: int) -> Views:
    """Build the views that CLIP was pretrained on: a crop of nine tenths of the area or more (bilinear here)."""
    return policy_views([{"resized_crop": {"size": list(size), "scale": [0.9, 1.0]}}], size, seed)


def fine_tune(
    head: ClipHead,
    examples: Examples,
    validation: Examples,
    config: FlypConfig | None = None,
    *,
    run_seed: int = 0,
    positions: Positions | None = None,
    views: Views | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    resume: Mapping[str, Any] | None = None,
    checkpoint: Callable[[dict[str, Any]], None] | None = None,
) -> Fitted:
    """Train all weights of `head` on `examples` and leave it with those of its best validation epoch; of equally good ones the first.

    An image's text is one of its class's prompts, drawn from (run seed, epoch, place). `positions` are each epoch's rows, such as
    `EpochDraw.positions`, as many in all epochs; they are asked for when the epoch begins, so that `progress.AdaptiveRule` may measure
    `head` for them. A last batch that is not full is left out, as published, unless it is the only one.

    `checkpoint` is given the state after every epoch but the last: live tensors and plain values, to be saved or copied at once. SynthError
    for nothing to train on or to choose by, and for a CLIP that diverged, before anything is checkpointed.
    """
    config = config or FlypConfig()
    head.requires_grad_(True)
    count = len(examples.keys)
    if not validation.keys:
        raise SynthError("there is no validation image to choose an epoch by")

    def order(epoch: int) -> np.ndarray:
        return random_order(count, run_seed, epoch, "flyp/order") if positions is None else positions(epoch)

    views = views or pretraining_views(head.size, views_seed(run_seed))
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(
        head.trainable(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=device.type == "cuda"
    )
    best = BestEpoch(
        head,
        optimizer,
        validation,
        epochs=config.epochs,
        evaluate_every=config.evaluate_every,
        diverged=lambda what, epoch: _diverged(what, epoch, config),
        report=report,
        resume=resume,
        checkpoint=checkpoint,
    )
    batches = 0
    for epoch in range(best.begin, config.epochs):
        rows, losses = order(epoch), torch.zeros((), device=device)
        each = _whole_batches(len(rows), config.batch_size)
        if batches not in (0, each):
            raise SynthError(
                f"epoch {epoch + 1} has {len(rows)} images, unlike those before; a rate needs epochs of one length"
            )
        batches = each
        total = config.steps(batches, count)
        texts = _texts(head, examples.labels, rows, run_seed, epoch)
        head.train()
        for number in range(batches):
            step = epoch * batches + number
            places = range(number * config.batch_size, min((number + 1) * config.batch_size, len(rows)))
            chosen = rows[places.start : places.stop].tolist()
            # A repeated image is seen differently each time: its place in the epoch is part of its key.
            keys = [f"{examples.keys[row]}/{place}" for row, place in zip(chosen, places, strict=True)]
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step, total)
            images = views(examples.images(chosen).to(device), keys, epoch)
            with half_precision(device):
                loss = contrastive_loss(head, images, texts[places.start : places.stop], config)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if config.mode == "improved":
                head.model.logit_scale.data.clamp_(max=HIGHEST_SCALE)
            losses += loss.detach()
        best.end(epoch, losses, batches)
    return best.restore()


def contrastive_loss(head: ClipHead, images: torch.Tensor, texts: torch.Tensor, config: FlypConfig) -> torch.Tensor:
    """Compute CLIP's symmetric cross-entropy of images (n, 3, h, w) with rows of `head.tokens` (n,): image i belongs to text i.

    In mode `reference` to that text alone, in `improved` to all of its class. (For equal texts that is one number either way.)
    """
    distinct, places = torch.unique(texts.to(head.tokens.device), return_inverse=True)
    embedded = head.prompt_features(distinct)[places].float()
    same = torch.eye(len(texts), dtype=torch.bool, device=embedded.device)
    if config.mode == "improved":
        classes = head.owner[distinct][places]
        same = classes[:, None] == classes[None]
    return contrast(head.image_features(images).float(), embedded, head.model.logit_scale, same)


@torch.no_grad()
def true_class_probabilities(head: ClipHead, examples: Examples, batch_size: int = 512) -> np.ndarray:
    """Compute p(y | x) of the true class by the zero-shot head of the present weights, float64 (n,): what progress is measured in.

    Puts the head to eval mode and its mode back.
    """
    was_training = head.training
    head.eval()
    device = next(head.parameters()).device
    texts, parts = head.text_features(), []
    for start in range(0, len(examples.keys), batch_size):
        rows = range(start, min(start + batch_size, len(examples.keys)))
        images = center_resize(examples.images(rows).to(device), head.size)
        with half_precision(device):
            chances = head(images, texts).double().softmax(1).cpu()
        parts.append(chances.gather(1, examples.labels[list(rows)].cpu()[:, None])[:, 0])
    head.train(was_training)
    return torch.cat(parts).numpy()


def _texts(head: ClipHead, labels: torch.Tensor, rows: np.ndarray, run_seed: int, epoch: int) -> torch.Tensor:
    """Draw the text of each of an epoch's images: a row of `head.tokens`, (rows,) int64 on the CPU."""
    owner = head.owner.cpu().numpy()
    firsts, sizes = np.searchsorted(owner, range(head.classes)), np.bincount(owner)
    raw = np.random.PCG64(operation_seed(run_seed, epoch, "discl/flyp/texts")).random_raw(len(rows))
    own = labels.cpu().numpy()[rows]
    return torch.from_numpy(firsts[own] + (raw % sizes[own].astype(np.uint64)).astype(np.int64))


def _whole_batches(count: int, batch_size: int) -> int:
    """Count an epoch's batches; SynthError for a lone image."""
    if count < 2:
        raise SynthError(f"an epoch takes 2 images or more, to tell them from one another; one has {count}")
    return max(1, count // batch_size)


def _diverged(what: str, epoch: int, config: FlypConfig) -> SynthError:
    return SynthError(
        f"the CLIP diverged: {what} in epoch {epoch + 1} of {config.epochs}; lower learning_rate (now "
        f"{config.learning_rate:g}) or lengthen warmup_steps"
    )
