"""Whether a network can be trained on a dataset at all, tried on blank images before any work begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipelines.artifacts.teacher import build_network
from pipelines.errors import UserError
from pipelines.shards.dataset import Dataset

if TYPE_CHECKING:
    from torch import nn


def common_side(parts: Sequence[Dataset]) -> int:
    """The side of the images of all parts; `UserError` unless they are square and of one size. Reads no pixels."""
    first = ""
    for part in parts:
        rows = part.rows(["width", "height"])
        for width, height in sorted(set(zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True))):
            size = f"{width}x{height}"
            if width != height or size != (first or size):
                others = f", others are {first}" if first and size != first else ""
                raise UserError(
                    f"networks are trained on square images of one size, and {part.storage.url} holds some of {size}{others}; ingest "
                    "them at one (ingest.image.resize: center_crop, exact or pad, and ingest.image.size)"
                )
            first = size
    if not first:
        raise UserError(f"{parts[0].storage.url} holds no kept samples")
    return int(first.split("x")[0])


def smallest_batch(trainings: Iterable[tuple[int, int]]) -> int:
    """Images of the smallest batch in trainings of (images, batch_size) each, 2 standing for all that is not alone; 0 without any."""
    from distill.training import batch_bounds

    sizes = [stop - start for count, size in trainings for start, stop in batch_bounds(count, size, company=True)]
    return min([2, *sizes]) if sizes else 0


def require_trainable(name: str, classes: int, side: int, key: str, batch: int) -> nn.Module:
    """A network by name that takes batches of `batch` images of `side` pixels in training, or, with 0, one image in eval mode.

    `UserError`, of the parameter `key`, for one that is not there or cannot: networks made for larger images, batch norm on a lone
    image that is down to one pixel. What is returned has seen blank images; build another to train it.
    """
    import torch

    model = build_network(name, classes, side, 0, key)
    model.train(batch > 0)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws
            model(torch.zeros(max(batch, 1), 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200].rstrip(".")
        alone = f" one at a time (batch_size, or how many there are, leaves {batch} for a batch)" if batch == 1 else ""
        raise UserError(
            f"{key}: {name} does not take images of {side} px{alone}: {problem}; choose another network, or raise "
            f"{'batch_size' if alone else 'ingest.image.size'}"
        ) from None
    return model
