"""A data folder as `split`, `generator` and `datadream` leave it: pictures bright on one side, a CLIP of a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.artifacts.generators import folder_digest
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.images.process import pixel_sha256
from pipelines.outcomes import dropped
from pipelines.runtime.job import Job
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.checksum import signed_bytes
from pipelines.shards.keys import slot_key
from pipelines.shards.sample import Sample
from pipelines.storage import Storage, canonical_json, pretty_json
from tests.sealing import seal

CLASSES = ["left", "right"]
PARAMS = """
run: {seed: 0, threads: 1, device: cpu}
ingest:
  sources:
    - {type: folder, path: SOURCE/train, split: train}
    - {type: folder, path: SOURCE/test, split: test}
  image: {format: png}
split: {validation: 0.25, few_shot: [1, 2, 4], few_shot_seeds: [0, 1]}
evaluate:
  datadream:
    variants: [zero_shot, cls]
    shots: [2, 4]
    seeds: 3
    classifier: {epochs: 2, warmup_epochs: 0, batch_size: 8, learning_rate: 0.01}
"""
#: (shots, few-shot seed) of the sets that a variant was made for, and images per class of each.
SETS: Mapping[str, Mapping[tuple[int, int], int]] = {
    "zero_shot": {(0, 0): 5},
    "cls": {(2, 0): 6, (2, 1): 6, (4, 0): 6, (4, 1): 6},
}


def picture(label: int, seed: Sequence[int], size: int = 16) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB, bright on the class's side."""
    pixels = np.random.default_rng([label, *seed]).integers(0, 120, (size, size, 3)).astype(np.uint8)
    half = size // 2
    pixels[:, half * label : half * label + half] += 100
    return pixels


def write_source(root: Path, sizes: Sequence[int]) -> None:
    for split, count in (("train", 16), ("test", 6)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = picture(label, (split == "test", place), sizes[place % len(sizes)])
                cv2.imwrite(str(folder / f"{place:03d}.png"), pixels[:, :, ::-1])


def write_params(folder: Path, source: Path) -> Path:
    path = folder / "params.yaml"
    path.write_text(PARAMS.replace("SOURCE", str(source)))
    return path


def everything(folder: Path, sizes: Sequence[int] = (16,)) -> Path:
    """The data folder with split, generator and datadream done, images with these sides in turn; params.yaml is beside it."""
    write_source(folder / "source", sizes)
    params = write_params(folder, folder / "source")
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, params, data=str(folder / "data")), "serial", debug=True)
    write_generator(folder / "data")
    for variant, sets in SETS.items():
        write_dreams(folder / "data", variant, sets)
    return folder / "data"


def evaluation(data: Path, *overrides: str) -> Job[Any]:
    return make_job("evaluate", data.parent / "params.yaml", list(overrides), str(data))


def write_generator(data: Path) -> None:
    from tests.synth.datadream.clips import tiny_clip
    from tests.synth.making import tokenizer

    folder = data / "generator"
    tiny_clip().save_pretrained(folder / "clip")
    tokenizer().save_pretrained(folder / "clip")
    (folder / "text").mkdir()
    (folder / "text" / "weights").write_bytes(bytes(1000))
    clip = {
        "kind": "folder",
        "model": "clip",
        "family": "clip",
        "native_size": [16, 16],
        "digest": folder_digest(folder / "clip"),
    }
    text = {
        "kind": "folder",
        "model": "text",
        "family": "sd",
        "native_size": [24, 24],
        "digest": folder_digest(folder / "text"),
    }
    form = {"text": text, "classes": None, "clip": clip}
    (folder / "generator.json").write_bytes(pretty_json(form))
    seal(folder, "generator")


def write_dreams(
    data: Path,
    variant: str,
    sets: Mapping[tuple[int, int], int],
    size: int = 24,
    changed: tuple[int, int] | None = None,
) -> None:
    """An item of `datadream`: so many kept images of each class per set, in no good order, and one that was dropped.

    The images of the set `changed` are others than they would be.
    """
    storage = Storage(data / "datadream" / variant)
    markers = []
    for shots, seed in sets:
        tag = f"shots{shots:02d}-seed{seed}"
        output = UnitOutput(storage, Unit(f"kept/{tag}", {}), "0" * 32)
        with output.shard("kept") as shard:
            for ordinal in reversed(range(sets[shots, seed] + 1)):
                for label, name in enumerate(CLASSES):
                    pixels = picture(label, (9, shots, seed, ordinal, (shots, seed) == changed), size)
                    image = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
                    told = {"variant": variant, "shots": shots, "few_shot_seed": seed, "ordinal": ordinal}
                    key = slot_key("datadream", label, 10_000 * shots + 1000 * seed + ordinal)
                    row = {"label": label, "label_name": name, "split": "train", "width": size, "height": size}
                    row |= {"bytes": len(image), "pixel_sha256": pixel_sha256(pixels)}
                    row |= {"op": "datadream", "params": canonical_json(told).decode()}
                    if ordinal == 1:
                        shard.reject(dropped("clip_low"), {"key": key, **row})
                    else:
                        shard.keep(Sample(key, (("png", image), ("cls", str(label).encode())), row))
        if shots:
            output.write(f"adapters/{tag}/0/pytorch_lora_weights.safetensors", bytes(100 * shots + seed))
        markers.append(output.commit())
    publish_datasets(storage, markers, CLASSES, {"name": f"datadream_{variant}"}, ["kept"])
    config = {"datadream": {"names": {"left": "left side"}, "domain": "grey"}}
    storage.write_bytes("config.resolved.json", signed_bytes(config))
    seal(storage, "datadream")


def manifest(data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / "split/few_shot.json").read_text())
    return found
