"""Scenes with captions and annotations, whole in memory: what the text models of the reference family learn from."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.artifacts.datasets import open_part
from pipelines.errors import UserError
from pipelines.images.process import decode_rgb
from pipelines.locations import local_path
from pipelines.outcomes import Outcome
from pipelines.runtime.job import Job
from pipelines.shards.dataset import INDEX, Dataset
from pipelines.sources.composing.words import noun_of

_THREADS = 2
#: STAGE or STAGE/PART.
_STAGE_PART = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9_]+)?")


@dataclass(frozen=True)
class Scenes:
    """`images` (n, 3, size, size) uint8; a `caption` each, and a `noun` where one thing alone shows, else None; `shown` (n, classes)
    uint8, 1 for the classes that show. `nouns` is what captions call each class."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    captions: list[str]
    nouns_alone: list[str | None]
    shown: np.ndarray[Any, np.dtype[np.uint8]]
    nouns: list[str]


def load_scenes(dataset: Dataset, size: int) -> Scenes:
    """All kept scenes in index order. `UserError` for one without a caption or annotations, or of another size, and for classes of one
    noun."""
    require_size(dataset, size)
    rows = dataset.rows(["key", "members"])
    classes = dataset.classes
    images = np.empty((rows.num_rows, 3, size, size), np.uint8)
    shown = np.zeros((rows.num_rows, len(classes)), np.uint8)
    keys, shards, members = (rows[name].to_pylist() for name in ("key", "shard", "members"))
    words: list[tuple[str, list[tuple[str, str]]]] = [("", [])] * rows.num_rows

    def read(place: int) -> None:
        files = dataset.read(shards[place], keys[place], members[place])
        decoded = decode_rgb(dataset.read_image_bytes(shards[place], keys[place], members[place]))
        if isinstance(decoded, Outcome):
            raise UserError(f"scene {keys[place]} of {dataset.storage.url} does not decode ({decoded.reason})")
        images[place] = decoded.transpose(2, 0, 1)
        words[place] = _said(files, keys[place], dataset)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(read, range(rows.num_rows)):
            pass
    number = {name: label for label, name in enumerate(classes)}
    seen: list[Counter[str]] = [Counter() for _ in classes]
    for place, (_, things) in enumerate(words):
        for name, noun in things:
            if name not in number:
                raise UserError(f"scene {keys[place]} of {dataset.storage.url} shows {name!r}, which is no class of it")
            shown[place, number[name]] = 1
            seen[number[name]][noun] += 1
    nouns = [_commonest(counts, name) for counts, name in zip(seen, classes, strict=True)]
    _require_distinct(nouns, classes, dataset)
    alone = [things[0][1] if len(things) == 1 else None for _, things in words]
    return Scenes(images, [caption for caption, _ in words], alone, shown, nouns)


def _require_distinct(nouns: Sequence[str], classes: Sequence[str], dataset: Dataset) -> None:
    first: dict[str, str] = {}
    for noun, name in zip(nouns, classes, strict=True):
        if (other := first.setdefault(noun.casefold(), name)) != name:
            raise UserError(
                f"classes {other!r} and {name!r} are both called {noun!r} in the captions of {dataset.storage.url}: a generator cannot "
                "learn to tell them apart; give one another name in the source of the scenes (classes), and in that of split"
            )


def require_size(dataset: Dataset, size: int) -> None:
    """`UserError` unless every scene is `size` x `size`."""
    rows = dataset.rows(["width", "height"])
    sizes = set(zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True))
    if sizes != {(size, size)}:
        shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:3]) or "no scene"
        raise UserError(
            f"generator.train.scenes: {dataset.storage.url} holds {shown}, and generator.train.shape.size is {size}; "
            "make them equal"
        )


def _said(files: Mapping[str, bytes], key: str, dataset: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """The caption, and (class name, noun) of each thing on a scene."""
    document = json.loads(files["json"])
    caption = files["txt"].decode() if "txt" in files else document.get("caption")
    annotations = document.get("annotations")
    if not caption or not annotations:
        raise UserError(
            f"scene {key} of {dataset.storage.url} has no {'annotations' if caption else 'caption'}; ingest scenes with both, such "
            "as {type: composed}"
        )
    objects = document.get("description", {}).get("objects", [])
    noun_of_name = {name: noun for name, noun in map(_noun, objects) if noun}
    names = [str(item["category_name"]) for item in annotations]
    return caption, [(name, noun_of_name.get(name) or noun_of(name)) for name in names]


def _noun(thing: Mapping[str, Any]) -> tuple[str, str]:
    """A thing's class, and its phrase without the colour."""
    phrase, colour = str(thing.get("phrase", "")), str(thing.get("colour", ""))
    return str(thing.get("label", "")), phrase.removeprefix(f"{colour} ") if colour else phrase


def _commonest(counts: Counter[str], name: str) -> str:
    most: Sequence[tuple[str, int]] = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return most[0][0] if most else noun_of(name)


def scenes_stage(named: str) -> str:
    """Return the stage meant by STAGE or STAGE/PART; empty for the folder or URL of a dataset.

    A folder that holds a dataset goes before a stage of the same name; `./NAME` is always a folder.
    """
    is_stage = _STAGE_PART.fullmatch(named) and not (local_path(named) / INDEX).exists()
    return named.partition("/")[0] if is_stage else ""


def scenes_dataset(job: Job[Any], named: str) -> Dataset:
    """Open the finished dataset called STAGE, STAGE/PART, or by its folder or URL."""
    stage, _, part = named.partition("/")
    return open_part(job, stage, part) if scenes_stage(named) else Dataset.open(named)


def origins(job: Job[Any], scenes: Dataset) -> dict[str, int]:
    """How many images the scenes are composed of, by the part of the split that holds them; `elsewhere` in none."""
    parents = {key for keys in scenes.rows(["parents"])["parents"].to_pylist() for key in keys or ()}
    counts = {}
    for part in ("train", "val", "test"):
        held = set(open_part(job, "split", part).rows(["key"])["key"].to_pylist()) if _has(job, part) else set()
        counts[part] = len(parents & held)
        parents -= held
    return counts | {"elsewhere": len(parents)}


def require_no_test_image(job: Job[Any], scenes: Dataset | None) -> None:
    """`UserError` when an image of split/test, by key or by pixels, is trained on or is part of a scene, where there are scenes."""
    if not _has(job, "test"):
        return
    test = open_part(job, "split", "test").rows(["key", "pixel_sha256"])
    keys, pixels = set(test["key"].to_pylist()), set(test["pixel_sha256"].to_pylist()) - {None}
    for dataset in (open_part(job, "split", "train"), *([] if scenes is None else [scenes])):
        rows = dataset.rows(["key", "pixel_sha256", "parents"])
        for key, pixel, parents in zip(*(rows[name].to_pylist() for name in rows.column_names[:3]), strict=True):
            if key in keys or pixel in pixels:
                raise UserError(f"{key} of {dataset.storage.url} is an image of split/test: nothing may train on it")
            if shown := keys.intersection(parents or ()):
                raise UserError(
                    f"scene {key} of {dataset.storage.url} shows {min(shown)}, an image of split/test; compose scenes from "
                    "training images only (`base.split`)"
                )


def _has(job: Job[Any], part: str) -> bool:
    return job.input("split").exists(f"{part}/{INDEX}")
