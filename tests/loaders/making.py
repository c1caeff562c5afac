"""A small published dataset whose samples carry their number, in shards of uneven size, some of them bad if asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.shards.checksum import file_sum
from pipelines.shards.dataset import ShardEntry, publish
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sidecar import Sidecar
from pipelines.shards.tar import ShardWriter
from pipelines.storage import Storage

SHARDS = (9, 1, 17, 4, 12, 10)
COUNT = sum(SHARDS)
CLASSES = ["ash", "birch", "cedar"]


def key_of(number: int) -> str:
    return key_of_bytes(b"%d" % number)


def write_dataset(
    root: Path,
    bad: Collection[int] = (),
    key_of: Callable[[int], str] = key_of,
    facts: Callable[[int], dict[str, Any]] = lambda number: {},
) -> str:
    """53 PNGs of 8 x 9 pixels, all of value 4 n, with json and cls; a failed row at the end of every shard.

    `facts` are what else their rows say.
    """
    entries, first = [], 0
    for place, count in enumerate(SHARDS):
        name, sidecar = f"test-{place:06d}", Sidecar()
        for folder in ("shards", "meta"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        with ShardWriter(root / f"shards/{name}.tar") as writer:
            for number in range(first, first + count):
                pixels = np.full((9, 8, 3), number * 4, np.uint8)
                image = b"no image" if number in bad else cv2.imencode(".png", pixels)[1].tobytes()
                label = str(number % 3).encode()
                members = (("png", image), ("json", json.dumps({"n": number}).encode()), ("cls", label))
                spans = writer.add(key_of(number), members)
                row = {"key": key_of(number), "outcome": "kept", "label": number % 3, "members": spans}
                sidecar.add(row | facts(number))
            info = writer.close()
        sidecar.add({"key": key_of_bytes(name.encode()), "outcome": "failed", "reason": "truncated"})
        sidecar.write(root / f"meta/{name}.parquet")
        paths = f"shards/{name}.tar", f"meta/{name}.parquet"
        rows = file_sum(Storage(root), paths[1])
        entries.append(
            ShardEntry(f"{name}.tar", *paths, info.samples, info.bytes, info.sha256, rows.bytes, rows.sha256)
        )
        first += count
    publish(Storage(root), entries, CLASSES, {"name": "test"})
    return str(root)


def numbers(batch: list[dict[str, Any]]) -> list[int]:
    """A collation that keeps only which samples there are; the number is in the pixels."""
    return [int(sample["image"].max()) // 4 for sample in batch]


def merged(ranks: list[list[list[int]]]) -> list[int]:
    """The global order that the batches of all ranks make: one sample of each rank in turn."""
    flat = [[number for batch in rank for number in batch] for rank in ranks]
    steps = max(len(rank) for rank in flat)
    return [rank[step] for step in range(steps) for rank in flat if step < len(rank)]
