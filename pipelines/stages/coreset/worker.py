"""The worker of `coreset`: computes features, chooses images, copies them or tiles them, cuts and tiles crops."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from distill.coresets.config import RdedConfig
from distill.coresets.herding import herd
from distill.coresets.medoids import nested_medoids
from distill.coresets.rded import key_patches, tile
from distill.features import head_inputs
from distill.matching.tiles import encode_tiles
from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.distilled import keys_by_class, set_name, shuffled_keys
from pipelines.artifacts.generators import generator_digest
from pipelines.artifacts.scoring import each, load_clip
from pipelines.artifacts.teacher import TEACHER_FILE, Teacher, load_teacher
from pipelines.errors import UserError
from pipelines.fields import caption_of
from pipelines.images.made import EncodedImage, encode_pixels, training_sample
from pipelines.images.params import ImageParams
from pipelines.loaders.arrays import load_arrays, load_images
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.shards.sample import IMAGE_EXTENSIONS, Sample
from pipelines.stages.coreset.params import WITHOUT_TEACHER, CoresetParams
from pipelines.stages.coreset.payloads import Block, Choose, Chunk, Cut, Embed, Tile
from pipelines.storage import canonical_json
from synth.quality.features import ClipFeatures, Features

#: Sidecar columns of an image that stay true of its copy: of its pixels, and beside them.
PIXELS = ("width", "height", "bytes", "pixel_sha256", "phash")
BESIDE = ("licence", "notes")


class Chooser:
    """What a worker keeps: the training set and its candidates, the teacher where a unit asks for it."""

    def __init__(self, job: Job[CoresetParams]) -> None:
        self._job, self._committed = job, Committed(job)
        self._train = open_part(job, "split", "train")
        self._candidates = keys_by_class(self._train)
        self._blocks: dict[str, np.ndarray[Any, Any]] = {}

    @cached_property
    def _teacher(self) -> Teacher:
        return load_teacher(self._job, torch_device(self._job))

    @cached_property
    def _network(self) -> str | None:
        """What the network is that the method asks, where it asks one: the teacher's architecture, or the digest of CLIP."""
        asked = self._job.params.asks(self._job.item)
        if asked == "generator":
            return generator_digest(self._job, "clip")
        return None if asked is None else finished(self._job, "squeeze").json(TEACHER_FILE).get("network")

    @cached_property
    def _clip(self) -> Features:
        model, _ = load_clip(self._job)
        return ClipFeatures(model.to(torch_device(self._job)))

    @cached_property
    def _rows(self) -> pa.Table:
        return self._train.rows(["key", "members", *PIXELS, *BESIDE])

    def embed(self, payload: Embed, output: UnitOutput) -> None:
        """Write the features of a block of candidates, (count, d) float32."""
        keys = [key for own in self._candidates for key in own][payload.first : payload.first + payload.count]
        if self._job.params.asks(self._job.item) == "generator":
            pixels = [torch.from_numpy(image).float() / 255 for image in load_images(self._train, keys)]
            features = each(self._clip, pixels, torch_device(self._job)).cpu()
            if not bool(features.isfinite().all()):
                raise UserError(
                    "CLIP's features of training images are not finite numbers; give generator another CLIP"
                )
        else:
            teacher, images = self._teacher, load_arrays(self._train, keys).images
            on_device = torch.from_numpy(images).to(torch_device(self._job))
            features = head_inputs(teacher.model, on_device, mean=teacher.mean, std=teacher.std)
        with output.file(features_file(output.unit.name)) as path, path.open("wb") as file:
            np.save(file, features.numpy())

    def choose(self, payload: Choose, output: UnitOutput) -> None:
        """Choose and copy the images of some classes of a set."""
        chunk = payload.chunk
        with output.shard() as shard:
            for label, keys in self._choices(payload, chunk.ipc, output):
                for slot, (key, row) in enumerate(zip(keys, self._rows_of(keys), strict=True)):
                    image = EncodedImage(self._stored(row), {name: row[name] for name in PIXELS})
                    beside = {name: row[name] for name in BESIDE}
                    shard.keep(self._sample(image, chunk, label, slot, [key], payload.caption, beside))

    def tile(self, payload: Tile, output: UnitOutput) -> None:
        """Choose images of some classes of a set, shrink them to tiles and store as many in one as fit, in the order of the choice."""
        chunk, factor, stored = payload.chunk, payload.factor, ImageParams.model_validate(payload.image)
        tiles = factor**2
        with output.shard() as shard:
            for label, keys in self._choices(payload, chunk.ipc * tiles, output):
                # Levels, not shares of 255: means of squares of them are exact, and so is what is rounded.
                levels = torch.from_numpy(load_arrays(self._train, keys).images).float()
                images = encode_tiles(levels, factor).round().byte().permute(0, 2, 3, 1).numpy()
                for slot, image in enumerate(images):
                    parents = keys[slot * tiles : (slot + 1) * tiles]
                    facts = {"tiles": factor}
                    encoded = encode_pixels(image, stored)
                    shard.keep(self._sample(encoded, chunk, label, slot, parents, payload.caption, {}, facts))

    def _choices(self, payload: Choose | Tile, count: int, output: UnitOutput) -> Iterator[tuple[int, list[str]]]:
        """The classes of a unit, and the keys of the `count` images that its method chooses of each."""
        chunk, method = payload.chunk, payload.method
        seed = self._job.seed(_of_set(chunk.number), "choice")
        drawn = shuffled_keys(self._train, seed) if method in WITHOUT_TEACHER else []
        for place, label in enumerate(chunk.labels):
            output.tick(place, chunk.count, self._train.classes[label])
            if drawn:
                yield label, drawn[label][:count]
                continue
            features = self._features(label, payload.features)
            chosen = (
                herd(features, count) if method == "herding" else nested_medoids(features, payload.levels, seed + label)
            )
            yield label, [self._candidates[label][one] for one in chosen.tolist()]

    def cut(self, payload: Cut, output: UnitOutput) -> None:
        """Cut, tile and encode the images of some classes of a set."""
        chunk, config, teacher = payload.chunk, RdedConfig(**payload.config), self._teacher
        of_set = _of_set(chunk.number)
        pools = shuffled_keys(self._train, self._job.seed(of_set, "choice"))
        tiles, stored = config.factor**2, ImageParams.model_validate(payload.image)
        with output.shard() as shard:
            for place, label in enumerate(chunk.labels):
                output.tick(place, chunk.count, self._train.classes[label])
                keys = pools[label][: config.images]
                patches = key_patches(
                    teacher.model,
                    [torch.from_numpy(image) for image in load_images(self._train, keys)],
                    label,
                    chunk.ipc * tiles,
                    config,
                    seeds=[self._job.seed(" ".join(filter(None, [of_set, key])), "crops") for key in keys],
                    mean=teacher.mean,
                    std=teacher.std,
                    image_size=teacher.image_size,
                )
                parents = [keys[one] for one in patches.places.tolist()]
                images = (tile(patches.pixels, config.factor) * 255).round().byte().permute(0, 2, 3, 1).numpy()
                for slot, image in enumerate(images):
                    own = slice(slot * tiles, (slot + 1) * tiles)
                    facts = {"crops": [list(box) for box in patches.boxes[own]]}
                    encoded = encode_pixels(image, stored)
                    shard.keep(self._sample(encoded, chunk, label, slot, parents[own], payload.caption, {}, facts))

    def _features(self, label: int, blocks: Sequence[Block]) -> torch.Tensor:
        """Those of all candidates of a class, (n, d) float32, from the blocks that hold some."""
        start = sum(len(keys) for keys in self._candidates[:label])
        stop = start + len(self._candidates[label])
        used = [block for block in blocks if block.first < stop and start < block.first + block.count]
        held = self._blocks  # classes come in order, so that no block is read twice
        self._blocks = {one.name: held[one.name] if one.name in held else self._read(one) for one in used}
        parts = [self._blocks[one.name][max(0, start - one.first) : stop - one.first] for one in used]
        return torch.from_numpy(np.concatenate(parts))

    def _read(self, block: Block) -> np.ndarray[Any, Any]:
        features: np.ndarray[Any, Any] = np.load(io.BytesIO(self._committed.read(features_file(block.name))))
        return features

    def _rows_of(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._rows.take(pc.index_in(pa.array(keys), self._rows["key"])).to_pylist()
        return rows

    def _stored(self, row: dict[str, Any]) -> tuple[str, bytes]:
        """Extension and bytes of a training image."""
        ((ext, data),) = self._train.read(row["shard"], row["key"], row["members"], IMAGE_EXTENSIONS).items()
        return ext, data

    def _sample(
        self,
        image: EncodedImage,
        chunk: Chunk,
        label: int,
        slot: int,
        parents: list[str],
        template: str | None,
        beside: dict[str, Any],
        facts: dict[str, Any] | None = None,
    ) -> Sample:
        """Make the sample of the image of a slot."""
        method, name, of_set = self._job.item, self._train.classes[label], _of_set(chunk.number)
        at = {"slot": slot} | ({"set": chunk.number} if chunk.number else {})
        row = beside | {
            "source": f"{of_set} slot {slot}".lstrip(),
            "parents": parents,
            "op": "coreset",
            "params": canonical_json(at | {"method": method} | (facts or {})).decode(),
            "model_id": self._network,
        }
        described = at | ({"parent": parents[0]} if len(parents) == 1 else {"parents": parents}) | (facts or {})
        caption = None if template is None else caption_of(template, name)
        key = slot_key(set_name(self._job.name, chunk.number), label, slot)
        return training_sample(key, image, (label, name), row, described, caption=caption)


def features_file(unit: str) -> str:
    """Where the features of a unit lie in an item's output."""
    return f"{unit}.npy"


def _of_set(number: int) -> str:
    """What seeds and people call a set: nothing where it is the first."""
    return f"set {number}" if number else ""
