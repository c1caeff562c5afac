"""Class names that have been taken for something else, written as every kind of source, and what became of them.

Pictures are plain and lossless, so that a picture tells which class it was, whatever the source did to its name or order.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import Storage

#: Every list is in the order of the labels, which is not always that of the alphabet.
NAMINGS: dict[str, tuple[str, ...]] = {
    "numerals sorted as text": ("1", "10", "11", "12", "2", "3", "4", "5", "6", "7", "8", "9"),
    "indices of one another": ("2", "0", "1"),
    "years": ("2019", "1984", "2001"),
    "negative": ("-1", "0", "1"),
    "floats": ("1.0", "0.5", "1e3"),
    "truth": ("true", "false", "yes", "no"),
    "nothing": ("null", "none", "nan", "NA"),
    "leading zeros": ("007", "7", "07"),
    "unicode": ("café", "猫", "naïve"),
    "spaces": ("hot dog", "cat", "dog "),
    "case": ("cat", "Cat", "CAT"),
    "one class": ("only",),
    "words": ("dog", "cat"),
}
SOURCES = ("folder", "tar cls", "tar json", "parquet index", "parquet name", "idx")


def picture(label: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(16, 16) uint8: a grey of its own for each class, with a corner that keeps it from being flat."""
    pixels = np.full((16, 16), 10 + 16 * label, np.uint8)
    pixels[:4, :4] = 255
    return pixels


def write_named(folder: Path, kind: str, names: Sequence[str]) -> tuple[dict[str, Any], dict[int, str]]:
    """Write one picture a class; returns the source for `ingest.sources` and {grey of the picture: class name}."""
    folder.mkdir(parents=True)
    images = [cv2.imencode(".png", picture(label))[1].tobytes() for label in range(len(names))]
    section = _WRITERS[kind](folder, names, images)
    return section, {int(picture(label)[8, 8]): name for label, name in enumerate(names)}


def stored_labels(dataset: Path) -> dict[int, str]:
    """{grey of the picture: class name} of a finished dataset, by `classes.json` and the `.cls` members of its tars."""
    classes = json.loads((dataset / "classes.json").read_text())
    found: dict[int, str] = {}
    for path in sorted((dataset / "shards").glob("*.tar")):
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for entry in archive:
                stream = archive.extractfile(entry)
                key, _, ending = entry.name.partition(".")
                members.setdefault(key, {})[ending] = b"" if stream is None else stream.read()
        for sample in members.values():
            pixels = cv2.imdecode(np.frombuffer(sample["png"], np.uint8), cv2.IMREAD_GRAYSCALE)
            said = json.loads(sample["json"])
            name = classes[int(sample["cls"])] if "cls" in sample else None
            found[int(pixels[8, 8])] = (
                name if name == said.get("label_name") else f"{name!r} or {said.get('label_name')!r}"
            )
    for shard in Dataset.open(Storage(dataset)).shards:
        for row in read_sidecar(Storage(dataset), shard.sidecar, ["label", "label_name"]).to_pylist():
            assert row["label"] is None or classes[row["label"]] == row["label_name"]
    return found


def _folder(folder: Path, names: Sequence[str], images: Sequence[bytes]) -> dict[str, Any]:
    for name, image in zip(names, images, strict=True):
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(image)
    return {"type": "folder", "path": str(folder)}


def _tar(folder: Path, sides: Sequence[tuple[str, bytes]], images: Sequence[bytes]) -> dict[str, Any]:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (image, (ending, side)) in enumerate(zip(images, sides, strict=True)):
            for name, content in ((f"{number:03d}.png", image), (f"{number:03d}.{ending}", side)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return {"type": "tar", "path": str(folder)}


def _tar_cls(folder: Path, names: Sequence[str], images: Sequence[bytes]) -> dict[str, Any]:
    (folder / "classes.json").write_text(json.dumps(list(names)))
    return _tar(folder, [("cls", str(label).encode()) for label in range(len(names))], images)


def _tar_json(folder: Path, names: Sequence[str], images: Sequence[bytes]) -> dict[str, Any]:
    sides = [("json", json.dumps({"label": label}).encode()) for label in range(len(names))]
    return _tar(folder, sides, images) | {"classes": list(names)}


def _parquet_index(folder: Path, names: Sequence[str], images: Sequence[bytes]) -> dict[str, Any]:
    features = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    table = pa.table({"image": list(images), "label": pa.array(range(len(names)), pa.int64())})
    pq.write_table(table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()}), folder / "a.parquet")
    return {"type": "parquet", "path": str(folder), "image_column": "image", "label_column": "label"}


def _parquet_name(folder: Path, names: Sequence[str], images: Sequence[bytes]) -> dict[str, Any]:
    pq.write_table(pa.table({"image": list(images), "label": list(names)}), folder / "a.parquet")
    return {"type": "parquet", "path": str(folder), "image_column": "image", "label_column": "label"}


def _idx(folder: Path, names: Sequence[str], images: Sequence[bytes]) -> dict[str, Any]:
    pixels = np.stack([picture(label) for label in range(len(images))])
    (folder / "images").write_bytes(struct.pack(">HBBIII", 0, 8, 3, *pixels.shape) + pixels.tobytes())
    (folder / "labels").write_bytes(struct.pack(">HBBI", 0, 8, 1, len(names)) + bytes(range(len(names))))
    (folder / "classes.json").write_text(json.dumps(list(names)))
    return {"type": "idx", "path": str(folder), "images": "images", "labels": "labels"}


_WRITERS = {
    "folder": _folder,
    "tar cls": _tar_cls,
    "tar json": _tar_json,
    "parquet index": _parquet_index,
    "parquet name": _parquet_name,
    "idx": _idx,
}
