"""Batch-norm matching: how far a batch's statistics are from those the teacher has stored, layer by layer.

For layer k: d_k = ||var_k - running_var_k||_2 + ||mean_k - running_mean_k||_2 of the layer's input, biased variance over
images and pixels (SRe2L, Yin et al. 2023, equation 8); R = 10 d_1 + d_2 + ... Groups of images in one batch have statistics,
and gradients, of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distill.accuracy import normalise
from distill.errors import DistillError

#: What a layer's statistics are matched to: mean and variance, each (C,), or (groups, C) where every group has its own.
Goal = tuple[torch.Tensor, torch.Tensor]
#: Images in one step when statistics of a class are computed.
CLASS_BATCH = 256


def matched_layers(model: nn.Module) -> list[nn.BatchNorm2d]:
    """List the layers whose stored statistics can be matched, in module order; a batch norm without any is left out."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [layer for layer in layers if layer.running_mean is not None and layer.running_var is not None]


class BatchNormMatcher:
    """Measures batch-norm matching: while it is entered, each forward pass of `model` (in eval mode) leaves R in `loss()`.

    `closed_form` gives the statistics a backward of one per-channel affine map and fuses it with the layer's own: the
    input is stored once, as the layer stores it anyway. Otherwise plain autograd, as published. Equal to rounding
    (`docs/specs/cda.md`, F20). Entering replaces the layers' `forward` or hooks them; leaving puts them back. `goals` are what each
    layer is compared with in place of its stored statistics, such as those of a class; layers normalise by what they have stored
    in any case. `DistillError` for a network without such layers.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: int = 1,
        first_multiplier: float = 10.0,
        closed_form: bool = True,
        goals: Sequence[Goal] | None = None,
    ) -> None:
        self._layers = matched_layers(model)
        self._goals = goals
        if not self._layers:
            raise DistillError(f"{type(model).__name__} has no BatchNorm2d: there are no statistics to match")
        self._groups, self._first, self._closed_form = groups, first_multiplier, closed_form
        self._distances: dict[int, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> BatchNormMatcher:
        for place, layer in enumerate(self._layers):
            if self._closed_form and type(layer) is nn.BatchNorm2d:
                layer.forward = self._fused(place, layer)  # type: ignore[method-assign]
            else:
                self._handles.append(layer.register_forward_pre_hook(self._hook(place)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer in self._layers:
            layer.__dict__.pop("forward", None)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._distances.clear()

    def distances(self) -> list[torch.Tensor]:
        """Return d_k (groups,) of the last forward pass, in module order."""
        return [self._distances[place] for place in range(len(self._layers))]

    def loss(self) -> torch.Tensor:
        """Return R (groups,) of the last forward pass."""
        first, *rest = self.distances()
        return self._first * first + sum(rest, torch.zeros_like(first))

    def _fused(self, place: int, layer: nn.BatchNorm2d) -> Any:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        weight = torch.ones_like(layer.running_var) if layer.weight is None else layer.weight.detach()
        bias = torch.zeros_like(layer.running_mean) if layer.bias is None else layer.bias.detach()
        stored, goal = (layer.running_mean, layer.running_var), self._goal(place)

        def forward(images: torch.Tensor) -> torch.Tensor:
            out, self._distances[place] = _NormAndDistance.apply(
                images, weight, bias, *stored, *goal, layer.eps, self._groups
            )
            return out

        return forward

    def _hook(self, place: int) -> Any:
        def hook(_layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
            self._distances[place] = plain_distance(inputs[0], *self._goal(place), self._groups)

        return hook

    def _goal(self, place: int) -> Goal:
        if self._goals is not None:
            return self._goals[place]
        layer = self._layers[place]
        assert layer.running_mean is not None
        assert layer.running_var is not None
        return layer.running_mean, layer.running_var


def plain_distance(
    images: torch.Tensor, goal_mean: torch.Tensor, goal_var: torch.Tensor, groups: int = 1
) -> torch.Tensor:
    """Compute d (groups,) of a layer input (groups * B, C, H, W), differentiable by autograd; goals (C,) or (groups, C)."""
    grouped = images.unflatten(0, (groups, -1))
    mean = grouped.mean((1, 3, 4))
    var = grouped.transpose(1, 2).flatten(2).var(2, unbiased=False)
    return (var - goal_var).norm(dim=1) + (mean - goal_mean).norm(dim=1)


def batch_statistics(images: torch.Tensor, groups: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and biased variance, each (groups, C), of (groups * B, C, H, W): float64 of doubles, float32 of anything else."""
    exact = torch.float64 if images.dtype == torch.float64 else torch.float32
    if images.is_cuda and groups > 1:
        var, mean = torch.var_mean(images.unflatten(0, (groups, -1)).to(exact), (1, 3, 4), correction=0)
        return mean, var
    # The kernel behind batch norm's training mode reads channels_last 20 times as fast as var_mean on a CPU. Stored
    # statistics of the wanted type, which a momentum of 0 leaves alone, make it answer in that type.
    stored = torch.zeros(2, images.shape[1], dtype=exact, device=images.device)
    parts = [torch.batch_norm_update_stats(part, stored[0], stored[1], 0.0) for part in images.chunk(groups)]
    return torch.stack([mean for mean, _ in parts]), torch.stack([var for _, var in parts])


@torch.no_grad()
def class_statistics(
    model: nn.Module, images: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> list[Goal]:
    """Compute mean and biased variance (C,) float32 of every matched layer's input over images (N, 3, H, W) uint8 of one class.

    LPLD (Xiao and He 2024) keeps running averages of its batches instead, which begin at 0 and 1; see `docs/specs/cda.md`.
    """
    layers = matched_layers(model)
    inputs: dict[nn.Module, torch.Tensor] = {}

    def hook(layer: nn.Module, values: tuple[torch.Tensor, ...]) -> None:
        inputs[layer] = values[0]

    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    sums = [torch.zeros(2, layer.num_features, dtype=torch.float64, device=images.device) for layer in layers]
    try:
        for start in range(0, len(images), CLASS_BATCH):
            batch = images[start : start + CLASS_BATCH].float() / 255
            model(normalise(batch, mean, std))
            for total, layer in zip(sums, layers, strict=True):
                batch_mean, batch_var = (value[0].double() for value in batch_statistics(inputs[layer]))
                total += len(batch) * torch.stack([batch_mean, batch_var + batch_mean.square()])
    finally:
        for handle in handles:
            handle.remove()
    means = [total / len(images) for total in sums]
    return [(first.float(), (second - first.square()).float()) for first, second in means]


class _NormAndDistance(torch.autograd.Function):
    """Computes eval-mode batch norm and d of its input at once; stores its input, as a batch norm does anyway, and no more.

    Backward, with m, v the batch's and mu, s the wanted statistics over n values a channel:
    dd/dx = (m - mu) / (|m - mu| n) + 2 (x - m)(v - s) / (|v - s| n) = a_c + b_c x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        goal_mean: torch.Tensor,
        goal_var: torch.Tensor,
        eps: float,
        groups: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, var = batch_statistics(images, groups)
        off_var, off_mean = var - goal_var, mean - goal_mean
        norm_var, norm_mean = off_var.norm(dim=1), off_mean.norm(dim=1)
        count = images.numel() // (images.shape[1] * groups)
        # A statistic that matches exactly has no direction: its gradient is zero, as in torch.norm.
        tiny = torch.finfo(var.dtype).tiny
        slope = 2 * off_var / (norm_var[:, None] * count).clamp_min(tiny)
        offset = off_mean / (norm_mean[:, None] * count).clamp_min(tiny)
        scale = weight * (running_var + eps).rsqrt()
        ctx.save_for_backward(images, scale, mean, slope, offset)
        return F.batch_norm(images, running_mean, running_var, weight, bias, False, 0.0, eps), norm_var + norm_mean

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor, grad_distance: torch.Tensor) -> Any:
        images, scale, mean, slope, offset = ctx.saved_tensors
        weight = grad_distance[:, None]
        grad = _combined_gradient(images, mean, weight * slope, weight * offset, grad_out, scale)
        return grad, *(None,) * 8


def _combined_gradient(
    images: torch.Tensor,
    mean: torch.Tensor,
    slope: torch.Tensor,
    offset: torch.Tensor,
    grad_out: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """Compute scale * grad_out + slope * (images - mean) + offset; all but the two big tensors (groups, C), scale (C,)."""
    groups = len(mean)
    if images.is_cuda:
        # Two kernels for any number of groups. Parameters stay float32 and promote element by element.
        grad = torch.empty_like(images)
        each = (groups, 1, -1, 1, 1)
        parts = images.unflatten(0, (groups, -1))
        torch.addcmul((offset - slope * mean).view(each), parts, slope.view(each), out=grad.unflatten(0, (groups, -1)))
        return grad.addcmul_(grad_out, scale.view(1, -1, 1, 1))
    # On a CPU promotion copies; but slope * (x - mean) + offset is itself a batch norm, whose kernel is fast and
    # computes in float32 also where x is bfloat16. Only the layer's own scale is rounded then.
    factor, one = scale.to(grad_out.dtype).view(1, -1, 1, 1), torch.ones_like(scale)
    if groups == 1:
        grad = torch.native_batch_norm(images, slope[0], offset[0], mean[0], one, False, 0.0, 0.0)[0]
        return grad.addcmul_(grad_out, factor)
    grad = torch.empty_like(images)
    for place, (out, part, above) in enumerate(
        zip(grad.chunk(groups), images.chunk(groups), grad_out.chunk(groups), strict=True)
    ):
        own = torch.native_batch_norm(part, slope[place], offset[place], mean[place], one, False, 0.0, 0.0)[0]
        torch.addcmul(own, above, factor, out=out)
    return grad


def cross_entropy_by_group(logits: torch.Tensor, targets: torch.Tensor, groups: int) -> torch.Tensor:
    """Compute the mean cross-entropy (groups,) of logits (groups * B, C) and targets (groups * B,)."""
    return F.cross_entropy(logits, targets, reduction="none").unflatten(0, (groups, -1)).mean(1)
