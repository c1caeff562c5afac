"""Labelled images that are all in memory, for tests of the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class InMemory:
    """`Examples` of `pixels` (n, 3, h, w), float in [0, 1]; `labels` (n,) int64."""

    keys: Sequence[str]
    labels: torch.Tensor
    pixels: torch.Tensor

    def images(self, rows: Sequence[int]) -> torch.Tensor:
        return self.pixels[torch.as_tensor(list(rows), dtype=torch.long)]
