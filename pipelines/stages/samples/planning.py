"""Which units an item of `samples` has: encodings of real images and modes of classes, where they are pulled to, and images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np
import pyarrow as pa

from pipelines.artifacts.class_model import Cell, Written, cells_of, written_as
from pipelines.artifacts.conditions import class_numbers
from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.distilled import keys_by_class, set_name
from pipelines.artifacts.generators import generator_digest
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.runtime.units import Unit
from pipelines.seeds import hash_ranks
from pipelines.stages.samples.params import LATENTS, MADE, MODES, SamplesParams
from pipelines.stages.samples.payloads import Cluster, Encode, Generate, Model
from pipelines.storage import canonical_json

#: Waves: each reads what the ones before it committed.
ENCODINGS, CLUSTERS, IMAGES = range(3)
#: Classes whose modes one unit finds.
CLASSES = 16


class ItemPlan:
    """Plans one item. Opening reads the training set's rows."""

    def __init__(self, job: Job[SamplesParams]) -> None:
        self.job, self.params = job, job.params
        self._train = open_part(job, "split", "train")
        self.classes = self._train.classes
        self.rows: dict[str, pa.Table] = {}

    def units(self) -> Iterator[Unit]:
        """All units; `rows` has what those of the first wave work on afterwards."""
        encodings = self._encodings() if self.job.item == "modes" else {}
        for name, (encode, _) in encodings.items():
            yield encode.unit(name, ENCODINGS)
        cells, size = cells_of(self.params.ipc, len(self.classes)), self.params.images_per_unit
        for number in range(self.params.seeds):
            clusters = self._clusters(number, encodings) if encodings else {}
            yield from (cluster.unit(name, CLUSTERS) for name, cluster in clusters.items())
            for place, first in enumerate(range(0, len(cells), size)):
                generate = self._generate(number, cells[first : first + size], clusters)
                yield generate.unit(f"{MADE}/{set_name(self.job.name, number)}-{place:06d}", IMAGES)

    # modes

    def _pools(self) -> list[list[str]]:
        """The real images of each class among which modes are looked for: the first in an order that follows from the run's seed."""
        limit, prefix = self.params.images_per_class, f"{self.job.seed('', 'images')}/"
        pools = []
        for name, keys in zip(self.classes, keys_by_class(self._train), strict=True):
            order = np.argsort(hash_ranks(keys, prefix), kind="stable")[: limit or len(keys)]
            if len(order) < self.params.ipc:
                cure = "lower samples.ipc" if limit is None or len(keys) <= limit else "raise samples.images_per_class"
                raise UserError(
                    f"class {name} has {len(order)} different training image{'' if len(order) == 1 else 's'} to look for "
                    f"{self.params.ipc} modes among; {cure}, or leave modes out of samples.methods"
                )
            pools.append([keys[place] for place in order])
        return pools

    def _encodings(self) -> dict[str, tuple[Encode, set[int]]]:
        """Units by name, each with the labels of its images; fills `rows`. Images lie class by class, so that a unit has few classes."""
        rows = self._train.rows(["key", "pixel_sha256"])
        pixels = dict(zip(rows["key"].to_pylist(), rows["pixel_sha256"].to_pylist(), strict=True))
        images = [(label, key) for label, keys in enumerate(self._pools()) for key in sorted(keys)]
        size, units = self.params.images_per_unit, {}
        for first in range(0, len(images), size):
            block, name = images[first : first + size], f"{LATENTS}/{first // size:06d}"
            content = [[label, key, pixels[key]] for label, key in block]
            labels, keys = [label for label, _ in block], [key for _, key in block]
            self.rows[name] = pa.table({"key": keys, "label": pa.array(labels, pa.int32())})
            digest = hashlib.sha256(canonical_json(content)).hexdigest()
            units[name] = Encode(self._model, digest), set(labels)
        return units

    def _clusters(self, number: int, encodings: dict[str, tuple[Encode, set[int]]]) -> dict[str, Cluster]:
        """Units by name, each for some classes."""
        units = {}
        for place, first in enumerate(range(0, len(self.classes), CLASSES)):
            labels = range(first, min(first + CLASSES, len(self.classes)))
            parts = {label: tuple(name for name, (_, own) in encodings.items() if label in own) for label in labels}
            used = dict.fromkeys(name for names in parts.values() for name in names)
            units[f"{MODES}/{set_name(self.job.name, number)}-{place:06d}"] = Cluster(
                set=number,
                ipc=self.params.ipc,
                names={label: self.classes[label] for label in labels},
                parts=parts,
                of=tuple(encodings[name][0].digest for name in used),
            )
        return units

    # images

    def _generate(self, number: int, cells: Sequence[Cell], clusters: dict[str, Cluster]) -> Generate:
        params, labels = self.params, sorted({label for _, label in cells})
        modes = {label: name for name, cluster in clusters.items() for label in labels if label in cluster.parts}
        return Generate(
            set=number,
            cells=tuple(cells),
            model=self._model,
            settings=asdict(params.generate),
            prompts={label: self._numbers[label] for label in labels},
            names={label: self.classes[label] for label in labels},
            written=self._written,
            caption=params.caption,
            modes=modes,
            guidance=asdict(params.modes) if modes else None,
            of=tuple(clusters[name].digest for name in dict.fromkeys(modes.values())),
        )

    @cached_property
    def _numbers(self) -> list[int]:
        """What the generator is asked for, by label."""
        return class_numbers(self.job, self.classes, self.params.names)

    @cached_property
    def _model(self) -> Model:
        return Model(generator_digest(self.job, "classes"), self.params.dtype, self.params.batch_size)

    @cached_property
    def _written(self) -> Written:
        rows = self._train.rows(["width", "height"])
        sizes = set(zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True))
        return written_as(self.job, "classes", sizes, self.params.image)
