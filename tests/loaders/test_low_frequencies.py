"""A loader that plays EfficientTrain: sides and magnitudes grow by epoch, the same for any workers and after a resume."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from augment.frequencies import EfficientTrain
from pipelines.errors import UserError
from pipelines.loaders.loader import StreamLoader
from pipelines.loaders.low_frequencies import LowFrequencyBatches
from pipelines.loaders.stream import StreamDataset
from tests.loaders.making import COUNT, write_dataset

CURRICULUM = EfficientTrain(size=8, epochs=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def loader(folder: str, batches: LowFrequencyBatches, batch_size: int = 20, **options: Any) -> StreamLoader:
    return StreamLoader(StreamDataset(folder, batch_size, seed=1, collate=batches, threads=1), **options)


def test_sides_grow_and_every_epoch_is_whole(folder: str) -> None:
    played = loader(folder, LowFrequencyBatches(CURRICULUM))
    for epoch in range(5):
        batches = list(played)
        assert {batch["image"].shape[1:] for batch in batches} == {(3, CURRICULUM.side(epoch), CURRICULUM.side(epoch))}
        assert sum(len(batch["key"]) for batch in batches) == COUNT
        assert all(
            batch["image"].dtype == torch.float32 and len(batch["label"]) == len(batch["image"]) for batch in batches
        )
    assert [CURRICULUM.side(epoch) for epoch in range(5)] == [6, 6, 6, 6, 8]
    with pytest.raises(UserError, match="has 5 epochs, this is epoch 5"):
        list(played)


def test_workers_and_a_resume_change_nothing(folder: str) -> None:
    alone = list(loader(folder, LowFrequencyBatches(CURRICULUM)))
    for workers in (0, 2):
        options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
        first = loader(folder, LowFrequencyBatches(CURRICULUM), **options)
        head = list(islice(first, 1))
        second = loader(folder, LowFrequencyBatches(CURRICULUM), **options)
        second.load_state_dict(first.state_dict())
        for ours, theirs in zip(head + list(second), alone, strict=True):
            assert ours["key"] == theirs["key"]
            assert torch.equal(ours["image"], theirs["image"])


def test_the_first_epoch_is_hardly_augmented_and_the_last_as_much_as_published() -> None:
    # All pixels of an image are of one value: what moves it is its colours' augmentation.
    policy = {"operations": [{"brightness": {"factor": {"start": 1.0, "end": 0.5}}}, {"resize": {"size": 8}}]}
    batches = LowFrequencyBatches(CURRICULUM, policy)
    sample = {"image": torch.full((3, 9, 8), 200, dtype=torch.uint8), "seed": 5, "key": "a", "label": 0}
    means = [float(batches([sample | {"epoch": epoch}])["image"].mean()) for epoch in range(5)]
    assert means == pytest.approx([200 / 255 * factor for factor in (1, 0.875, 0.75, 0.625, 0.5)], abs=0.01)


def test_images_of_another_size_are_refused(folder: str) -> None:
    batches = LowFrequencyBatches(CURRICULUM, {"operations": ["identity"]})
    with pytest.raises(UserError, match="leaves images of 9x8, the curriculum is of 8 pixels"):
        next(iter(loader(folder, batches)))


def test_normalised_images_keep_their_mean() -> None:
    policy = {"operations": [{"resize": {"size": 8}}]}
    batches = LowFrequencyBatches(CURRICULUM, policy, mean=(0.5,) * 3, std=(0.25,) * 3)
    sample = {"image": torch.full((3, 9, 8), 204, dtype=torch.uint8), "seed": 5, "key": "a", "label": 0, "epoch": 0}
    torch.testing.assert_close(batches([sample])["image"], torch.full((1, 3, 6, 6), (0.8 - 0.5) / 0.25))


def test_the_lines_of_the_manual_play(folder: str, repository: Path) -> None:
    (lines,) = re.findall(
        r"```python\n(from augment.frequencies.*?)```", (repository / "docs/format.md").read_text(), re.S
    )
    place: dict[str, Any] = {"train": folder}
    exec(lines.replace("size=224", "size=64").replace("num_workers=4", "num_workers=0"), place)
    (batch,) = list(place["loader"])
    assert batch["image"].shape == (COUNT, 3, 32, 32)
