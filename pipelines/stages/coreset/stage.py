"""`coreset`: a training set, and a teacher -> real images that stand for their classes: random, herding, medoids, RDED, tiles.

One item per method: condensed sets that need no optimisation, and what every other has to beat. Units come in waves: the teacher's
features of a block of images, where the method chooses by features; then the images of some classes of a set, chosen and stored.
Every picture is a candidate once, and none that has two labels. Images that stay whole are stored with the bytes that they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, cast

from pipelines.artifacts.datasets import dataset_digest, finished, open_part, stage_digest
from pipelines.artifacts.distilled import keys_by_class, set_name
from pipelines.artifacts.generators import generator_digest, generator_model
from pipelines.artifacts.teacher import TEACHER_FILE, load_teacher, require_classes
from pipelines.artifacts.trainable import common_side
from pipelines.errors import UserError
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.coreset.params import BY_FEATURES, TILED, CoresetParams
from pipelines.stages.coreset.payloads import PAYLOADS, Block, Choose, Chunk, Cut, Embed, Tile, Tiled, Whole

#: Waves: choices read the features that the first left.
FEATURES, CHOICES = range(2)


class Coreset(Stage[CoresetParams]):
    """Chooses real images."""

    name = "coreset"
    version = 1
    summary = "train + teacher -> chosen real images (random, herding, medoids, RDED, tiles)"
    adds = "the images that {item} chose"
    titles: ClassVar[Mapping[str, str]] = {
        "random": "random coreset",
        "herding": "herding",
        "medoids": "k-means medoids",
        "rded": "RDED patches",
        "random_tiles": "random tiles",
        "medoids_tiles": "k-means medoid tiles",
    }
    optional = True
    extras = ("distill",)
    product = "distilled"
    Params = CoresetParams
    upstream = ("split", "squeeze")
    code = ("augment", "distill", "synth", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True

    def items(self, params: CoresetParams) -> tuple[str, ...]:
        return params.methods

    def inputs(self, job: Job[CoresetParams]) -> Sequence[str]:
        asked = job.params.asks(job.item)
        return ("split",) if asked is None else ("split", asked)

    def plan(self, job: Job[CoresetParams]) -> Plan:
        train = open_part(job, "split", "train")
        sizes = [len(keys) for keys in keys_by_class(train)]
        self._require_enough(job, dict(zip(train.classes, sizes, strict=True)))
        inputs = {"train": dataset_digest(train)}
        asked = job.params.asks(job.item)
        if asked is not None:
            inputs[asked] = stage_digest(job, "squeeze") if asked == "squeeze" else generator_digest(job, "clip")
        embeds = self._embeds(job, sum(sizes), inputs) if job.item in BY_FEATURES else {}
        units = [embed.unit(name, FEATURES) for name, embed in embeds.items()]
        for number in range(job.params.sets_of(job.item)):
            for place, first in enumerate(range(0, len(sizes), job.params.class_chunk)):
                chunk = Chunk(number, first, min(job.params.class_chunk, len(sizes) - first), job.params.ipc)
                name = f"{set_name(job.name, number)}-{place:06d}"
                units.append(self._choice(job, chunk, embeds, sizes, inputs).unit(name, CHOICES))
        return Plan(units, facts={"classes": train.classes, "ipc": job.params.ipc})

    def _require_enough(self, job: Job[CoresetParams], sizes: dict[str, int]) -> None:
        wanted, (tiles, named) = job.params.different_images(job.item), job.params.tiling(job.item)
        for name, count in sizes.items():
            if count < wanted:
                of_tiles = f" and coreset.{named} {tiles}" if tiles > 1 else ""
                raise UserError(
                    f"class {name} has {count} different training image{'' if count == 1 else 's'}, fewer than the {wanted} that "
                    f"coreset.ipc {job.params.ipc}{of_tiles} takes; lower coreset.ipc, then: limbeck run {job.name}"
                )

    def _embeds(self, job: Job[CoresetParams], images: int, inputs: dict[str, str]) -> dict[str, Embed]:
        """By the names of their units."""
        size = job.params.rows_per_unit
        return {
            f"features/{first // size:06d}": Embed(first, min(size, images - first), inputs)
            for first in range(0, images, size)
        }

    def _choice(
        self,
        job: Job[CoresetParams],
        chunk: Chunk,
        embeds: dict[str, Embed],
        sizes: Sequence[int],
        inputs: dict[str, str],
    ) -> Choose | Tile | Cut:
        params, method = job.params, job.item
        image = params.image.model_dump(mode="json")
        if method == "rded":
            return Cut(chunk, asdict(params.rded), image, params.caption, inputs)
        start, stop = sum(sizes[: chunk.first]), sum(sizes[: chunk.first + chunk.count])
        blocks = tuple(
            Block(name, embed.first, embed.count, embed.digest)
            for name, embed in embeds.items()
            if embed.first < stop and start < embed.first + embed.count
        )
        levels: tuple[int, ...] = ()
        if method.startswith("medoids"):
            levels = tuple(sorted({level for level in params.medoids.levels if level < params.ipc} | {params.ipc}))
        if method not in TILED:
            return Choose(cast(Whole, method), chunk, levels, blocks, params.caption, inputs)
        factor, _ = params.tiling(method)
        of_tiles = tuple(level * factor**2 for level in levels)
        return Tile(cast(Tiled, method), chunk, factor, of_tiles, blocks, image, params.caption, inputs)

    def check(self, job: Job[CoresetParams]) -> None:
        """Raise `UserError` for images that cannot be cut into tiles, a teacher of other classes or of images of another size, and a
        CLIP that is not there."""
        train = open_part(job, "split", "train")
        if job.item in TILED and (side := common_side([train])) % job.params.tiles:
            raise UserError(
                f"coreset.tiles {job.params.tiles} does not divide the {side} px of the images of {train.storage.url}; choose a "
                "number that does"
            )
        asked = job.params.asks(job.item)
        if asked == "generator":
            generator_model(job, "clip")
        if asked != "squeeze":
            return
        teacher = load_teacher(job, torch_device(job))
        require_classes(train.classes, teacher.classes, train.storage.url)
        if job.item == "rded" and teacher.image_size % job.params.rded.factor:
            raise UserError(
                f"coreset.rded.factor {job.params.rded.factor} does not divide the {teacher.image_size} px of the teacher's images; "
                "choose one that does"
            )
        if job.item != "rded" and (side := common_side([train])) != teacher.image_size:
            raise UserError(
                f"the images of {train.storage.url} have {side} px, and the teacher of {finished(job, 'squeeze').storage.url} takes "
                f"{teacher.image_size} ({TEACHER_FILE}); train it on these: limbeck run squeeze"
            )

    def open(self, job: Job[CoresetParams]) -> Any:
        from pipelines.stages.coreset.worker import Chooser

        return Chooser(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[CoresetParams]) -> None:
        getattr(worker, unit.kind)(PAYLOADS[unit.kind].from_json(unit.payload), output)

    def subject(self, unit: Unit, job: Job[CoresetParams]) -> str:
        embedding = "the CLIP of generator" if job.params.asks(job.item) == "generator" else "the teacher of squeeze"
        return {"embed": embedding, "cut": "coreset.rded"}.get(unit.kind, job.name)

    def finish(self, job: Job[CoresetParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        count = job.params.sets_of(job.item)
        sets = f" of each of {count} sets" if count > 1 else ""
        made = {
            "random": "random real images",
            "rded": "crops that a teacher is surest of",
            "random_tiles": f"{job.params.tiles} x {job.params.tiles} random real images in one",
            "medoids_tiles": f"{job.params.tiles} x {job.params.tiles} real images in one, by medoids",
        }.get(job.item, f"real images, by {job.item}")
        extra = {"name": f"coreset_{job.item}", "description": f"{made}, {plan.facts['ipc']} per class{sets}"}
        return publish_datasets(job.output, markers, plan.facts["classes"], extra)
