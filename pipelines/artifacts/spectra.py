"""What `discl` left, read back: images of real training images at guidance levels, by level, class and real image.

The stage's datasets are `generated` (every cell that could be made, scored) and `kept` (what was admitted). A row has in `params` its
`level`, `strength` (100 less), `ordinal` (the number of its noise), `attempt`, `prompt` and `scores`; its one parent is the real image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np

from pipelines.artifacts.datasets import finished, open_part
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.job import Job
from pipelines.storage import canonical_json

Part = Literal["kept", "generated"]


@dataclass(frozen=True)
class SpectrumImage:
    """One image: `parent` is the key of its real image, `pixels` the SHA-256 (hex) of its own."""

    key: str
    label: int
    parent: str
    level: int
    ordinal: int
    scores: Mapping[str, float | None]
    pixels: str


class Spectra:
    """The images of a part, in the order of the dataset. Reads no pixels until `load`."""

    def __init__(self, job: Job[Any], part: Part = "kept") -> None:
        self.dataset = open_part(job, "discl", part)
        self._hard: dict[str, Any] = finished(job, "discl").json("hard.json")
        rows = self.dataset.rows(["key", "label", "parents", "params", "pixel_sha256"]).to_pylist()
        self.images = tuple(_image(row) for row in rows)

    @property
    def hard(self) -> list[str]:
        """Keys of the hard real images, in the order of the stage's decision."""
        return [image["key"] for image in self._hard["images"]]

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that there are images of, in ascending order."""
        return tuple(sorted({image.level for image in self.images}))

    def select(
        self, level: int | None = None, label: int | None = None, parent: str | None = None
    ) -> list[SpectrumImage]:
        """The images of a level, of a class, of a real image, or of several of these."""
        wanted = {"level": level, "label": label, "parent": parent}
        asked = {name: value for name, value in wanted.items() if value is not None}
        return [one for one in self.images if all(getattr(one, name) == value for name, value in asked.items())]

    def load(self, images: Sequence[SpectrumImage], size: tuple[int, int] | None = None) -> ImageArrays:
        """Decode images into memory, in this order; those of another `size` (height, width) are resized, by area where they shrink.

        Raises `UserError` when their sizes differ and no `size` is asked for.
        """
        keys = [one.key for one in images]
        if size is None:
            return load_arrays(self.dataset, keys)
        loaded = load_arrays(self.dataset, keys, fit=lambda image: _resized(image, size))
        if loaded.images.shape[2:] == size:
            return loaded
        # All had one size, which `load_arrays` leaves as it is.
        return replace(loaded, images=np.stack([_resized(image, size) for image in loaded.images]))

    def digest(self, images: Sequence[SpectrumImage]) -> str:
        """SHA-256 (hex) of what these images are and show, for the payload of whoever trains on them."""
        form = [[one.key, one.label, one.level, one.pixels] for one in images]
        return hashlib.sha256(canonical_json(form)).hexdigest()


def _resized(image: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """An image (3, h, w) uint8 with the `size` (height, width)."""
    if image.shape[1:] == size:
        return image
    way = cv2.INTER_AREA if image.shape[1] > size[0] else cv2.INTER_LINEAR
    shown = cv2.resize(np.ascontiguousarray(image.transpose(1, 2, 0)), size[::-1], interpolation=way)
    return shown.transpose(2, 0, 1)


def _image(row: Mapping[str, Any]) -> SpectrumImage:
    facts = json.loads(row["params"])
    return SpectrumImage(
        key=row["key"],
        label=row["label"],
        parent=row["parents"][0],
        level=facts["level"],
        ordinal=facts["ordinal"],
        scores=facts["scores"],
        pixels=row["pixel_sha256"],
    )
