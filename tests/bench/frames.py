"""Frames between two steps: every pair of geometric operations on torch and cv2 against Kornia, one operation after the other.

    python -m tests.bench.frames                       # the matrix' worst entries; a minute on a core
    python -m tests.bench.frames --json results.json

What a crop, a shift or a shear cuts off must not come back when the next step zooms out or turns back. For each ordered pair the share
of pixels that are more than 40 levels from Kornia's is counted, over pictures with bright bars along their borders. They are
soft: ours resamples once where Kornia does twice, which moves a soft edge by less than that. The goal is a share of 0.01 at the
most in every pair. With hard bars one resampling and two differ in up to 0.05 of the pixels, on torch as on cv2, frames or no frames.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from augment.augmenter import Augmenter
from tests.augment.making import photo

FAR, GOAL = 40, 0.01
SIZE = (72, 60)
OPERATIONS: dict[str, Any] = {
    "resized_crop": {"resized_crop": {"size": [50, 62], "scale": [0.2, 0.8]}},
    "random_crop": {"random_crop": {"size": [40, 36], "padding": 6}},
    "resize": {"resize": {"size": [90, 66]}},
    "resize_small": {"resize": {"size": [44, 39]}},
    "letterbox": {"letterbox": {"size": [80, 96]}},
    "center_crop": {"center_crop": {"size": [34, 30]}},
    "horizontal_flip": {"horizontal_flip": {"p": 1.0}},
    "vertical_flip": {"vertical_flip": {"p": 1.0}},
    "zoom_out": {"affine": {"scale": [0.4, 0.6]}},
    "zoom_in": {"affine": {"scale": [1.4, 1.9], "translate_x": [-0.2, 0.2]}},
    "affine": {"affine": {"degrees": [-60, 60], "scale": [0.6, 1.4], "shear_x": [-15, 15], "translate_y": [-0.3, 0.3]}},
    "rotate": {"rotate": {"degrees": [-90, 90]}},
    "shear_x": {"shear_x": {"degrees": [-40, 40]}},
    "shear_y": {"shear_y": {"degrees": [-40, 40]}},
    "translate_x": {"translate_x": {"share": {"signed": [0.2, 0.5]}}},
    "translate_y": {"translate_y": {"share": {"signed": [0.2, 0.5]}}},
    "perspective": {"perspective": {"distortion": 0.6}},
    "roll": {"roll": {"pixels": 20}},
    "shift": {"shift": {"share": 0.4}},
}


def pictures(count: int) -> torch.Tensor:
    """(count, 3, H, W) uint8, soft, with something bright at every border."""
    images = photo(count, *SIZE, seed=4)
    images //= 4
    images[:, 0, 6:18], images[:, 1, :, 6:15], images[:, 2, -18:-6] = 250, 240, 245
    pixels = [cv2.GaussianBlur(image, (0, 0), 3.0) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def share_far(policy: Any, backend: Any, count: int = 8, fill: float = 0.0) -> float:
    """The share of pixels with a channel more than `FAR` levels from Kornia's, in the worst of `count` pictures' mean."""
    images, keys = pictures(count), list(range(count))
    spec = {"operations": policy, "fill": fill}
    reference = Augmenter(spec, seed=7, backend="kornia", output="uint8")(images, keys).images
    found = Augmenter(spec, seed=7, backend=backend, output="uint8")(images, keys).images
    return float(((found.int() - reference.int()).abs().amax(1) > FAR).double().mean())


def matrix(backend: Any, names: list[str], count: int = 8, fill: float = 0.0) -> dict[str, float]:
    """The share for each ordered pair that fits the pictures."""
    return {
        f"{one} > {other}": round(share_far([OPERATIONS[one], OPERATIONS[other]], backend, count, fill), 5)
        for one, other in itertools.product(names, names)
        if (one, other) != ("center_crop", "random_crop")  # larger than what is left
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8, help="pictures of each pair")
    parser.add_argument("--worst", type=int, default=12, help="entries to print")
    parser.add_argument("--json", type=Path, help="also write the matrices here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for backend, fill in itertools.product(("torch", "cv2"), (0.0, 0.45)):
        name = f"{backend}, fill {fill:g}"
        found[name] = matrix(backend, list(OPERATIONS), options.count, fill)
        shares = np.array(list(found[name].values()))
        print(f"{name}: {len(shares)} pairs, {int((shares > GOAL).sum())} above {GOAL:g}, mean {shares.mean():.5f}")
        for pair, share in sorted(found[name].items(), key=lambda each: -each[1])[: options.worst]:
            print(f"    {share:.5f}  {pair}")
    if options.json:
        options.json.write_text(
            json.dumps({"far": FAR, "size": SIZE, "pictures": options.count, "shares": found}) + "\n"
        )


if __name__ == "__main__":
    main()
