"""Builds small datasets for the tests of this folder: real JPEG and PNG bytes, fixed by a seed."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.shards.checksum import file_sum
from pipelines.shards.dataset import publish
from pipelines.shards.index import ShardEntry
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sample import Sample, ordered_members
from pipelines.shards.sidecar import Sidecar
from pipelines.shards.tar import ShardWriter
from pipelines.storage import Storage, canonical_json

CLASSES = ["cat", "dog", "eel"]


def image_bytes(seed: int, form: str = "JPEG", side: int = 24) -> bytes:
    """An encoded image of smooth noise."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((side, side)).save(out, form)
    return out.getvalue()


def samples(count: int, first: int = 0) -> list[Sample]:
    """Samples with jpg, json and cls; every third also has a caption, every fourth is a PNG."""
    made = []
    for number in range(first, first + count):
        form, ext = ("PNG", "png") if number % 4 == 3 else ("JPEG", "jpg")
        data, label = image_bytes(number, form), number % len(CLASSES)
        key = key_of_bytes(data)
        members = [
            (ext, data),
            ("json", canonical_json({"label": label, "source": f"{number:05d}.{ext}"})),
            ("cls", str(label).encode()),
        ]
        if number % 3 == 0:
            members.append(("txt", f"a picture of number {number}".encode()))
        row: dict[str, Any] = {
            "key": key,
            "outcome": "kept",
            "source": f"{number:05d}.{ext}",
            "split": "train",
            "label": label,
            "label_name": CLASSES[label],
            "width": 24,
            "height": 24,
            "src_width": 24,
            "src_height": 24,
            "src_format": form.lower(),
            "bytes": len(data),
            "raw_sha256": hashlib.sha256(data).hexdigest(),
            "decoder": "pillow",
            "orientation": 1,
        }
        made.append(Sample(key, ordered_members(members), row))
    return made


def failed_row(number: int) -> dict[str, Any]:
    """The row of a source that could not be decoded."""
    return {
        "key": key_of_bytes(b"bad %d" % number),
        "outcome": "failed",
        "reason": "truncated",
        "error_class": "permanent",
        "detail": "the image ends early",
        "source": f"bad-{number}.jpg",
    }


def write_shard(storage: Storage, name: str, content: list[Sample], failures: int = 1) -> ShardEntry:
    """One tar and its sidecar, with `failures` failed rows after the kept ones."""
    path, sidecar_path = f"shards/{name}.tar", f"meta/{name}.parquet"
    sidecar = Sidecar()
    with storage.replacing(path) as temporary, ShardWriter(temporary) as writer:
        for sample in content:
            sidecar.add(sample.row | {"members": writer.add(sample.key, sample.members)})
        info = writer.close()
    for number in range(failures):
        sidecar.add(failed_row(number))
    with storage.replacing(sidecar_path) as temporary:
        sidecar.write(temporary)
    rows = file_sum(storage, sidecar_path)
    return ShardEntry(f"{name}.tar", path, sidecar_path, info.samples, info.bytes, info.sha256, rows.bytes, rows.sha256)


def write_dataset(folder: Path, shards: int = 3, per_shard: int = 8) -> Storage:
    """A finished dataset folder."""
    storage = Storage(folder)
    entries = [
        write_shard(storage, f"ingest-{place:06d}", samples(per_shard, place * per_shard)) for place in range(shards)
    ]
    publish(storage, entries, CLASSES, {"stage": "ingest", "name": "pictures", "license": "CC0-1.0"})
    return storage


def edit_json(path: Path, change: Any) -> None:
    """Load a JSON file, let `change` modify the document, and write it back."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
