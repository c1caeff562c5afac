"""A finished `split` of drawn pictures for the tests of `augment`: rectangles on black, with COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.config import RunParams
from pipelines.images.decode import Pixels
from pipelines.runtime.job import Job
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.dataset import Dataset
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sample import Sample
from pipelines.stages.augment.params import AugmentParams
from pipelines.stages.augment.stage import Augment
from pipelines.storage import Storage, canonical_json
from tests.sealing import seal

CLASSES = ["small", "large"]


def picture(number: int, size: tuple[int, int] = (40, 56)) -> tuple[Pixels, list[int]]:
    """A black picture with one bright rectangle, and the rectangle as x, y, width, height."""
    x, y, width, height = 6 + number % 7, 5 + number % 5, 14 + number % 9, 12 + number % 6
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[y : y + height, x : x + width] = (200, 120 + number, 60)
    return pixels, [x, y, width, height]


def sample(number: int, size: tuple[int, int] = (40, 56), **changes: Any) -> Sample:
    """The picture as a sample with one annotation; `changes` replace members by name or, as `annotations`, the list."""
    pixels, box = picture(number, size)
    data = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
    key = key_of_bytes(data)
    label = number % 2
    annotation = {"id": number + 1, "image_id": number, "category_id": 7, "bbox": box, "area": 1, "note": "kept"}
    described: dict[str, Any] = {
        "key": key,
        "image_id": number,
        "width": size[1],
        "height": size[0],
        "caption": "a box",
    }
    described["annotations"] = changes.get("annotations", [annotation])
    members = {"png": data, "json": canonical_json(described), "cls": str(label).encode()}
    members |= {ext: raw for ext, raw in changes.items() if ext != "annotations"}
    row = {"label": label, "label_name": CLASSES[label], "split": "train", "width": size[1], "height": size[0]}
    return Sample(key, tuple(members.items()), row | {"source": f"{number}.png"})


def write_split(data: Path, shards: list[list[Sample]]) -> None:
    """`split` with one part, `train`, of these shards."""
    storage = Storage(data / "split")
    markers = []
    for index, samples in enumerate(shards):
        output = UnitOutput(storage, Unit(f"train/split-{index:06d}", {}), "0" * 32)
        with output.shard("train") as shard:
            for one in samples:
                shard.keep(one)
        markers.append(output.commit())
    publish_datasets(storage, markers, CLASSES, {"name": "split"}, ["train"])
    seal(storage, "split")


def shards_of(*counts: int, **changes: Any) -> list[list[Sample]]:
    """Shards of so many samples each, no two alike."""
    numbers = iter(range(sum(counts)))
    return [[sample(next(numbers), **changes) for _ in range(count)] for count in counts]


def job_of(data: Path, threads: int = 1, source: str = "split/train", shard_samples: int = 12, **sets: Any) -> Job[Any]:
    """A job of `augment` with these sets, PNG unless they say otherwise."""
    whole = {name: {"format": "png"} | settings for name, settings in sets.items()}
    params = AugmentParams.model_validate({"source": source, "sets": whole, "shard_samples": shard_samples})
    return Job("augment", params, RunParams(device="cpu", threads=threads), str(data))


def rows_of(data: Path, name: str, kept_only: bool = True) -> list[dict[str, Any]]:
    """All sidecar rows of a set of views."""
    return Dataset.open(str(data / Augment.name / name)).rows(kept_only=kept_only).to_pylist()


def view_of(data: Path, name: str, row: dict[str, Any]) -> tuple[Pixels, dict[str, Any]]:
    """The stored pixels of a view, RGB, and its json."""
    members = Dataset.open(str(data / Augment.name / name)).read(row["shard"], row["key"], row["members"])
    pixels = cv2.imdecode(np.frombuffer(members["png"], np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(pixels, np.uint8), json.loads(members["json"])
