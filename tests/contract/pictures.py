"""A folder-per-class source of small real images in several formats, some of them damaged, equal on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from pipelines.config import RunParams
from pipelines.runtime.job import Job
from pipelines.stages.ingest.params import IngestParams

CLASSES = ("bark", "leaf", "stone")


def picture(number: int, side: int = 48) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A gradient with a block in it: uint8 (side, side + 16, 3), by whole-number arithmetic only."""
    rows, columns, channels = np.indices((side, side + 16, 3))
    pixels = (rows * (3 + number) + columns * (5 + channels) + channels * 40 + number * 11) % 256
    pixels[8:24, 10 : 14 + number % 20] = (number * 37) % 256
    return pixels.astype(np.uint8)


def write_pictures(folder: Path, count: int = 60) -> Path:
    """`count` files over three classes: JPEG, PNG and PGM; three are cut, one is no image, one is a copy."""
    for number in range(count):
        ending = (".jpg", ".png", ".pgm")[number % 3]
        pixels = picture(number)
        encoded = cv2.imencode(ending, pixels[..., 0] if ending == ".pgm" else pixels)[1].tobytes()
        if number in (7, 24, 41):
            encoded = encoded[: len(encoded) // 2]
        path = folder / CLASSES[number % 7 % 3] / f"{number:03d}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"<html>not found</html>" if number == 13 else encoded)
    (folder / "leaf" / "copy.png").write_bytes(cv2.imencode(".png", picture(4))[1].tobytes())
    (folder / "stone" / "copy.png").write_bytes(cv2.imencode(".png", picture(4))[1].tobytes())
    return folder


def ingest_params(source: Path, **more: Any) -> dict[str, Any]:
    """A section `ingest` for such a folder: 32 px PNG, about ten samples a shard."""
    chosen = {
        "sources": [{"type": "folder", "path": str(source)}],
        "image": {"resize": "pad", "size": 32, "format": "png"},
        "shard_samples": 10,
    }
    return chosen | more


def ingest_job(source: Path, data: Path, **more: Any) -> Job[IngestParams]:
    """An ingest of such a folder into `data`."""
    return Job("ingest", IngestParams.model_validate(ingest_params(source, **more)), RunParams(), str(data))


def write_params(path: Path, source: Path) -> Path:
    """A parameter file for the command line."""
    path.write_text(yaml.safe_dump({"ingest": ingest_params(source)}))
    return path
