"""How fast a trainer is fed, next to webdataset and torchvision's ImageFolder.

    python -m tests.bench.loader FOLDER_WITH_A_FOLDER_OF_JPEGS_PER_CLASS

The files are packed unchanged into a dataset in a temporary folder; everything lies in the page cache. Each row hands out
the same batches: 64 images as uint8 tensors (3, H, W), collated, with labels. Ours are shuffled over all shards and
decoded by two threads a process unless the row says otherwise; webdataset reads its shards in sequence without a
shuffle, ImageFolder shuffles files. "our decoder" gives the other readers ours, so that what is left is reading. "bytes"
rows hand out the encoded images of a batch (ours with the checksums checked, and shuffled); "by number" is a `SampleReader`
that is open already, in index order and without batches.

Rows take turns within each repeat; a figure is the median and the interquartile range of images per second by the clock,
beside images per second of CPU time (all threads and workers), which other jobs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from pipelines.images.process import decode_rgb
from pipelines.loaders.loader import StreamLoader
from pipelines.loaders.reading import SampleReader
from pipelines.loaders.stream import StreamDataset
from pipelines.shards.checksum import file_sum
from pipelines.shards.dataset import Dataset, ShardEntry, publish
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sidecar import Sidecar
from pipelines.shards.tar import ShardWriter
from pipelines.storage import Storage

BATCH, PER_SHARD, REPEATS = 64, 250, 5
Row = Callable[[], int]


def pack(source: Path, target: Path, limit: int) -> int:
    """The JPEGs of `source`, every n-th so that there are at most `limit`, as a dataset; returns their number."""
    classes = sorted(path.name for path in source.iterdir() if path.is_dir())
    files = [(path, label) for label, name in enumerate(classes) for path in sorted((source / name).iterdir())]
    files = files[:: -(-len(files) // limit)]
    entries = []
    for folder in ("shards", "meta"):
        (target / folder).mkdir()
    for first in range(0, len(files), PER_SHARD):
        name, sidecar = f"bench-{first // PER_SHARD:06d}", Sidecar()
        with ShardWriter(target / f"shards/{name}.tar") as writer:
            for path, label in files[first : first + PER_SHARD]:
                data = path.read_bytes()
                key = key_of_bytes(data)
                spans = writer.add(key, [("jpg", data), ("cls", str(label).encode())])
                sidecar.add({"key": key, "outcome": "kept", "label": label, "members": spans})
            info = writer.close()
        sidecar.write(target / f"meta/{name}.parquet")
        paths = f"shards/{name}.tar", f"meta/{name}.parquet"
        rows = file_sum(Storage(target), paths[1])
        entries.append(
            ShardEntry(f"{name}.tar", *paths, info.samples, info.bytes, info.sha256, rows.bytes, rows.sha256)
        )
    publish(Storage(target), entries, classes, {"name": "bench"})
    for path, label in files:  # the same images for ImageFolder, which takes all that it finds
        link = target / "files" / classes[label] / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return len(files)


def ours(path: Path) -> torch.Tensor:
    return from_bytes(path.read_bytes())


def from_bytes(data: bytes) -> torch.Tensor:
    pixels = decode_rgb(data)
    assert isinstance(pixels, np.ndarray)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def by_pillow(path: str) -> torch.Tensor:
    with Image.open(path) as image:
        return pil_to_tensor(image.convert("RGB"))


def images_of(batches: Iterator[Any]) -> int:
    return sum(len(images) for images, _ in batches)


def loader_row(dataset: Any, workers: int, **options: Any) -> Row:
    def run() -> int:
        return images_of(iter(DataLoader(dataset(), num_workers=workers, **options)))

    return run


def rows_of(folder: Path) -> dict[str, Row]:
    """What is measured; each call reads one epoch and returns its images."""
    shards = sorted(str(path) for path in folder.glob("shards/*.tar"))
    only_images_and_labels = lambda samples: (  # noqa: E731
        torch.stack([sample["image"] for sample in samples]),
        torch.tensor([sample["label"] for sample in samples]),
    )

    only_bytes_and_labels = lambda samples: (  # noqa: E731
        [sample["image"] for sample in samples],
        torch.tensor([sample["label"] for sample in samples]),
    )

    def stream(workers: int, threads: int, **options: Any) -> Row:
        collate = only_images_and_labels if options.get("decode", True) else only_bytes_and_labels

        def run() -> int:
            dataset = StreamDataset(folder, BATCH, threads=threads, collate=collate, **options)
            return images_of(iter(StreamLoader(dataset, num_workers=workers)))

        return run

    def tars(decode: Any) -> Callable[[], Any]:
        return lambda: webdataset.WebDataset(shards, shardshuffle=False).decode(decode).to_tuple("jpg", "cls")

    def our_decode(key: str, data: bytes) -> Any:
        return from_bytes(data) if key.endswith("jpg") else None

    def files(load: Callable[[str], torch.Tensor]) -> Callable[[], Any]:
        return lambda: ImageFolder(folder / "files", loader=load)

    rows: dict[str, Row] = {}
    for workers in (0, 2):
        name = f"{workers} workers"
        rows[f"ours, {name}"] = stream(workers, 2)
        rows[f"ours, one thread, {name}"] = stream(workers, 1)
        rows[f"ours, block shuffle, {name}"] = stream(workers, 2, shuffle="block", window=4)
        rows[f"webdataset, {name}"] = loader_row(tars("torchrgb8"), workers, batch_size=BATCH)
        rows[f"webdataset, our decoder, {name}"] = loader_row(tars(our_decode), workers, batch_size=BATCH)
        rows[f"ImageFolder, {name}"] = loader_row(files(by_pillow), workers, batch_size=BATCH, shuffle=True)
        rows[f"ImageFolder, our decoder, {name}"] = loader_row(
            files(lambda path: ours(Path(path))), workers, batch_size=BATCH, shuffle=True
        )
        rows[f"ours, bytes, one thread, {name}"] = stream(workers, 1, decode=False)
        rows[f"webdataset, bytes, {name}"] = loader_row(
            lambda: webdataset.WebDataset(shards, shardshuffle=False).to_tuple("jpg", "cls"), workers, batch_size=BATCH
        )
    reader = SampleReader(Dataset.open(folder), decode=False)
    rows["ours, bytes by number, 0 workers"] = lambda: sum(1 for number in range(len(reader)) if reader.read(number))
    everything = [path.read_bytes() for path in (folder / "files").rglob("*") if path.is_file()]
    rows["decoding alone, one thread"] = lambda: sum(1 for data in everything if from_bytes(data) is not None)
    return rows


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(rows: dict[str, Row], count: int, repeats: int) -> dict[str, dict[str, float]]:
    """Images per second of each row, by the clock and by CPU time; median and interquartile range."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for repeat in range(repeats + 1):
        for name, run in rows.items():
            started, cpu = time.perf_counter(), cpu_seconds()
            assert run() == count, name
            if repeat:  # the first round warms up
                rates[name].append((count / (time.perf_counter() - started), count / (cpu_seconds() - cpu)))
    result = {}
    for name, pairs in rates.items():
        clock, processor = zip(*pairs, strict=True)
        low, middle, high = statistics.quantiles(clock, n=4)
        result[name] = {"wall": middle, "wall_iqr": high - low, "cpu": statistics.median(processor)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of JPEGs of one size per class")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--only", default="", help="rows with this in their names")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    assert options.repeats >= 5, "an interquartile range of fewer than 5 repeats says nothing"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        count = pack(options.folder, Path(temporary), options.images)
        rows = {name: row for name, row in rows_of(Path(temporary)).items() if options.only in name}
        result = measure(rows, count, options.repeats)
    table = Table(title=f"an epoch of {count} images, {BATCH} a batch")
    for column in ("", "images/s", "IQR", "per CPU second"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in result.items():
        table.add_row(name, f"{row['wall']:,.0f}", f"{row['wall_iqr']:,.0f}", f"{row['cpu']:,.0f}")
    Console(width=110).print(table)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    print(f"{machine}; {options.repeats} repeats after one to warm up")
    if options.json:
        results = {"rows": result, "images": count, "repeats": options.repeats, **machine}
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
