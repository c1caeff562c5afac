"""How fast shards are written and read, next to webdataset and stdlib tarfile: `python -m tests.bench.shards`.

Samples are 30 KB of random bytes as jpg plus a small json; files lie in a temporary folder (`--folder` for another) and
in the page cache, so the numbers are those of the code, not of a disk. Rates are per second of CPU time, all threads
and the kernel included, so that other jobs on the machine matter little; `--wall` takes the clock instead. Rows take
turns within each repeat; a figure is the median over repeats and its interquartile range.

Ours always hashes what it writes; the row without replaces the digest by one that does nothing, for this bench only.
Rows with "+ sha256" do the same job with another writer; "sha256 alone" is the floor that no hashing writer gets under.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, cast

import webdataset
from rich.console import Console
from rich.table import Table

from pipelines.shards.keys import key_of_bytes
from pipelines.shards.members import split_name
from pipelines.shards.reader import ShardReader, iterate_tar
from pipelines.shards.sample import MemberSpan
from pipelines.shards.tar import ShardWriter
from pipelines.shards.walker import TarWalker
from pipelines.storage import Storage

SAMPLES = 3000
PICKED = 300
REPEATS = 7

Pair = tuple[str, dict[str, bytes]]


def make_samples() -> list[Pair]:
    """Random bytes of 25 to 35 KB and a json of some 70 bytes."""
    generator = random.Random(0)
    pairs = []
    for number in range(SAMPLES):
        image = generator.randbytes(generator.randrange(25_000, 35_000))
        about = b'{"label":%d,"source":"train/n0144/%06d.JPEG","width":224,"height":224}' % (number % 10, number)
        pairs.append((key_of_bytes(image), {"jpg": image, "json": about}))
    return pairs


class HashingFile(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class NoDigest:
    """Stands in for the SHA-256 of a writer."""

    def update(self, data: bytes) -> None:
        return

    def hexdigest(self) -> str:
        return ""


def write_ours(path: Path, pairs: list[Pair], hashed: bool) -> None:
    with ShardWriter(path) as writer:
        if not hashed:
            writer._digest = NoDigest()  # type: ignore[assignment]
        for key, members in pairs:
            writer.add(key, members.items())


def write_webdataset(path: Path, pairs: list[Pair], hashed: bool) -> None:
    stream = HashingFile(path) if hashed else path.open("wb")
    with stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
        for key, members in pairs:
            writer.write({"__key__": key, **members})


def write_tarfile(path: Path, pairs: list[Pair], hashed: bool) -> None:
    stream = cast(BinaryIO, HashingFile(path) if hashed else path.open("wb"))
    with stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, members in pairs:
            for ext, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{ext}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))


def spans_of(path: Path) -> dict[str, list[MemberSpan]]:
    """The index that a sidecar holds."""
    spans: dict[str, list[MemberSpan]] = {}
    with path.open("rb") as stream:
        for member in TarWalker(stream):
            key, ext = split_name(member.name) or ("", "")
            spans.setdefault(key, []).append(MemberSpan(ext, member.offset, member.size))
    return spans


def picked_by_scan(samples: Iterable[Pair], wanted: set[str]) -> int:
    """What must be done without an index: read on until all wanted samples have passed."""
    left = set(wanted)
    for key, _ in samples:
        left.discard(key)
        if not left:
            break
    assert not left
    return len(wanted)


def webdataset_samples(path: Path) -> Iterable[Pair]:
    for sample in webdataset.WebDataset(str(path), shardshuffle=False):
        yield sample["__key__"], sample


def stdlib_samples(path: Path) -> Iterable[Pair]:
    with tarfile.open(path, "r|") as archive:
        for entry in archive:
            stream = archive.extractfile(entry)
            assert stream is not None
            yield entry.name.partition(".")[0], {"": stream.read()}


def measure(
    rows: dict[str, Callable[[], int]], repeats: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Samples per second of each row: median and interquartile range."""
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(repeats + 1):
        for name, run in rows.items():
            start = clock()
            count = run()
            seconds = clock() - start
            if repeat:  # the first round warms up
                rates[name].append(count / seconds)
    result = {}
    for name, values in rates.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"median": middle, "iqr": high - low}
    return result


def show(title: str, result: dict[str, dict[str, float]], ours: list[str]) -> None:
    table = Table(title=title)
    table.add_column("")
    for name in ("samples/s", "IQR", *(f"{name} is" for name in ours)):
        table.add_column(name, justify="right")
    for name, row in result.items():
        ratios = [f"{result[our]['median'] / row['median']:.2f}x" if our != name else "" for our in ours]
        table.add_row(name, f"{row['median']:,.0f}", f"{row['iqr']:,.0f}", *ratios)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--wall", action="store_true", help="measure by the clock instead of CPU time")
    parser.add_argument("--folder", type=Path, help="where the files lie while they are measured")
    options = parser.parse_args()
    assert options.repeats >= 5, "an interquartile range of fewer than 5 repeats says nothing"
    clock = time.perf_counter if options.wall else time.process_time
    pairs = make_samples()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, target = Path(folder) / "read.tar", Path(folder) / "write.tar"

        def writing(write: Callable[[Path, list[Pair], bool], None], hashed: bool) -> Callable[[], int]:
            def run() -> int:
                target.unlink(missing_ok=True)
                write(target, pairs, hashed)
                return len(pairs)

            return run

        writers = {"ours + sha256": writing(write_ours, True), "ours, digest taken out": writing(write_ours, False)}
        for name, write in (("webdataset.TarWriter", write_webdataset), ("stdlib tarfile", write_tarfile)):
            writers[name] = writing(write, False)
            writers[f"{name} + sha256"] = writing(write, True)
        writers["sha256 alone"] = lambda: sum(1 for _, members in pairs if hashlib.sha256(members["jpg"]).digest())
        written = measure(writers, options.repeats, clock)

        write_ours(path, pairs, True)
        spans = spans_of(path)
        reader = ShardReader(Storage(folder), path.name)
        order = random.Random(1).sample(list(spans), len(spans))
        wanted = set(order[:PICKED])

        def indexed(keys: Iterable[str]) -> int:
            return sum(1 for key in keys if reader.read(spans[key]))

        picked = measure(
            {
                "indexed pread": lambda: indexed(order[:PICKED]),
                "our sequential scan": lambda: picked_by_scan(iterate_tar(path), wanted),
                "webdataset scan": lambda: picked_by_scan(webdataset_samples(path), wanted),
                "stdlib tarfile scan": lambda: picked_by_scan(stdlib_samples(path), wanted),
            },
            options.repeats,
            clock,
        )
        passes = measure(
            {
                "indexed pread, shuffled": lambda: indexed(order),
                "our sequential scan": lambda: sum(1 for _ in iterate_tar(path)),
                "webdataset scan": lambda: sum(1 for _ in webdataset_samples(path)),
                "stdlib tarfile scan": lambda: sum(1 for _ in stdlib_samples(path)),
            },
            options.repeats,
            clock,
        )
    show(f"writing {SAMPLES} samples", written, ["ours + sha256", "ours, digest taken out"])
    show(f"fetching {PICKED} random samples of {SAMPLES}", picked, ["indexed pread"])
    show(f"all {SAMPLES} samples once", passes, ["indexed pread, shuffled"])
    measured = "wall" if options.wall else "cpu"
    machine = {
        "clock": measured,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(f"{machine}; {options.repeats} repeats after one to warm up")
    if options.json:
        results = {"writing": written, "picked": picked, "passes": passes, "repeats": options.repeats, **machine}
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
