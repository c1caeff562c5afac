"""Images for these tests."""

from __future__ import annotations

import torch


def photo(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, height, width) uint8: smooth colour fields with a few sharp edges, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    smooth[:, :, height // 3 : height // 2, width // 4 : width // 2] *= 0.3
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)
