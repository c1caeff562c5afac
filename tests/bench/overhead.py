"""What the ledger costs: `python -m tests.bench.overhead`.

1. Ledger, sidecars and index as a share of `ingest`, at 32 px (the embedded sample) and at 224 px (photographs: a folder
   given with `--photos`, else the shared ones, else synthetic ones). With one worker, in seconds of CPU time, all threads,
   the processes that decode and the kernel included, so that other jobs on the machine matter little. Waiting for the
   disk is shown beside it, as a share of the clock.
2. The time in which the command line says that a finished stage is finished: median of five processes, which also gives
   the CPU time of one, the floor on a machine with nothing else to do.
3. The peak of resident memory of `ingest` on 2 000, 10 000 and 40 000 images in a tar, each in a process of its own.

`--json FILE` writes the numbers. Nothing here asserts; the goals are printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

import pipelines.storage
from pipelines.config import RunParams
from pipelines.runtime import execute as driver
from pipelines.runtime import folder, guard
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import Ledger
from pipelines.runtime.serial import SerialRunner
from pipelines.runtime.units import UnitOutput
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sidecar import Sidecar
from pipelines.shards.tar import ShardWriter
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest

PHOTOS = 1000
SYNTHETIC_SIDES = (375, 500)
MEMORY_SIZES = (2_000, 10_000, 40_000)
REPEATS = 5

#: Clock of one thread where others decode meanwhile; of the process where nothing else runs.
PIECES: dict[str, list[tuple[Any, str, Callable[[], float]]]] = {
    "sidecar rows": [(Sidecar, "add", time.thread_time)],
    "sidecar file": [(Sidecar, "write", time.thread_time)],
    "commit of units": [
        (UnitOutput, "commit", time.thread_time),
        (guard, "admit_units", time.thread_time),
        (guard, "require_current", time.thread_time),
    ],
    "plan and ledger": [
        (driver, "require_ours", time.process_time),
        (folder, "begin", time.process_time),
        (driver, "plan_digest", time.process_time),
        (Ledger, "done", time.process_time),
    ],
    "index and seal": [(driver, "no_units", time.process_time), (folder, "finish", time.process_time)],
}


@contextmanager
def timed(spent: Counter[str]) -> Iterator[None]:
    """Add to `spent` the seconds in each piece, and under `waiting` those on the clock spent on making disks sync."""
    undo = []
    clocked = [(name, *entry) for name, entries in PIECES.items() for entry in entries]
    for name, owner, attribute, clock in [*clocked, ("waiting", pipelines.storage, "sync", time.perf_counter)]:
        function = getattr(owner, attribute)
        undo.append((owner, attribute, function))

        def measured(*args: Any, _f: Any = function, _n: str = name, _c: Any = clock, **named: Any) -> Any:
            start = _c()
            try:
                return _f(*args, **named)
            finally:
                spent[_n] += _c() - start

        setattr(owner, attribute, measured)
    try:
        yield
    finally:
        for owner, attribute, function in undo:
            setattr(owner, attribute, function)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process and of all that it started, whether they live or were waited for."""
    return sum(process.cpu_times()[:4]) + sum(cpu_seconds(child) for child in process.children())


def measure_pieces(params: dict[str, Any]) -> dict[str, Any]:
    """Ingest once; seconds by piece, in all, and the share of the pieces."""
    spent: Counter[str] = Counter()
    own = psutil.Process()
    with tempfile.TemporaryDirectory() as data:
        job = Job("ingest", IngestParams.model_validate(params), RunParams(), data)
        with timed(spent):
            clock, cpu = time.perf_counter(), cpu_seconds(own)
            done = driver.execute(Ingest(), job, SerialRunner)
            clock, cpu = time.perf_counter() - clock, cpu_seconds(own) - cpu
    pieces = {name: spent[name] for name in PIECES}
    return {
        "images": done["facts"]["dataset"]["samples"],
        "units": done["units"],
        "cpu_seconds": cpu,
        "seconds": clock,
        "pieces": pieces,
        "share": sum(pieces.values()) / cpu,
        "waiting_for_disk": spent["waiting"] / clock,
    }


def measure_finished() -> dict[str, Any]:
    """Wall and CPU seconds of `limbeck run ingest` on the finished embedded sample."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "pipelines", "run", "ingest", "--data", data]
        subprocess.run(command, check=True, capture_output=True)
        walls, cpus = [], []
        for _ in range(REPEATS):
            before, start = os.times(), time.perf_counter()
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            walls.append(time.perf_counter() - start)
            after = os.times()
            cpus.append(sum(after[2:4]) - sum(before[2:4]))
            assert "up to date" in said, said
    return {"seconds": statistics.median(walls), "cpu_seconds": statistics.median(cpus)}


#: The command line in a process of its own, then its peak. `ru_maxrss` would count the parent's memory before exec too.
CHILD = """
import contextlib, re, sys
from pipelines.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    main()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024)
"""


def measure_memory() -> dict[int, float]:
    """Peak resident MiB of ingest by number of images."""
    peaks = {}
    with tempfile.TemporaryDirectory() as root:
        for count in MEMORY_SIZES:
            source, parameters = Path(root) / f"{count}.tar", Path(root) / f"{count}.yaml"
            write_small(source, count)
            image = {"resize": "pad", "size": 32, "format": "png"}
            section = {"sources": [{"type": "tar", "path": str(source)}], "image": image, "shard_samples": 1000}
            parameters.write_text(yaml.safe_dump({"ingest": section}))
            words = ["run", "ingest", "--params", str(parameters), "--data", f"{root}/{count}"]
            command = [sys.executable, "-c", CHILD, *words]
            peaks[count] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return peaks


def write_small(path: Path, count: int) -> None:
    """A tar of `count` different grey images of 28 x 28."""
    generator = np.random.Generator(np.random.PCG64(0))
    with ShardWriter(path) as writer:
        for _ in range(count):
            raw = cv2.imencode(".png", generator.integers(0, 256, (28, 28), np.uint8))[1].tobytes()
            writer.add(key_of_bytes(raw), [("png", raw)])


def write_photos(root: Path) -> Path:
    """Synthetic photographs: smooth noise at 375 x 500 as JPEG, about 40 KB each."""
    generator = np.random.Generator(np.random.PCG64(0))
    (root / "synthetic").mkdir(parents=True)
    for number in range(PHOTOS):
        coarse = generator.integers(0, 256, (24, 32, 3), np.uint8)
        photo = cv2.resize(coarse, SYNTHETIC_SIDES[::-1], interpolation=cv2.INTER_CUBIC)
        photo = cv2.add(photo, generator.integers(0, 12, photo.shape, np.uint8))
        cv2.imwrite(str(root / "synthetic" / f"{number:05d}.jpg"), photo)
    return root


def photo_source(given: Path | None, scratch: Path) -> tuple[str, dict[str, Any]]:
    """(what it is called, a source of photographs)."""
    if given is not None:
        return str(given), {"type": "folder", "path": str(given)}
    for parent in Path(__file__).resolve().parents:
        shared = parent / "shared" / "data" / "imagenette224_sub5000.tar"
        if shared.is_file():
            return shared.name, {"type": "tar", "path": str(shared)}
    return "synthetic photographs", {"type": "folder", "path": str(write_photos(scratch / "photos"))}


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photographs, one folder per class")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    console = Console()
    numbers: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    sample = yaml.safe_load(Path("params.yaml").read_text())["ingest"]
    with tempfile.TemporaryDirectory() as scratch:
        name, photos = photo_source(arguments.photos, Path(scratch))
        at_224 = {"sources": [photos], "image": {"resize": "center_crop", "size": 224, "upscale": True}}
        numbers["pieces"] = {"32 px, embedded sample": measure_pieces(sample)}
        numbers["pieces"][f"224 px, {name}"] = measure_pieces(at_224 | {"shard_samples": 1000})
    show_pieces(console, numbers["pieces"])
    numbers["finished"] = measure_finished()
    numbers["memory"] = measure_memory()
    show_rest(console, numbers)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


def show_pieces(console: Console, measured: dict[str, dict[str, Any]]) -> None:
    """The table of the first part."""
    table = Table(title="Ledger, sidecars and index as a share of ingest's CPU time (goal: below 5 % at 224 px)")
    table.add_column("")
    for name in measured:
        table.add_column(name, justify="right")
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "images / units": lambda m: f"{m['images']:,} / {m['units']}",
        "CPU seconds": lambda m: f"{m['cpu_seconds']:.2f}",
    }
    for piece in PIECES:
        rows[piece] = lambda m, piece=piece: f"{m['pieces'][piece] / m['cpu_seconds']:.2%}"  # type: ignore[misc]
    rows["together"] = lambda m: f"[bold]{m['share']:.2%}[/]"
    rows["waiting for the disk, of the clock"] = lambda m: f"{m['waiting_for_disk']:.2%}"
    for row, cell in rows.items():
        table.add_row(row, *(cell(m) for m in measured.values()))
    console.print(table)


def show_rest(console: Console, numbers: dict[str, Any]) -> None:
    """The second and the third part."""
    finished, peaks = numbers["finished"], numbers["memory"]
    table = Table(title="A finished stage, and memory")
    for column in ("what", "measured", "goal"):
        table.add_column(column)
    table.add_row("finished stage, command line", f"{finished['seconds']:.2f} s", "below 1.5 s")
    table.add_row("  of it CPU time", f"{finished['cpu_seconds']:.2f} s", "")
    first = peaks[MEMORY_SIZES[0]]
    for count, peak in peaks.items():
        table.add_row(f"peak memory, {count:,} images", f"{peak:.0f} MiB ({peak / first - 1:+.1%})", "flat within 10 %")
    console.print(table)


if __name__ == "__main__":
    main()
