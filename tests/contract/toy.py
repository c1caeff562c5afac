"""A small but real stage: one unit per text file, one sample per line, and every way in which a unit can go wrong.

A line is `WORD NAME`; the word says what becomes of the sample (`keep`, `drop`, `transient`, `permanent`, `policy`) or
that the unit raises (`raise`) or kills its process (`die`). Speed and spying go through `data/controls`, which decides no
byte: `delay` holds the longest pause before a sample, units append their names to `ran`, and leave a file named after
their process in `at_work` while they run. Workers import this module, hence no test lives here.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from augment.errors import MethodError
from pipelines.config import PLAN_ONLY, SPEED_ONLY, Section
from pipelines.outcomes import dropped, failed
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sample import Sample
from pipelines.storage import canonical_json, pretty_json

CLASSES = ["even", "odd"]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class ToyParams(Section):
    """`size` bytes per image and `title` decide what is written, `batch` does not, and `label` acts through a plan that names it."""

    size: int = 300
    title: str = "toy"
    batch: Annotated[int, SPEED_ONLY] = 1
    label: Annotated[str, PLAN_ONLY] = ""


class Toy(Stage[ToyParams]):
    """Text files in, one dataset out."""

    name = "toy"
    version = 1
    summary = "lines -> samples"
    Params = ToyParams

    def plan(self, job: Job[ToyParams]) -> Plan:
        source = job.input("source")
        units, rows = [], {}
        for index, path in enumerate(source.list()):
            units.append(Unit(f"toy-{index:06d}", {"file": path}))
            rows[units[-1].name] = pa.table({"line": source.read_bytes(path).decode().split("\n")})
        return Plan(units, rows=rows, facts={"classes": CLASSES})

    def open(self, job: Job[ToyParams]) -> dict[str, int]:
        return {"opened_by": os.getpid()}

    def run(self, unit: Unit, worker: dict[str, int], output: UnitOutput, job: Job[ToyParams]) -> None:
        assert worker["opened_by"] == os.getpid()
        lines = [row["line"] for row in output.rows()]
        with spied(unit, job), output.shard() as shard:
            if not (scratch := output.scratch()).exists("index.json"):  # a checkpoint may have any name
                scratch.write_bytes("index.json", b"{}")
            pause = _pause(job)
            for place, line in enumerate(lines):
                time.sleep(random.random() * pause)  # the global generator on purpose: order and speed are noise
                word, _, name = line.partition(" ")
                key = key_of_bytes(f"{unit.payload['file']}:{line}".encode())
                row = {"key": key, "source": f"{unit.payload['file']}:{place}"}
                if word == "keep":
                    shard.keep(_sample(key, name, row, job.params.size))
                elif word == "drop":
                    shard.reject(dropped("unwanted", name), row)
                elif word == "raise":
                    raise RuntimeError(f"no such sample: {name}")
                elif word == "slip":
                    raise KeyError(name)
                elif word == "refuse":
                    raise MethodError(f"no method for {name}")
                elif word == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    shard.reject(failed(f"{word}_trouble", word, name), row)  # type: ignore[arg-type]
                output.tick(place, len(lines), "")
        output.write(f"notes/{unit.name}.txt", f"{job.params.title}: {len(lines)} lines\n".encode())
        output.summary = {"lines": len(lines)}

    def subject(self, unit: Unit, job: Job[ToyParams]) -> str:
        return "toy.title"

    def finish(self, job: Job[ToyParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        job.output.write_bytes("summary.json", pretty_json([marker.summary for marker in markers]))
        return publish_datasets(job.output, markers, plan.facts["classes"], {"name": job.params.title})


class ToyOnActors(Toy):
    """The same work by processes that keep their state."""

    workers = "actors"


def _sample(key: str, name: str, row: dict[str, Any], size: int) -> Sample:
    label = len(name) % 2
    image = PNG_MAGIC + random.Random(name).randbytes(size - len(PNG_MAGIC))
    members = (("png", image), ("json", canonical_json({"name": name})), ("cls", str(label).encode()))
    return Sample(key, members, {**row, "label": label, "label_name": CLASSES[label], "bytes": size})


@contextmanager
def spied(unit: Unit, job: Job[ToyParams]) -> Iterator[None]:
    """Leave traces for the tests, outside of the output."""
    storage = job.input("controls")
    if not storage.is_local or not storage.root.is_dir():
        yield
        return
    with (storage.root / "ran").open("a") as log:
        log.write(f"{unit.name}\n")
    mark = storage.root / "at_work" / str(os.getpid())
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(unit.name)
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _pause(job: Job[ToyParams]) -> float:
    controls = job.input("controls")
    return float(json.loads(controls.read_bytes("delay"))) if controls.exists("delay") else 0.0


def write_source(folder: Path, units: int = 8, lines: int = 20) -> None:
    """Text files with samples of every outcome; one in five is not kept."""
    words = ["keep", "keep", "drop", "keep", "keep", "permanent", "keep", "keep", "keep", "policy"]
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(units):
        body = [f"{words[(index + line) % len(words)]} {'x' * (line % 3)}{index}.{line}" for line in range(lines)]
        (folder / f"{index:03d}.txt").write_text("\n".join(body))
