"""Images that are stored as tiles of others, read back as the images that they stand for, before anything else is done to them."""

from __future__ import annotations

import numpy as np

from pipelines.loaders.arrays import ImageArrays

#: Stored images that are decoded at once.
CHUNK = 256


def decoded_tiles(stored: ImageArrays, factor: int) -> ImageArrays:
    """Images of `factor` x `factor` tiles each as that many times as many images, those of one together; keys are KEY-t0, KEY-t1, ...

    Each tile is enlarged to the image's size, bilinear and rounded to uint8 (`distill.matching.tiles`). `factor` 1 returns `stored`.
    """
    if factor == 1:
        return stored
    import torch

    from distill.matching.tiles import decode_tiles

    each = factor**2
    images = np.empty((len(stored) * each, *stored.images.shape[1:]), np.uint8)
    for start in range(0, len(stored), CHUNK):
        part = torch.from_numpy(stored.images[start : start + CHUNK]).float()
        levels = decode_tiles(part, factor).round().clamp(0, 255).to(torch.uint8)
        images[start * each : start * each + len(levels)] = levels.numpy()
    keys = [f"{key}-t{place}" for key in stored.keys for place in range(each)]
    return ImageArrays(images, np.repeat(stored.labels, each), keys)
