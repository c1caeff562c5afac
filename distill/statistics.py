"""Batch-norm matching: how far a batch's statistics are from those the teacher has stored, layer by layer.

For layer k: d_k = ||var_k - running_var_k||_2 + ||mean_k - running_mean_k||_2 of the layer's input, biased variance over
images and pixels (SRe2L, Yin et al. 2023, eq. 8); R = 10 d_1 + d_2 + ... Groups of images in one batch have statistics,
and gradients, of their own.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class BatchNormMatcher:
    """While active, every forward pass of `model` (in eval mode) leaves R in `loss()`, one value per group.

    `closed_form` gives the statistics a backward of one per-channel affine map and fuses it with the layer's own: the
    input is kept once, as the layer keeps it anyway. Otherwise plain autograd, as published. Equal to rounding (F20).
    """

    def __init__(
        self, model: nn.Module, groups: int = 1, first_multiplier: float = 10.0, closed_form: bool = True
    ) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        if not self._layers:
            raise ValueError(f"{type(model).__name__} has no BatchNorm2d: there are no statistics to match")
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
        """d_k (groups,) of the last forward pass, in module order."""
        return [self._distances[place] for place in range(len(self._layers))]

    def loss(self) -> torch.Tensor:
        """R (groups,) of the last forward pass."""
        first, *rest = self.distances()
        return self._first * first + sum(rest, torch.zeros_like(first))

    def _fused(self, place: int, layer: nn.BatchNorm2d) -> Any:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        scale = (layer.running_var + layer.eps).rsqrt()
        if layer.weight is not None:
            scale = scale * layer.weight.detach()
        shift = -layer.running_mean * scale + (layer.bias.detach() if layer.bias is not None else 0.0)

        def forward(images: torch.Tensor) -> torch.Tensor:
            out, distance = _NormAndDistance.apply(
                images, scale, shift, layer.running_mean, layer.running_var, self._groups
            )
            self._distances[place] = distance
            return out

        return forward

    def _hook(self, place: int) -> Any:
        def hook(layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            self._distances[place] = plain_distance(inputs[0], layer.running_mean, layer.running_var, self._groups)

        return hook


def plain_distance(
    images: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, groups: int = 1
) -> torch.Tensor:
    """d (groups,) of a layer input (groups * B, C, H, W), differentiable by autograd."""
    grouped = images.unflatten(0, (groups, -1))
    mean = grouped.mean((1, 3, 4))
    var = grouped.transpose(1, 2).flatten(2).var(2, unbiased=False)
    return (var - running_var).norm(dim=1) + (mean - running_mean).norm(dim=1)


class _NormAndDistance(torch.autograd.Function):
    """Eval-mode batch norm and d of its input at once.

    Backward, with m, v the batch's and mu, s the stored statistics over n values a channel:
    dd/dx = (m - mu) / (|m - mu| n) + 2 (x - m)(v - s) / (|v - s| n) = a_c + b_c x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        groups: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        grouped = images.unflatten(0, (groups, -1))
        with torch.autocast(images.device.type, enabled=False):
            var, mean = torch.var_mean(
                grouped.float() if images.dtype != torch.float64 else grouped, (1, 3, 4), correction=0
            )
            off_var, off_mean = var - running_var, mean - running_mean
            norm_var, norm_mean = off_var.norm(dim=1), off_mean.norm(dim=1)
            count = images.numel() // (images.shape[1] * groups)
            # A statistic that matches exactly has no direction: its gradient is zero, as in torch.norm.
            slope = 2 * off_var / (norm_var[:, None] * count).clamp_min(torch.finfo(var.dtype).tiny)
            offset = off_mean / (norm_mean[:, None] * count).clamp_min(torch.finfo(var.dtype).tiny) - mean * slope
        ctx.save_for_backward(images, scale, slope, offset)
        ctx.groups = groups
        channel = (1, -1, 1, 1)
        out = torch.addcmul(shift.to(images.dtype).view(channel), images, scale.to(images.dtype).view(channel))
        return out, norm_var + norm_mean

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor, grad_distance: torch.Tensor) -> Any:
        images, scale, slope, offset = ctx.saved_tensors
        weight = grad_distance[:, None]
        grad = grad_out * scale.to(grad_out.dtype).view(1, -1, 1, 1)
        shape = (ctx.groups, 1, -1, 1, 1)
        grouped = grad.unflatten(0, (ctx.groups, -1))
        grouped.addcmul_(images.unflatten(0, (ctx.groups, -1)), (weight * slope).to(grad.dtype).view(shape))
        grouped.add_((weight * offset).to(grad.dtype).view(shape))
        return grad, None, None, None, None, None


def cross_entropy_by_group(logits: torch.Tensor, targets: torch.Tensor, groups: int) -> torch.Tensor:
    """Mean cross-entropy (groups,) of logits (groups * B, C) and targets (groups * B,)."""
    return F.cross_entropy(logits, targets, reduction="none").unflatten(0, (groups, -1)).mean(1)
