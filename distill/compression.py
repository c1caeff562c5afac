"""Smaller logits: half precision, 8 bits with a scale per row, or the k largest. Bytes are part of a distilled set's size.

fp16 is FKD's form (2 C bytes a row). `int8` has 255 levels between a row's extremes (C + 8 bytes). `top_k` stores the k
largest logits in half precision with 16-bit class indices and gives all other classes one common logit, chosen so that
their total softmax mass at temperature 1 stays what it was (4 k + 2 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from distill.errors import DistillError, DivergedError

LabelFormat = Literal["fp16", "int8", "top_k"]


@dataclass(frozen=True)
class Packed:
    """Logits of n rows over C classes in one of the forms.

    `values` (n, C) float16, (n, C) int8 or (n, k) float16; `indices` (n, k) int16 for `top_k`; `scale` (n, 2) float32 low and
    step for `int8`; `rest` (n,) float16 for `top_k`, the common logit of the classes left out.
    """

    form: LabelFormat
    classes: int
    values: torch.Tensor
    indices: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    rest: torch.Tensor | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.values, self.indices, self.scale, self.rest)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def pack(logits: torch.Tensor, form: LabelFormat, k: int = 5) -> Packed:
    """Compress logits (n, C) float to `form`, with `k` logits a row for `top_k`.

    `DivergedError` for a logit that is not finite or beyond half precision, `DistillError` for a `k` that leaves no class out.
    """
    classes = logits.shape[1]
    if not bool(logits.abs().amax() <= torch.finfo(torch.float16).max):  # NaN is not, either
        raise DivergedError(
            "a logit is no finite number, or past what half precision holds (65 504): the teacher that made it is broken"
        )
    if form == "fp16":
        return Packed(form, classes, logits.half())
    if form == "int8":
        low, high = logits.amin(1, keepdim=True), logits.amax(1, keepdim=True)
        step = ((high - low) / 254).clamp_min(1e-12)
        values = ((logits - low) / step - 127).round().to(torch.int8)
        return Packed(form, classes, values, scale=torch.cat([low, step], 1).float())
    if not 1 <= k < classes:
        raise DistillError(f"top_k keeps 1 to {classes - 1} of {classes} classes, got {k}")
    if classes > torch.iinfo(torch.int16).max:
        raise DistillError(f"top_k stores 16-bit class indices; {classes} classes need fp16 or int8")
    largest, indices = logits.topk(k, dim=1)
    mass = logits.logsumexp(1)[:, None]
    others = torch.log1p(-(largest - mass).exp().sum(1).clamp(max=1 - 1e-6)) + mass[:, 0]
    rest = others - torch.log(torch.tensor(float(classes - k)))
    return Packed(form, classes, largest.half(), indices=indices.short(), rest=rest.half())


def unpack(packed: Packed) -> torch.Tensor:
    """Decompress to logits (n, C) float32."""
    if packed.form == "fp16":
        return packed.values.float()
    if packed.form == "int8":
        assert packed.scale is not None
        return (packed.values.float() + 127) * packed.scale[:, 1:] + packed.scale[:, :1]
    assert packed.indices is not None
    assert packed.rest is not None
    full = packed.rest.float()[:, None].expand(-1, packed.classes).clone()
    return full.scatter_(1, packed.indices.long(), packed.values.float())
