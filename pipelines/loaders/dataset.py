"""A torch dataset over a dataset folder or URL, by number: `MapDataset`. Imports torch; `import pipelines` does not reach it.

An epoch in canonical order that can be resumed is in `stream`, bytes and pixels are in `reading`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import data

from pipelines.images.params import ImageLimits
from pipelines.loaders.reading import SampleReader
from pipelines.shards.dataset import Dataset
from pipelines.storage import Storage

Transform = Callable[[dict[str, Any]], Any]
Location = str | Path | Storage | Dataset


class MapDataset(data.Dataset[Any]):
    """Samples by number in index order, for any sampler: `dataset[3]`.

    A sample is a dict with `key`, `label` (int, -1: none), `image` (a uint8 tensor (3, H, W), RGB) and the `members` asked
    for; `transform(sample)`, when given, returns what is handed out instead. With `decode=False`, `image` is the encoded
    bytes, for decoders of your own (on a GPU, say); that they are those that were written is checked. Raises `BadSampleError`.
    """

    def __init__(
        self,
        location: Location,
        transform: Transform | None = None,
        members: Sequence[str] = (),
        limits: ImageLimits | None = None,
        decode: bool = True,
    ) -> None:
        self._reader = SampleReader(opened(location), members, limits, decode=decode)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, number: int) -> Any:
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        return finished(self._reader.read(number % len(self)), self._transform)

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return self._reader.dataset.classes

    @property
    def labels(self) -> torch.Tensor:
        """Labels of all samples, int64 (N,), -1 where there is none; for samplers that balance classes."""
        return torch.from_numpy(self._reader.labels)


def opened(location: Location) -> Dataset:
    """The dataset at a location, or itself."""
    return location if isinstance(location, Dataset) else Dataset.open(location)


def finished(sample: dict[str, Any], transform: Transform | None) -> Any:
    """The sample with its image as a tensor (3, H, W) if it was decoded, through the transform."""
    if not isinstance(sample["image"], bytes):
        sample["image"] = torch.from_numpy(np.ascontiguousarray(sample["image"].transpose(2, 0, 1)))
    if transform is None:
        return sample
    try:
        return transform(sample)
    except Exception as error:
        error.add_note(f"in the transform of sample {sample.get('key')}")
        raise
