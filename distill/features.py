"""Features of images: what a network gives its head, the embedding in which coresets are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from distill.accuracy import BATCH, normalise
from distill.errors import DistillError, DivergedError
from distill.networks import head_names
from distill.soundness import fault_of


@torch.no_grad()
def head_inputs(model: nn.Module, images: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Compute what `model`, in eval mode, gives its head for uint8 images (n, 3, S, S): (n, d) float32 on the CPU.

    Of several heads the first is listened to. `DistillError` for a network without one, and `DivergedError` where a feature is not a
    finite number.
    """
    assert not model.training, "in train mode features would depend on the batch"
    heads = head_names(model)
    if not heads:
        raise DistillError(
            "the network says of no layer that it is its head, so it has no features to choose images by"
        )
    inputs: list[torch.Tensor] = []

    def keep(_head: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        inputs.append(given[0].flatten(1).float().cpu())

    handle = model.get_submodule(heads[0]).register_forward_pre_hook(keep)
    try:
        for start in range(0, len(images), BATCH):
            model(normalise(images[start : start + BATCH].float() / 255, mean, std))
    finally:
        handle.remove()
    features = torch.cat(inputs)
    if not bool(features.isfinite().all()):
        raise DivergedError(
            f"the network's features of images are not finite numbers ({fault_of(model) or 'they overflow'})"
        )
    return features
