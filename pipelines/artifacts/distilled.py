"""The sets that students are compared on: condensed sets, what they started from, and as many random real images.

A condensed set stands for a training set: distilled images, or a chosen few. Whichever stage makes one (its `product` is
`distilled`) says so in the sidecar, a row an image: `label`; in `params` the image's `slot`, its `set` where the stage makes several
from seeds of their own, and `tiles` where it stores tiles x tiles images in one; in `parents` the real images that it started from,
or is. Keys are `set_name` and slot. A *source* is the output that holds such sets, STAGE or STAGE@ITEM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.distinct import distinct_places
from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.loaders.tiles import decoded_tiles
from pipelines.runtime.job import Job
from pipelines.seeds import seed_for
from pipelines.shards.checksum import remedy
from pipelines.shards.dataset import Dataset

#: The stages whose sets are labelled and measured where parameters name none.
DEFAULT_SOURCES = ("cda",)


def _each_once(sources: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [source for source in sources if not re.fullmatch(r"\w+(@\w+)?", source)]:
        raise ValueError(f"a source is STAGE or STAGE@ITEM, not {wrong[0]!r}")
    slugs = [source_slug(source) for source in sources]
    if twice := [source for source, slug in zip(sources, slugs, strict=True) if slugs.count(slug) > 1]:
        raise ValueError(f"sources names something twice: {', '.join(twice)}")
    return sources


#: Outputs whose condensed sets are read beside those of `Sources`, as STAGE or STAGE@ITEM; there may be none.
OtherSources = Annotated[tuple[str, ...], AfterValidator(_each_once)]
#: Outputs whose condensed sets are read, as STAGE or STAGE@ITEM.
Sources = Annotated[OtherSources, Field(min_length=1)]


def source_slug(source: str) -> str:
    """What a source is called where an `@` cannot stand, in names of arms, items, files and keys: `cda`, `coreset_medoids`."""
    return source.replace("@", "_")


def source_of(slug: str, sources: Sequence[str]) -> str:
    """The one of `sources` that has this slug."""
    return next(source for source in sources if source_slug(source) == slug)


def set_name(source: str, number: int) -> str:
    """What the set of a seed is called in keys: `cda`, `cda_s1`, `cda_s2`, ..., `coreset_medoids`, `coreset_medoids_s1`, ..."""
    slug = source_slug(source)
    return slug if number == 0 else f"{slug}_s{number}"


class CondensedSets:
    """The condensed sets that a source left: `count` of them, each of `ipc` images of every class. Reads no pixels.

    Sets are nested in their slots: IPC 1 is the head of IPC 10. `UserError` for an output that holds none.
    """

    def __init__(self, job: Job[Any], source: str) -> None:
        self.source, self.dataset, self._job = source, open_part(job, source), job
        rows = self.dataset.rows(["key", "label", "params", "parents", "pixel_sha256"]).to_pylist()
        self._images: dict[tuple[int, int, int], dict[str, Any]] = {}
        tiles: set[int] = set()
        for row in rows:
            params = json.loads(row["params"] or "{}")
            if row["label"] is None or "slot" not in params:
                raise UserError(
                    f"{self.dataset.storage.url} holds no condensed set: its sample {row['key']} has no slot; name another of "
                    f"the sources of {job.name}"
                )
            self._images[params.get("set", 0), row["label"], params["slot"]] = row
            tiles.add(params.get("tiles", 1))
        if len(tiles) > 1:
            raise UserError(
                f"{self.dataset.storage.url} holds images of {sorted(tiles)} tiles a side; {remedy(source)}"
            )
        #: Tiles to a side that each stored image has; 1 where it is one image.
        self.tiles: int = next(iter(tiles), 1)
        self.count = len({number for number, _, _ in self._images})
        self.ipc = len(rows) // max(len(self.dataset.classes), 1) // max(self.count, 1)

    @cached_property
    def started_from_real(self) -> bool:
        """Whether every image says which real image it started from, and some became others than they were."""
        rows = self._images.values()
        if not all(len(row["parents"] or ()) == 1 for row in rows):
            return False
        real = open_part(self._job, "split", "train").rows(["key", "pixel_sha256"])
        pictures = dict(zip(real["key"].to_pylist(), real["pixel_sha256"].to_pylist(), strict=True))
        return any(row["pixel_sha256"] != pictures.get(row["parents"][0]) for row in rows)

    def load(self, ipc: int, number: int = 0) -> ImageArrays:
        """The images of slots 0..ipc-1 of every class of a set; those that are stored as tiles decoded, `tiles`^2 of each."""
        return decoded_tiles(load_arrays(self.dataset, self.keys(ipc, number)), self.tiles)

    def keys(self, ipc: int, number: int = 0) -> list[str]:
        """Keys of slots 0..ipc-1 of every class of a set, class by class."""
        return [row["key"] for row in self._rows(ipc, number)]

    def parents(self, ipc: int, number: int = 0) -> list[str]:
        """Keys of the real images that those of `keys` started from."""
        return [row["parents"][0] for row in self._rows(ipc, number)]

    def _rows(self, ipc: int, number: int) -> list[dict[str, Any]]:
        places = [(number, label, slot) for label in range(len(self.dataset.classes)) for slot in range(ipc)]
        if not all(place in self._images for place in places):
            stage = self.source.partition("@")[0]
            raise UserError(
                f"{self._job.name} asks for {ipc} images per class, {self.dataset.storage.url} has {self.ipc}; raise {stage}.ipc or "
                f"lower what {self._job.name} asks for"
            )
        return [self._images[place] for place in places]


def load_distilled(job: Job[Any], source: str, ipc: int, number: int = 0) -> ImageArrays:
    """The images of `CondensedSets.load`."""
    return CondensedSets(job, source).load(ipc, number)


def load_start(job: Job[Any], source: str, ipc: int, number: int = 0) -> ImageArrays:
    """The real images that a condensed set started from, each under the key of what became of it: one may have started several."""
    sets = CondensedSets(job, source)
    real = load_arrays(open_part(job, "split", "train"), sets.parents(ipc, number))
    return ImageArrays(real.images, real.labels, sets.keys(ipc, number))


def keys_by_class(dataset: Dataset) -> list[list[str]]:
    """Keys of every class, in index order, of different pictures that have one label (`pictures`). Reads no pixels."""
    rows = dataset.rows(["key", "label", "pixel_sha256"])
    names, labels, pictures = (rows[name].to_pylist() for name in ("key", "label", "pixel_sha256"))
    keys: list[list[str]] = [[] for _ in dataset.classes]
    for place in distinct_places(labels, pictures):
        keys[labels[place]].append(names[place])
    return keys


def shuffled_keys(dataset: Dataset, seed: int) -> list[list[str]]:
    """`keys_by_class` with every class in a random order that follows from `seed`."""
    order = [np.random.Generator(np.random.PCG64(seed + label)).permutation for label in range(len(dataset.classes))]
    return [
        [keys[place] for place in draw(len(keys))] for draw, keys in zip(order, keys_by_class(dataset), strict=True)
    ]


def random_keys(dataset: Dataset, ipc: int, run_seed: int, draw: int | str) -> list[str]:
    """Keys of `ipc` random training images of every class, class by class; nested in `ipc`, different for every `draw`."""
    chosen: list[str] = []
    for name, keys in zip(
        dataset.classes, shuffled_keys(dataset, seed_for(run_seed, "evaluate", "random", str(draw))), strict=True
    ):
        if len(keys) < ipc:
            raise UserError(
                f"class {name} has {len(keys)} different training images, fewer than the {ipc} per class asked for; lower "
                "evaluate.distilled.ipc, or leave out the random arms (evaluate.distilled.arms)"
            )
        chosen += keys[:ipc]
    return chosen


def random_real(dataset: Dataset, ipc: int, run_seed: int, draw: int | str) -> ImageArrays:
    """The images of `random_keys`."""
    return load_arrays(dataset, random_keys(dataset, ipc, run_seed, draw))


def stored_image_bytes(dataset: Dataset, keys: list[str]) -> int:
    """Bytes of the encoded images of `keys`, as stored."""
    wanted = set(keys)
    rows = dataset.rows(["key", "bytes"])
    return sum(
        size for key, size in zip(rows["key"].to_pylist(), rows["bytes"].to_pylist(), strict=True) if key in wanted
    )
