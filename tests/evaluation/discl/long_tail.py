"""A data folder as `split`, `generator` and `discl` leave it: three classes of pictures, a long tail, and images of its rare class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.artifacts.profiles import load_profile
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.images.process import pixel_sha256
from pipelines.outcomes import dropped
from pipelines.runtime.job import Job
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.shards.sample import Sample
from pipelines.storage import Storage, canonical_json, pretty_json
from tests.sealing import seal

CLASSES = ["left", "middle", "right"]
#: Training images of each class in the tail: many, medium and few.
COUNTS = (12, 6, 2)
PARAMS = """
run: {seed: 0, threads: 1, device: cpu}
ingest:
  sources:
    - {type: folder, path: SOURCE/train, split: train}
    - {type: folder, path: SOURCE/test, split: test}
  image: {format: png}
split:
  validation: 0.25
  profiles:
    tail: {tail: {law: counts, counts: {left: 12, middle: 6, right: 2}}, groups: {many: 8, few: 3}}
evaluate:
  discl:
    network: convnet2_w4
    training: {epochs: 4, batch_size: 8, learning_rate: 0.05, views: {crop: none}}
    seeds: 2
    arms: ARMS
"""
ARMS = ("ce", "bs", "ce_discl", "bs_discl", "full_real")


def picture(label: int, seed: Sequence[int], size: int = 16) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB, bright in the class's third."""
    pixels = np.random.default_rng([label, *seed]).integers(0, 120, (size, size, 3)).astype(np.uint8)
    third = size // 3
    pixels[:, third * label : third * label + third] += 100
    return pixels


def everything(folder: Path, arms: Sequence[str] = ARMS) -> Path:
    """The data folder with split, generator and discl done; params.yaml is beside it."""
    for split, count in (("train", 16), ("test", 4)):
        for label, name in enumerate(CLASSES):
            place = folder / "source" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(place / f"{number:03d}.png"), picture(label, (split == "test", number))[:, :, ::-1])
    params = folder / "params.yaml"
    params.write_text(PARAMS.replace("SOURCE", str(folder / "source")).replace("ARMS", f"[{', '.join(arms)}]"))
    data = folder / "data"
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, params, data=str(data)), "serial", debug=True)
    write_generator(data)
    write_spectra(data)
    return data


def evaluation(data: Path, *overrides: str) -> Job[Any]:
    return make_job("evaluate@discl", data.parent / "params.yaml", list(overrides), str(data))


def write_generator(data: Path, source: str = "embedded") -> None:
    (data / "generator").mkdir(exist_ok=True)
    (data / "generator" / "generator.json").write_bytes(pretty_json({"text": None, "classes": None, "clip": None}))
    seal(data / "generator", "generator", facts={"source": source})


def write_spectra(
    data: Path, levels: Mapping[int, int] | None = None, size: int = 24, changed: bool = False, profile: str = "tail"
) -> None:
    """The output of `discl`: so many images of the rare class at each level, of which the last was not admitted."""
    storage = Storage(data / "discl")
    params = data.parent / "params.yaml"
    tail = load_profile(make_job("evaluate@discl", params, data=str(data)), "tail")
    parents = [key for key, label in zip(tail.keys, tail.labels, strict=True) if label == 2]
    markers = []
    for level, count in (levels or {0: 5, 50: 5}).items():
        output = UnitOutput(storage, Unit(f"generated/level{level:03d}", {}), "0" * 32)
        copies = UnitOutput(storage, Unit(f"kept/level{level:03d}", {}), "0" * 32)
        with output.shard("generated") as made, copies.shard("kept") as kept:
            for ordinal in range(count):
                pixels = picture(2, (7, level, ordinal, changed), size)
                image = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
                told = {"level": level, "strength": 100 - level, "ordinal": ordinal, "attempt": 0, "prompt": "a right"}
                told["scores"] = {"text_cosine": round(0.1 * ordinal, 1), "source_cosine": 0.5}
                row = {"label": 2, "label_name": CLASSES[2], "split": "train", "width": size, "height": size}
                row |= {"bytes": len(image), "pixel_sha256": pixel_sha256(pixels), "parents": [parents[ordinal % 2]]}
                row |= {"op": "discl", "params": canonical_json(told).decode()}
                sample = Sample(slot_key("discl", 2, 1000 * level + ordinal), (("png", image), ("cls", b"2")), row)
                made.keep(sample)
                if ordinal == count - 1:
                    kept.reject(dropped("text_low"), {"key": sample.key, **row})
                else:
                    kept.keep(sample)
        markers += [output.commit(), copies.commit()]
    publish_datasets(storage, markers, CLASSES, {"name": "discl"}, ["generated", "kept"])
    storage.write_bytes("hard.json", pretty_json({"rule": "tail", "images": [{"key": key} for key in parents]}))
    seal(storage, "discl", facts={"profile": profile})
