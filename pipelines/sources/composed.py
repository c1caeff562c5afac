"""Scenes composed from the images of another source: pictures with captions, descriptions and exact boxes, by number.

Which images a scene shows follows from its number and from the set of the base's images, not from their order: they are
told apart by the hash of their bytes. A scene's bytes are binary PPM, so no encoder's release matters.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

from pipelines.errors import UserError
from pipelines.images.params import ImageLimits
from pipelines.images.process import decode_rgb
from pipelines.outcomes import Outcome
from pipelines.redaction import redacted
from pipelines.shards.keys import content_key
from pipelines.sources.base import Record, Source, digest
from pipelines.sources.composing.cutouts import Cutout, cut
from pipelines.sources.composing.draws import Draws
from pipelines.sources.composing.scene import Choice, Placed, Scene, base_scene, target_scene
from pipelines.sources.composing.words import noun_of
from pipelines.sources.params import ComposedParams
from pipelines.storage import canonical_json

log = logging.getLogger(__name__)

#: Images of a class that are tried before the base is said to be unfit.
_TRIES = 16
#: Cut-outs kept in memory; one of a 28 px image takes 0.2 MB.
_KEPT = 64


class ComposedSource:
    """See `ComposedParams`. In a `Record`, `row` is the scene's number; `parents` are keys of base images."""

    def __init__(self, params: ComposedParams, base: Source) -> None:
        self._params = params
        self._base = base
        self._names = base.classes()
        self._unusable = 0
        self._pools: dict[str, list[Record]] | None = None
        self._cutouts: OrderedDict[bytes, Cutout | None] = OrderedDict()
        self._lock = threading.Lock()
        if not self._names:  # text labels are names that only the records state
            self._pools = self._scanned()
        if unknown := sorted(set(params.nouns) - set(self._names)):
            raise UserError(f"nouns names {unknown[0]!r}, which is no class; there is {', '.join(self._names)}")

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Scenes by number."""
        params = self._params
        pools = self._by_class()
        split = params.split or next(iter(pools.values()))[0].split
        single = params.domain == "target" or params.items[1] == 1
        for index in range(params.first, params.first + params.scenes):
            scene = self.scene(index)
            length, sha256 = digest(_ppm(scene))
            name = scene.items[0].choice.label if single else None
            yield Record(
                source=f"composed:{params.domain}/{params.seed}/{index:07d}",
                file="",
                offset=0,
                length=length,
                row=index,
                label=None if name is None else self._names.index(name),
                label_name=name,
                split=split,
                caption=scene.caption,
                sha256=sha256,
                document=canonical_json(self._document(scene, index)).decode(),
                parents=tuple(item.choice.key for item in scene.items),
            )

    def read(self, record: Record) -> bytes:
        return _ppm(self.scene(record.row))

    def classes(self) -> list[str]:
        return list(self._names)

    def passed_over(self) -> Counter[str]:
        """Images of the base that no scene can show; each was said to be bad by the base."""
        return +Counter(unusable_base=self._unusable)

    def scene(self, index: int) -> Scene:
        """The scene of this number, painted anew."""
        params = self._params
        draws = Draws("composed", params.seed, params.domain, index)
        if params.domain == "target":
            return target_scene(draws, self._choose, params.size)
        return base_scene(draws, self._choose, params.size, params.items, params.overlap)

    def _choose(self, draws: Draws) -> Choice:
        """Any class alike, then any of its images alike."""
        pools = self._by_class()
        name = draws.choice("class", list(pools))
        for trial in range(_TRIES):
            record = draws.choice(f"image{trial}", pools[name])
            cutout = self._cutout(record)
            if cutout is not None:
                assert record.sha256 is not None
                return Choice(name, self._params.nouns.get(name, noun_of(name)), content_key(record.sha256), cutout)
        raise UserError(
            f"no outline in {_TRIES} images of {name!r} at {redacted(self._params.path)}; the base needs plain grounds"
        )

    def _cutout(self, record: Record) -> Cutout | None:
        assert record.sha256 is not None  # a record without bytes is in no pool
        with self._lock:
            if record.sha256 in self._cutouts:
                self._cutouts.move_to_end(record.sha256)
                return self._cutouts[record.sha256]
        pixels = decode_rgb(self._base.read(record), ImageLimits())
        cutout = None if isinstance(pixels, Outcome) else cut(pixels)
        with self._lock:
            self._cutouts[record.sha256] = cutout
            while len(self._cutouts) > _KEPT:
                self._cutouts.popitem(last=False)
        return cutout

    def _by_class(self) -> dict[str, list[Record]]:
        """The base's images by class, in the order of their hashes; of equal ones the first. Scanned once per process."""
        with self._lock:
            if self._pools is None:
                self._pools = self._scanned()
            return self._pools

    def _scanned(self) -> dict[str, list[Record]]:
        by_class: dict[str, dict[bytes, Record]] = {name: {} for name in self._names}
        splits: set[str | None] = set()
        self._unusable = numbers = 0
        for record in self._base.scan():
            if record.problem is not None or record.sha256 is None:
                self._unusable += 1
            elif record.label_name is not None:
                by_class.setdefault(record.label_name, {}).setdefault(record.sha256, record)
                splits.add(record.split)
            else:
                numbers += record.label is not None
        if not by_class or numbers:
            raise UserError(
                f"the base at {redacted(self._params.path)} has no class names; give them in `base.classes`"
            )
        self._names += sorted(set(by_class).difference(self._names))
        if self._unusable:
            log.warning("%s: %d images of the base cannot be used", redacted(self._params.path), self._unusable)
        if len(splits) > 1:
            names = ", ".join(sorted(str(split) for split in splits))
            raise UserError(
                f"the base at {redacted(self._params.path)} has the splits {names}; compose from one, by `base.split`"
            )
        pools = {name: [pool[key] for key in sorted(pool)] for name, pool in by_class.items() if pool}
        if not pools:
            raise UserError(f"the base at {redacted(self._params.path)} has no labelled images; name its labels")
        return pools

    def _document(self, scene: Scene, index: int) -> dict[str, Any]:
        facts = {"domain": self._params.domain, "seed": self._params.seed, "index": index}
        return {
            "annotations": [self._annotation(item) for item in scene.items],
            "description": scene.description,
            "composed": facts,
            "parents": [item.choice.key for item in scene.items],
        }

    def _annotation(self, item: Placed) -> dict[str, Any]:
        x1, y1, x2, y2 = item.box
        return {
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "category_id": self._names.index(item.choice.label) + 1,
            "category_name": item.choice.label,
            "phrase": f"{item.colour} {item.choice.noun}",
        }


def _ppm(scene: Scene) -> bytes:
    height, width = scene.pixels.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + scene.pixels.tobytes()
