"""Labels that went through a file belong to the same views, to the bit, and train the same student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.compression import pack, unpack
from distill.config import TrainConfig, ViewConfig
from distill.labels import label_epoch, replay
from distill.networks import build
from distill.training import Trainer
from pipelines.loaders.soft_labels import read_soft_labels, write_soft_labels
from pipelines.storage import Storage

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_a_student_of_stored_labels_is_the_student_of_labels_in_memory(tmp_path: Path, crop: str, mix: str) -> None:
    images = torch.randint(0, 256, (13, 3, 16, 16), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    classes, keys = torch.arange(13) % 4, [f"image{place}" for place in range(13)]
    views = ViewConfig(crop=crop, mix=mix)  # type: ignore[arg-type]
    teacher = build("convnet2_w8", 4, 16, seed=1).eval()
    made = {
        epoch: label_epoch(teacher, images, views, seed=3, epoch=epoch, batch_size=5, **STATISTICS)
        for epoch in range(2)
    }
    packed = {epoch: (drawn, pack(logits, "fp16")) for epoch, (drawn, logits) in made.items()}
    path = tmp_path / "labels.arrow"
    write_soft_labels(path, ((epoch, *row) for epoch, row in packed.items()), keys, {"format": "fp16", "classes": 4})
    stored = read_soft_labels(Storage(tmp_path), ["labels.arrow"], keys)
    config = TrainConfig(epochs=2, batch_size=5, views=views, learning_rate=0.05)
    finals = []
    for tables in (stored, {epoch: (drawn, unpack(row)) for epoch, (drawn, row) in packed.items()}):
        student = build("convnet2_w8", 4, 16, seed=2)
        list(Trainer(student, (images, classes), config, seed=3, soft_labels=replay(tables), **STATISTICS).run())
        finals.append(student.state_dict())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
