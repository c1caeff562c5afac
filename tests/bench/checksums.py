"""What it costs to check everything that is read: a loader's epoch and a `split`, with the checks and without.

    python -m tests.bench.checksums FOLDER_WITH_A_FOLDER_OF_JPEGS_PER_CLASS

`ingest` stores the files as they are (`format: keep`) in a temporary folder; everything lies in the page cache. An epoch opens
the dataset (and so reads and hashes the sidecars) and decodes every image to uint8 in one thread of one process; `split` copies
every sample into train, val and test. "Without" leaves out the XXH3 of members, read and written, and the SHA-256 of
sidecars. The two take turns; a figure is the median of CPU seconds over the repeats, as other jobs on the machine disturb
the clock, and the cost is the median over the pairs. Below: the checksums that were considered, over the images themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import xxhash
from rich.console import Console
from rich.table import Table

from pipelines.config import RunParams
from pipelines.loaders.reading import SampleReader
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.shards import dataset as dataset_module
from pipelines.shards.dataset import Dataset
from pipelines.shards.reader import ShardReader
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest
from pipelines.stages.split.params import SplitParams
from pipelines.stages.split.stage import Split

REPEATS = 9
Checksum = Callable[[bytes], object]
CONSIDERED: dict[str, Checksum] = {
    "XXH3, 64 bits": xxhash.xxh3_64_intdigest,
    "CRC-32 (zlib)": zlib.crc32,
    "SHA-256": lambda data: hashlib.sha256(data).digest(),
    "BLAKE2b, 8 bytes": lambda data: hashlib.blake2b(data, digest_size=8).digest(),
}


@contextmanager
def unchecked() -> Iterator[None]:
    """Reading and writing as they were before anything was checked."""
    read = dataset_module.read_sidecar
    with (
        patch.object(ShardReader, "checked", staticmethod(lambda span, data: data)),
        patch.object(
            dataset_module, "read_sidecar", lambda storage, path, columns, sha256: read(storage, path, columns)
        ),
        patch("pipelines.shards.tar.member_checksum", lambda data: 0),
    ):
        yield


def epoch(data: Path) -> None:
    reader = SampleReader(Dataset.open(data / "ingest"))
    for number in range(len(reader)):
        reader.read(number)


def split(data: Path) -> None:
    params = SplitParams(strategy="random", validation=0.1, test=0.1, few_shot=(1,))
    job = Job("split", params, RunParams(device="cpu"), str(data))
    execute(Split(), job, lambda: SerialRunner(debug=True))
    shutil.rmtree(data / "split")


def compare(work: Callable[[], None], repeats: int) -> dict[str, float]:
    """CPU seconds with the checks and without, and what the checks cost as a share of the time without."""
    pairs: list[tuple[float, float]] = []
    for repeat in range(repeats + 1):
        taken = {}
        for name in ("with", "without") if repeat % 2 else ("without", "with"):
            with nullcontext() if name == "with" else unchecked():
                started = time.process_time()
                work()
                taken[name] = time.process_time() - started
        if repeat:  # the first round warms up
            pairs.append((taken["with"], taken["without"]))
    checked, plain = zip(*pairs, strict=True)
    cost = statistics.median(one / other - 1 for one, other in pairs)
    return {"with": statistics.median(checked), "without": statistics.median(plain), "cost": cost}


def considered(images: list[bytes]) -> dict[str, float]:
    """Seconds to take each checksum of all images; the best of five."""
    taken = {}
    for name, checksum in CONSIDERED.items():
        rounds = []
        for _ in range(5):
            started = time.perf_counter()
            for image in images:
                checksum(image)
            rounds.append(time.perf_counter() - started)
        taken[name] = min(rounds)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of JPEGs per class")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        section = {"sources": [{"type": "folder", "path": str(options.folder)}], "image": {"format": "keep"}}
        job = Job("ingest", IngestParams.model_validate(section), RunParams(device="cpu"), str(data))
        execute(Ingest(), job, SerialRunner)
        dataset = Dataset.open(data / "ingest")
        rows: dict[str, Any] = {
            "epoch": compare(lambda: epoch(data), options.repeats),
            "split": compare(lambda: split(data), options.repeats),
        }
        images = [
            dataset.read_image_bytes(row["shard"], row["key"], row["members"])
            for row in dataset.rows(["key", "members"]).to_pylist()
        ]
        sums = considered(images)
    size = sum(map(len, images))
    table = Table(title=f"{len(images)} images, {size / len(images) / 1000:.0f} KB each")
    for column in ("", "CPU s, checked", "unchecked", "cost"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        table.add_row(name, f"{row['with']:.2f}", f"{row['without']:.2f}", f"{row['cost']:+.1%}")
    Console(width=110).print(table)
    for name, seconds in sums.items():
        share = seconds / rows["epoch"]["without"]
        print(f"{name:18} {1e6 * seconds / len(images):7.2f} us an image, {share:.2%} of an epoch")
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "xxhash": xxhash.VERSION}
    print(f"{machine}; {options.repeats} repeats after one to warm up")
    if options.json:
        results = {"rows": rows, "checksums": sums, "images": len(images), "bytes": size, "repeats": options.repeats}
        options.json.write_text(json.dumps(results | machine, indent=2) + "\n")


if __name__ == "__main__":
    main()
