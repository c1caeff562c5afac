"""Shared CIFAR weights load into our ResNets and classify: layer names, shortcuts and class order are right."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.accuracy import accuracy_and_loss
from distill.networks import build

PER_CLASS = 50


@pytest.fixture(scope="module")
def test_images(shared_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The first 50 test images of every class, in the alphabetical order that is also CIFAR-10's."""
    image = pytest.importorskip("PIL.Image")
    found: dict[str, list[torch.Tensor]] = {}
    with tarfile.open(shared_data / "cifar10_jpeg.tar.xz", "r|xz") as archive:
        for member in archive:
            part, _, rest = member.name.partition("/")
            if part != "test":
                break  # the test images come first; the rest of the archive need not be decompressed
            name = rest.partition("/")[0]
            pixels = archive.extractfile(member) if member.isfile() and len(found.get(name, [])) < PER_CLASS else None
            if pixels is not None:
                array = np.asarray(image.open(io.BytesIO(pixels.read())).convert("RGB"))
                found.setdefault(name, []).append(torch.from_numpy(array.copy()).permute(2, 0, 1))
    images = [one for name in sorted(found) for one in found[name]]
    assert len(images) == 10 * PER_CLASS
    return torch.stack(images), torch.arange(10).repeat_interleave(PER_CLASS)


@pytest.mark.shared_data
@pytest.mark.parametrize("weights", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
def test_shared_weights_classify_jpeg_test_images(
    shared_data: Path, test_images: tuple[torch.Tensor, torch.Tensor], weights: str
) -> None:
    stored = torch.load(shared_data / "weights" / "cifar_resnets" / weights, weights_only=True, map_location="cpu")
    model = build(weights.partition("-")[0], 10, 32)
    model.load_state_dict({key.removeprefix("module."): value for key, value in stored["state_dict"].items()})
    top1, _ = accuracy_and_loss(model, *test_images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    # 81.0 and 83.2 % on all 10 000; three standard errors of 500 images are five points
    assert top1 >= 0.75
