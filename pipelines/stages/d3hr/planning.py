"""Which units an item of `d3hr` has: inversions of real images, groups of latents, distilled images, wave by wave."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.artifacts.class_model import Cell, Written, cells_of, written_as
from pipelines.artifacts.conditions import class_numbers, class_prompts
from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.distilled import keys_by_class, set_name
from pipelines.artifacts.generators import generator_digest
from pipelines.errors import UserError
from pipelines.report.pictures import CLASSES
from pipelines.runtime.job import Job
from pipelines.runtime.units import Unit
from pipelines.seeds import hash_ranks
from pipelines.stages.d3hr.params import (
    DIAGNOSTICS,
    DISTILLED,
    GROUPS,
    MOMENTS,
    ROUND_TRIP,
    D3hrParams,
    group_file,
    tag_of,
)
from pipelines.stages.d3hr.payloads import (
    Decode,
    Diagnose,
    Invert,
    Model,
    Prompt,
    RoundTrip,
    Select,
    blocks,
)
from pipelines.storage import canonical_json

#: Waves: each reads what the ones before it committed.
INVERSIONS, SELECTIONS, IMAGES = range(3)


class ItemPlan:
    """Plans one item. Opening reads the training set's rows."""

    def __init__(self, job: Job[D3hrParams]) -> None:
        self.job, self.params, self.variant = job, job.params, job.item
        train = open_part(job, "split", "train")
        self.classes = train.classes
        self.settings = self.params.inversion_of(self.variant)
        for level in self.params.levels_of(self.variant):
            self.settings.place(level)
        self.config = self.params.selection_of(self.variant)
        if self.variant == "reference" and self.params.ipc == 1:
            raise UserError(
                "d3hr@reference cannot make 1 image per class: the published score takes a deviation over two or more; raise d3hr.ipc to "
                "2, or leave reference out of d3hr.variants"
            )
        self.config.require_members(self.params.ipc)
        rows = train.rows(["key", "pixel_sha256", "width", "height"])
        self._pixels = dict(zip(rows["key"].to_pylist(), rows["pixel_sha256"].to_pylist(), strict=True))
        self._sizes = Counter(zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True))
        self._pools = self._ranked(keys_by_class(train))
        self.rows: dict[str, pa.Table] = {}

    def units(self) -> Iterator[Unit]:
        """All units; `rows` has what those of the first wave work on afterwards."""
        measured = {tag_of(one.scale): self._inversions(one) for one in self.params.inversions_of(self.variant)}
        for of_tag in measured.values():
            yield from (invert.unit(name, INVERSIONS) for name, invert in of_tag.items())
        if self.params.round_trip:
            yield self._round_trip.unit(f"{ROUND_TRIP}/images", INVERSIONS)
        own = measured[tag_of(self.settings.scale)]
        yield self._diagnose(measured).unit(DIAGNOSTICS, SELECTIONS)
        for number in range(self.params.seeds):
            select = Select(
                set=number,
                ipc=self.params.ipc,
                classes=len(self.classes),
                level=self.settings.level,
                block=self.params.images_per_unit,
                config=asdict(self.config.settled()),
                parts=tuple(own),
                of=tuple(invert.digest for invert in own.values()),
            )
            yield select.unit(f"{GROUPS}/set{number}", SELECTIONS)
            cells = cells_of(self.params.ipc, len(self.classes))
            for place, block in enumerate(blocks(cells, self.params.images_per_unit)):
                decode = self._decode(number, block, group_file(number, place), select.digest)
                yield decode.unit(f"{DISTILLED}/{set_name(self.job.stage, number)}-{place:06d}", IMAGES)

    # what is inverted

    def _ranked(self, pools: Sequence[Sequence[str]]) -> list[list[str]]:
        """The images of each class that are inverted, by key: the first in an order that follows from the run's seed alone."""
        count, chosen = self.params.images_of(self.variant), []
        for keys in pools:
            ranks = hash_ranks(keys, f"{self.job.seed('', 'images')}/")
            order = np.argsort(ranks, kind="stable")[: count or len(keys)]
            chosen.append([keys[place] for place in order])
        if few := [
            (name, len(keys)) for name, keys in zip(self.classes, chosen, strict=True) if len(keys) < self._least
        ]:
            name, have = few[0]
            raise UserError(
                f"class {name} has {have} different training {'image' if have == 1 else 'images'}, and {self._least} are needed "
                f"{self._why_so_many}; {self._cure}"
            )
        return chosen

    @property
    def _least(self) -> int:
        """Images that a class must have: two for a variance, and one each for medoids and components."""
        config = self.config.settled()
        if config.group == "medoids":
            return self.params.ipc
        if config.class_model == "mixture":
            return max(2, (config.components or self.params.ipc) + 1)
        return 2

    @property
    def _why_so_many(self) -> str:
        config = self.config.settled()
        if config.group == "medoids":
            return f"to choose {self.params.ipc} of"
        if config.class_model == "mixture":
            return f"for a mixture of {config.components or self.params.ipc} components"
        return "to know how much they vary"

    @property
    def _cure(self) -> str:
        limit = self.params.images_of(self.variant)
        if limit is not None and limit < self._least:
            return "raise d3hr.images_per_class"
        if self._least > 2:
            return "lower d3hr.ipc or d3hr.select.components, or take another d3hr.select.group"
        return "ingest more, or take the class out"

    def _inversions(self, settings: Any) -> dict[str, Invert]:
        """Units by name for the inversions at one guidance; fills `rows`.

        Images lie class by class, so that a unit has few classes and its moments are small; a batch goes over the border of two.
        """
        images = [(label, key) for label, keys in enumerate(self._pools) for key in sorted(keys)]
        units = {}
        for place, block in enumerate(blocks(images, self.params.images_per_unit)):
            name = f"{MOMENTS}/{tag_of(settings.scale)}-{place:06d}"
            labels = sorted({label for label, _ in block})
            self.rows[name] = pa.table(
                {"key": [key for _, key in block], "label": pa.array([label for label, _ in block], pa.int32())}
            )
            units[name] = Invert(
                model=self._model,
                settings=_without_level(settings),
                levels=self.params.levels_of(self.variant),
                prompts={label: self.prompts[label] for label in labels},
                images=self._digest(block),
                keep=self.keeps_latents,
            )
        return units

    @property
    def keeps_latents(self) -> bool:
        """Whether latents stay: asked for, or read by the choice of groups."""
        config = self.config.settled()
        return self.params.keep_latents or config.class_model != "diagonal" or config.group == "medoids"

    @cached_property
    def prompts(self) -> list[Prompt]:
        """What the generator is asked for, by label."""
        ask = class_numbers if self.params.model == "classes" else class_prompts
        return list(ask(self.job, self.classes, self.params.names))

    @cached_property
    def _model(self) -> Model:
        role = self.params.model
        return Model(role, generator_digest(self.job, role), self.params.dtype, self.params.batch_size)

    def _digest(self, images: Sequence[tuple[int, str]]) -> str:
        """Of labels, keys and pixels."""
        content = [[label, key, self._pixels[key]] for label, key in images]
        return hashlib.sha256(canonical_json(content)).hexdigest()

    # what is shown of it

    @cached_property
    def _round_trip(self) -> RoundTrip:
        keys = {label: tuple(pool[: self.params.round_trip]) for label, pool in enumerate(self._pools[:CLASSES])}
        return RoundTrip(
            model=self._model,
            settings=_without_level(self.settings),
            level=self.settings.level,
            guidance=self.params.guidance_of(self.variant),
            keys=keys,
            prompts={label: self.prompts[label] for label in keys},
            images=self._digest([(label, key) for label, own in keys.items() for key in own]),
            written=self.written,
        )

    def _diagnose(self, measured: dict[str, dict[str, Invert]]) -> Diagnose:
        scales = {tag_of(one.scale): one.scale for one in self.params.inversions_of(self.variant)}
        return Diagnose(
            levels=self.params.levels_of(self.variant),
            classes=len(self.classes),
            scales=scales,
            parts={tag: tuple(units) for tag, units in measured.items()},
            of={tag: tuple(invert.digest for invert in units.values()) for tag, units in measured.items()},
        )

    # what is made

    def _decode(self, number: int, cells: Sequence[Cell], latents: str, group: str) -> Decode:
        labels = sorted({label for _, label in cells})
        return Decode(
            set=number,
            cells=tuple(cells),
            latents=latents,
            group=group,
            model=self._model,
            settings=_without_level(self.settings),
            level=self.settings.level,
            guidance=self.params.guidance_of(self.variant),
            prompts={label: self.prompts[label] for label in labels},
            names={label: self.classes[label] for label in labels},
            written=self.written,
            caption=self.params.caption,
        )

    @cached_property
    def written(self) -> Written:
        """How images are written."""
        return written_as(self.job, self.params.model, self._sizes, self.params.image_of(self.variant))


def _without_level(settings: Any) -> dict[str, Any]:
    """Settings of inversion as JSON without the level: a unit names those that it is about."""
    form = asdict(settings) | {"guidance": settings.scale}
    del form["level"]
    return form
