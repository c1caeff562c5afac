"""The adapters that an item of `datadream` left, and a generator that runs with some of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.artifacts.datasets import finished
from pipelines.errors import UserError
from pipelines.runtime.job import Job

#: As diffusers calls an adapter's file.
WEIGHTS = "pytorch_lora_weights.safetensors"


def tag_of(shots: int, seed: int) -> str:
    """What a few-shot set is called in file names."""
    return f"shots{shots:02d}-seed{seed}"


def adapter_folder(tag: str, name: str) -> str:
    """Where an adapter lies in an item's output."""
    return f"adapters/{tag}/{name}"


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter: its `name`, and the file in the output of `datadream@ITEM`, by `path` and `sha256` (hex)."""

    item: Literal["cls", "dset"]
    name: str
    path: str
    sha256: str

    def read(self, job: Job[Any]) -> bytes:
        """The file, checked against what `datadream` recorded."""
        return finished(job, "datadream", self.item).read(self.path)


def stored_adapter(
    job: Job[Any], item: Literal["cls", "dset"], shots: int, seed: int, class_name: str | None
) -> StoredAdapter:
    """The adapter of a class, or with `dset` of them all; `UserError` names the command that makes one of this few-shot set."""
    from synth.datadream.subjects import WHOLE_DATASET, adapter_name

    output = finished(job, "datadream", item)
    if item == "dset" or class_name is None:
        name = WHOLE_DATASET
    else:
        names = output.config().get("datadream", {}).get("names", {})
        name = adapter_name(names.get(class_name, class_name))
    path = f"{adapter_folder(tag_of(shots, seed), name)}/{WEIGHTS}"
    if not output.has(path):
        tags = sorted({one.split("/")[1] for one in output.paths("adapters")})
        raise UserError(
            f"datadream@{item} has no adapter {name!r} of {shots} shots of few-shot seed {seed}; it has {', '.join(tags) or 'none'}. Set "
            f"{job.stage}.adapter.shots and seed to one of these, or datadream.shots and datadream.seeds, then: limbeck run "
            f"datadream@{item}"
        )
    return StoredAdapter(item, name, path, output.sha256(path))


@contextmanager
def running(backend: Any, adapters: Mapping[str, bytes]) -> Iterator[None]:
    """Run a generator with the files of `adapters` by name, in equal parts; after it the base again, with nothing left in memory."""
    if not adapters:
        yield
        return
    loaded: list[str] = []
    try:
        for name, data in adapters.items():
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / WEIGHTS).write_bytes(data)
                backend.load_adapter(folder, name)
            loaded.append(name)
        backend.set_adapters(loaded, [1 / len(adapters)] * len(adapters))
        yield
    finally:
        if loaded:
            backend.delete_adapters(loaded)
        backend.forget_prompts()
