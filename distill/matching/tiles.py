"""Tiles: f x f images of S / f pixels stored as one of S, and enlarged again before anything else is done to them.

Kim et al. 2022 (IDC), section 4.1, call it multi-formation. A stored image is read row by row, from the upper left.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from distill.errors import DistillError


def decode_tiles(stored: torch.Tensor, factor: int) -> torch.Tensor:
    """Cut stored images (n, C, S, S) float into tiles and enlarge each to S; returns (n * f^2, C, S, S), those of an image together.

    Bilinear, corners not aligned; differentiable. `factor` 1 returns `stored`. `DistillError` where S is no multiple of f.
    """
    if factor == 1:
        return stored
    count, channels, height, width = stored.shape
    _require(height, width, factor)
    tiles = stored.view(count, channels, factor, height // factor, factor, width // factor)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).reshape(count * factor**2, channels, height // factor, width // factor)
    return interpolate(tiles, size=(height, width), mode="bilinear", align_corners=False)


def encode_tiles(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Shrink images (n * f^2, C, S, S) float to tiles by the mean of each f x f square and store f^2 in one; returns (n, C, S, S)."""
    if factor == 1:
        return images
    total, channels, height, width = images.shape
    _require(height, width, factor)
    if total % factor**2:
        raise DistillError(f"{total} images do not fill stored ones of {factor**2} tiles")
    small = images.view(total, channels, height // factor, factor, width // factor, factor).mean((3, 5))
    grid = small.view(total // factor**2, factor, factor, channels, height // factor, width // factor)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(total // factor**2, channels, height, width)


def _require(height: int, width: int, factor: int) -> None:
    if height % factor or width % factor:
        raise DistillError(
            f"images of {height}x{width} pixels cannot be cut into {factor}x{factor} equal tiles; set tiles to 1"
        )
