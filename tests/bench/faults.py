"""What is lost, scrambled or believed when files, labels, pictures and machines misbehave: `python -m tests.bench.faults`.

Every trial goes through the command line, in processes of its own, and counts. The rules are tested one by one in
`tests/faults`; here they are met many times over, at random places:

* **foreign files**: files of somebody else's lie in and around every folder that a command is given. None may change.
* **labels**: data sets whose class names are numerals, indices of one another, words for true and nothing, go through every
  kind of source, and our own shards through `ingest` again. None may change its class.
* **bits**: one bit of a finished dataset flips. No reader may hand out other pixels or another label without a word.
* **kills**: the command is killed with -9 at random moments until it ends. The folder must be that of an undisturbed run.
* **stops**: it is held (SIGSTOP) for longer than any time limit. No image may be lost.
* **hostile files**: a few hundred of them, with two threads: crashes, peak memory of the process and its children, seconds of
  the slowest file, and the same bytes twice.

`--json FILE` writes the table; `--quick` takes a fifth of the tries. A zero in the last column is what is promised.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.loaders.reading import SampleReader
from pipelines.shards.dataset import Dataset
from pipelines.storage import Storage
from tests.bench.hostile import measure
from tests.contract.folders import tree
from tests.contract.pictures import write_pictures
from tests.faults.corpus import hostile
from tests.faults.making import lay
from tests.faults.names import NAMINGS, SOURCES, stored_labels, write_named

QUICK = 5
#: Longer than `ingest.image.limits.max_seconds` of the trial.
HELD_SECONDS = 4.0


@dataclass(frozen=True)
class Counted:
    """One line of the table: how often it was tried, how often it went wrong, and what else was seen."""

    trial: str
    tried: int
    wrong: int
    seen: str = ""


def limbeck(*words: str) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "pipelines", *words]


def ran(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(limbeck(*words), capture_output=True, text=True, cwd=cwd, env=_environment(), check=False)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": root}


def write_params(path: Path, source: Path, **ingest: Any) -> Path:
    """A parameter file that ingests a folder of class folders, with limits that let everything through; JSON, so that text is text."""
    section = {"sources": [{"type": "folder", "path": str(source)}], "shard_samples": 10} | ingest
    breaker = {"max_failed": 1.0, "max_transient": 1.0}
    path.write_text(json.dumps({"run": {"breaker": breaker}, "ingest": section}))
    return path


def foreign_files(root: Path, tries: int) -> Counted:
    """Put files of another's into the folders of a finished and of a new run; run again, with other parameters too."""
    lost, refused = 0, 0
    dice = random.Random(1)
    for number in range(tries):
        place = root / f"foreign-{number}"
        source = write_pictures(place / "source", 12)
        params = write_params(place / "params.yaml", source)
        data = place / "data"
        if number % 2:
            ran("run", "ingest", "--params", str(params), "--data", str(data))
        spots = ["ingest/mine.txt", "ingest/shards/mine.tar", "ingest/meta/mine.parquet", "ingest/ledger/mine.json"]
        spots += ["ingest/photos/a/b.jpg", "split/mine.txt", "mine.txt", ".limbeck/mine.txt"]
        mine = {data / spot: dice.randbytes(64) for spot in dice.sample(spots, 3)}
        for path, content in mine.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for more in ((), ("--set", "ingest.shard_samples=5"), ("--set", "ingest.image.format=png")):
            refused += ran("run", "ingest", "--params", str(params), "--data", str(data), *more).returncode != 0
        lost += sum(not path.is_file() or path.read_bytes() != content for path, content in mine.items())
        lost += sum(1 for _ in source.rglob("*.*")) != 14
    return Counted("foreign files lost", tries * 4, lost, f"{refused} of {tries * 3} commands refused to begin")


def labels(root: Path, tries: int) -> Counted:
    """Ingest every naming from every kind of source, then ingest the result, and compare class by class."""
    tried = wrong = 0
    failures = []
    for naming, names in list(NAMINGS.items())[:: 1 if tries > QUICK else 3]:
        for kind in SOURCES:
            place = root / f"labels-{naming}-{kind}"
            section, expected = write_named(place / "source", kind, names)
            params = write_params(place / "params.yaml", place, sources=[section], image={"format": "png"})
            done = ran("run", "ingest", "--params", str(params), "--data", str(place / "data"))
            found = stored_labels(place / "data/ingest") if done.returncode == 0 else {}
            again = {"type": "tar", "path": str(place / "data/ingest/shards")}
            params = write_params(place / "again.yaml", place, sources=[again], image={"format": "png"})
            done = ran("run", "ingest", "--params", str(params), "--data", str(place / "again"))
            twice = stored_labels(place / "again/ingest") if done.returncode == 0 else {}
            for pixels, name in expected.items():
                tried += 2
                bad = (found.get(pixels) != name) + (twice.get(pixels) != name)
                wrong += bad
                if bad:
                    failures.append(f"{naming}/{kind}: {name!r} became {found.get(pixels)!r}, {twice.get(pixels)!r}")
    return Counted("labels changed", tried, wrong, "; ".join(failures[:3]))


def bits(root: Path, tries: int) -> Counted:
    """Flip one bit of a file of a finished dataset, read all of it by three readers, put the bit back."""
    source = write_pictures(root / "bits/source", 60)
    params = write_params(root / "bits/params.yaml", source, image={"resize": "pad", "size": 32})
    assert ran("run", "ingest", "--params", str(params), "--data", str(root / "bits/data")).returncode == 0
    folder = root / "bits/data/ingest"
    sound = served(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".tar", ".parquet", ".json")]
    files = [path for path in files if "/ledger/" not in str(path) and "/plan/" not in str(path)]
    tars = [path for path in files if path.suffix == ".tar"]
    dice, believed, passed = random.Random(2), 0, []
    for number in range(tries):
        path = dice.choice(tars if number % 4 else files)
        content = path.read_bytes()
        at = dice.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :])
        for reader, samples in served(folder).items():
            believed += any(sound[reader].get(key) != sample for key, sample in samples.items() if sample is not None)
        if number % 10 == 0:
            passed += [path.name] if ran("lint", str(folder)).returncode == 0 else []
        path.write_bytes(content)
    return Counted(
        "flipped bits believed",
        tries * 3,
        believed,
        f"{len(passed)} of {-(-tries // 10)} passed lint {' '.join(passed)}",
    )


def served(folder: Path) -> dict[str, dict[str, Any]]:
    """What each reader hands out: key -> (label, pixels), None where it refuses."""
    readers: dict[str, Callable[[Dataset], dict[str, Any]]] = {
        "arrays": _arrays,
        "samples": _samples,
        "members": _members,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, read in readers.items():
        try:
            found[name] = read(Dataset.open(Storage(folder)))
        except UserError:
            found[name] = {}
    return found


def _arrays(dataset: Dataset) -> dict[str, Any]:
    arrays = load_arrays(dataset)
    classes = dataset.classes
    triples = zip(arrays.keys, arrays.labels, arrays.images, strict=True)
    return {key: (classes[label], image.tobytes()) for key, label, image in triples}


def _samples(dataset: Dataset) -> dict[str, Any]:
    reader, found = SampleReader(dataset), {}
    for number in range(len(reader)):
        try:
            sample = reader.read(number)
        except UserError:
            continue
        found[sample["key"]] = (dataset.classes[sample["label"]], sample["image"].tobytes())
    return found


def _members(dataset: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rows = dataset.rows(["key", "members"])
    for key, shard, members in zip(*(rows[name].to_pylist() for name in ("key", "shard", "members")), strict=True):
        try:
            found[key] = dataset.read(shard, key, members)
        except UserError:
            found[key] = None
    return found


def kills(root: Path, tries: int) -> Counted:
    """Kill the command at a random moment, again and again, until one run ends; compare with an undisturbed folder."""
    source = write_pictures(root / "kills/source", 40)
    params = write_params(root / "kills/params.yaml", source)
    run = ("run", "ingest", "--params", str(params), "--data")
    started = time.monotonic()
    assert ran(*run, str(root / "kills/whole")).returncode == 0
    seconds, expected = time.monotonic() - started, tree(root / "kills/whole/ingest")
    dice, sent, wrong = random.Random(3), 0, 0
    for number in range(tries):
        data = root / f"kills/{number}"
        for _ in range(3):
            child = subprocess.Popen(
                limbeck(*run, str(data)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
            )
            time.sleep(seconds * dice.uniform(0.5, 1.0))
            child.send_signal(signal.SIGKILL)
            child.wait()
            sent += 1
        wrong += ran(*run, str(data)).returncode != 0 or tree(data / "ingest") != expected
    return Counted("folders that differ after kill -9", tries, wrong, f"{sent} kills")


def stops(root: Path, tries: int) -> Counted:
    """Hold the command and its children for longer than the limit of an image's decoding; every image must be there."""
    source = write_pictures(root / "stops/source", 40)
    params = write_params(root / "stops/params.yaml", source, image={"limits": {"max_seconds": HELD_SECONDS / 2}})
    run = ("run", "ingest", "--params", str(params), "--data")
    assert ran(*run, str(root / "stops/whole")).returncode == 0
    expected, dice, wrong = tree(root / "stops/whole/ingest"), random.Random(4), 0
    for number in range(tries):
        data = root / f"stops/{number}"
        child = subprocess.Popen(
            limbeck(*run, str(data)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
        )
        time.sleep(dice.uniform(0.5, 2.5))
        held = [child.pid, *(one.pid for one in psutil.Process(child.pid).children(recursive=True))]
        for sign in (signal.SIGSTOP, signal.SIGCONT):
            for pid in held:
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    continue
            time.sleep(HELD_SECONDS if sign == signal.SIGSTOP else 0)
        wrong += child.wait() != 0 or tree(data / "ingest") != expected
    return Counted("folders that differ after SIGSTOP", tries, wrong, f"held for {HELD_SECONDS:g} s each")


def hostile_files(root: Path, _tries: int) -> list[Counted]:
    """Ingest the corpus twice with two threads; then try every file by itself, for the slowest."""
    files = {f"found/{number:04d}": raw for number, raw in enumerate(hostile().values())}
    source = lay(root / "hostile/source", files)
    params = write_params(root / "hostile/params.yaml", source, threads=2, shard_samples=100)
    trees, peak, slowest, crashed = [], 0, 0.0, 0
    for name in ("first", "second"):
        data = root / "hostile" / name
        started = time.monotonic()
        code, most = watched(limbeck("run", "ingest", "--params", str(params), "--data", str(data)))
        slowest, peak, crashed = max(slowest, time.monotonic() - started), max(peak, most), crashed + (code != 0)
        trees.append(tree(data / "ingest") if (data / "ingest").exists() else {})
    differ = sum(trees[0].get(path) != trees[1].get(path) for path in {*trees[0], *trees[1]})
    outcomes = json.loads(trees[0].get("stats.json", b"{}")).get("outcomes", {})
    said = ", ".join(f"{name} {count}" for name, count in outcomes.items())
    cost = measure()
    seen = f"slowest {cost.slowest:.1f} s of CPU time ({cost.slowest_name}), decoders hold {cost.peak / 2**20:,.0f} MiB"
    return [
        Counted("hostile files without an outcome", len(files), len(files) - sum(outcomes.values()), said),
        Counted("runs over them that crash", 2, crashed, f"peak {peak / 2**20:,.0f} MiB in all, {slowest:.1f} s a run"),
        Counted("files that differ between two runs", len(trees[0]), differ),
        Counted("hostile files that cost a decoder its life", cost.tried, len(cost.crashed), seen),
    ]


def watched(command: Sequence[str]) -> tuple[int, int]:
    """Exit code, and the peak of resident bytes over the process and all its children, looked at 50 times a second."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment())
    process, peak = psutil.Process(child.pid), 0
    while child.poll() is None:
        now = 0
        for one in (process, *_children(process)):
            try:
                now += one.memory_info().rss
            except psutil.Error:
                continue
        peak = max(peak, now)
        time.sleep(0.02)
    return child.returncode, peak


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def main() -> None:
    """Run every trial, print the table, write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the tries")
    parser.add_argument("--only", nargs="*", help="names of trials: foreign labels bits kills stops hostile")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    part = QUICK if options.quick else 1
    trials: dict[str, tuple[Callable[[Path, int], Any], int]] = {
        "foreign": (foreign_files, 20),
        "labels": (labels, 100),
        "bits": (bits, 200),
        "kills": (kills, 20),
        "stops": (stops, 5),
        "hostile": (hostile_files, 5),
    }
    table = Table(title="faults")
    for column in ("what", "tried", "went wrong", "seen"):
        table.add_column(column)
    rows: list[Counted] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (trial, tries) in trials.items():
            if options.only and name not in options.only:
                continue
            found = trial(Path(folder), max(tries // part, 1))
            for row in found if isinstance(found, list) else [found]:
                rows.append(row)
                table.add_row(row.trial, str(row.tried), str(row.wrong), row.seen)
                print(f"{row.trial}: {row.wrong} of {row.tried} ({row.seen})", flush=True)
    Console(width=140).print(table)
    if options.json:
        facts = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"facts": facts, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
