"""What `ingest` with `format: keep` costs beside a bare copy of the same files.

    python -m tests.bench.keep FOLDER_WITH_JPEGS [--json FILE]

The bare copy reads each file, takes its SHA-256 and writes it into a tar with stdlib `tarfile`: nothing is looked at. Ingest
scans and plans, reads again, decodes every picture strictly in a process of its own, hashes its pixels, and writes shards
with their sidecar. Images per second of CPU time, all processes and the kernel included; the process that decoders are
forked from is started before. Rows take turns within each repeat; a figure is the median. Beside them what is needed for
the answers that ingest gives, alone and in this process: decoding, and the hashes of what was decoded.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import psutil
import simplejpeg
from rich.console import Console
from rich.table import Table

from pipelines.config import RunParams
from pipelines.images.phash import phash
from pipelines.images.process import pixel_sha256
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest

REPEATS = 5
BARE, KEEP = "bare copy", "ingest, format: keep"


def bare_copy(files: Sequence[Path], target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in files:
            data = path.read_bytes()
            entry = tarfile.TarInfo(f"{hashlib.sha256(data).hexdigest()[:20]}{path.suffix}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def keep(folder: Path, target: Path, count: int) -> None:
    """The same files through the stage; every one has to be kept."""
    source = {"type": "folder", "path": str(folder), "layout": "flat"}
    params = IngestParams.model_validate({"sources": [source], "image": {"format": "keep", "resize": "none"}})
    done = execute(Ingest(), Job("ingest", params, RunParams(), str(target)), SerialRunner)
    assert done["facts"]["dataset"]["samples"] == count, "some were refused: choose sound files, none of them twice"


def pixels(files: Sequence[Path], hashed: bool) -> None:
    """What no strict copy can do without: each picture decoded, and with `hashed` the two hashes of its pixels."""
    for path in files:
        shown = simplejpeg.decode_jpeg(path.read_bytes())
        if hashed:
            pixel_sha256(shown)
            phash(shown)


def cpu_seconds() -> float:
    """Of this process and of everything that it started, ended or not."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [this, *this.children(recursive=True)])


def measure(folder: Path, limit: int, repeats: int) -> dict[str, float]:
    """Images per CPU second of each row."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        chosen, target = Path(temporary) / "chosen", Path(temporary) / "made"
        chosen.mkdir()
        files = []
        for number, path in enumerate(found[:: -(-len(found) // limit)]):
            files.append(chosen / f"{number:06d}{path.suffix}")
            files[-1].write_bytes(path.read_bytes())
        rows: dict[str, Callable[[Path], None]] = {
            BARE: lambda target: bare_copy(files, target),
            KEEP: lambda target: keep(chosen, target, len(files)),
            "decoding alone": lambda _: pixels(files, hashed=False),
            "decoding and the hashes of pixels": lambda _: pixels(files, hashed=True),
        }
        for repeat in range(repeats + 1):
            for name, work in rows.items():
                before = cpu_seconds()
                work(target.with_name(f"{repeat}-{len(name)}"))
                if repeat:  # the first round warms up
                    rates.setdefault(name, []).append(len(files) / (cpu_seconds() - before))
    return {name: statistics.median(values) for name, values in rates.items()} | {"images": len(files)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of JPEGs, none of them twice")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    result = measure(options.folder, options.images, options.repeats)
    images = result.pop("images")
    table = Table(title=f"{images:,.0f} JPEGs, images per CPU second")
    for column in ("", "images/s", "share"):
        table.add_column(column, justify="right" if column else "left")
    for name, rate in result.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / result[BARE]:.2f}")
    Console(width=100).print(table)
    if options.json:
        machine = {"cpus": os.cpu_count(), "machine": platform.machine()}
        form = {"rows": result, "share": result[KEEP] / result[BARE], "images": images, "repeats": options.repeats}
        options.json.write_text(json.dumps(form | machine, indent=2) + "\n")


if __name__ == "__main__":
    main()
