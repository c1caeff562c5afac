"""What a worker of `augment` does: decode parents, apply a policy, encode views; and a view once more from its record.

Threads decode the next batch and encode the last one while this one is applied. A view follows from its parent's pixels and
its row alone, so batches are made for speed: pictures of one size together.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from augment.errors import PolicyError
from pipelines.images.annotations import Annotations, foreground, image_id_of, moved, read_annotations, unfit
from pipelines.images.colour import Pixels
from pipelines.images.made import encode_pixels
from pipelines.images.params import ImageParams
from pipelines.images.process import decode_rgb
from pipelines.images.words import words
from pipelines.outcomes import Outcome, failed
from pipelines.shards.dataset import Dataset
from pipelines.shards.keys import derived_key
from pipelines.shards.sample import IMAGE_EXTENSIONS, Sample
from pipelines.storage import canonical_json

if TYPE_CHECKING:
    import torch

    from augment.augmenter import Augmenter
    from pipelines.stages.augment.params import ViewSet

#: Parents in one batch; what a batch holds changes no view.
BATCH = 32
#: What a parent's `json` says that is not true of a view.
STALE = frozenset({"key", "width", "height", "src_width", "src_height", "file_name", "image_id", "annotations"})
#: Sidecar columns that a view has from its parent.
CARRIED = ("source", "split", "label", "label_name", "licence")

#: A view that was not made, and its sidecar row.
Lost = tuple[Outcome, dict[str, Any]]
Made = Sample | Lost


@dataclass(frozen=True, slots=True)
class Parent:
    """A sample to view: its row, its other members, its `json`, and its annotations when it has boxes."""

    row: Mapping[str, Any]
    members: Mapping[str, bytes]
    described: Mapping[str, Any]
    pixels: Pixels
    annotations: Annotations | None


@dataclass(frozen=True, slots=True)
class View:
    """One view: `draws` is what was done, as JSON; `annotations` COCO dicts, or None where the parent has none."""

    ordinal: int
    pixels: Pixels
    draws: Mapping[str, Any]
    annotations: Sequence[Mapping[str, Any]] | None = None


class ViewMaker:
    """Makes the views of one set. Kept open between units."""

    def __init__(self, params: ViewSet, dataset: Dataset, seed: int, device: torch.device, threads: int) -> None:
        from augment.augmenter import Augmenter

        self.params, self.dataset, self.seed, self.device, self.threads = params, dataset, seed, device, threads
        self._image = ImageParams(format=params.format, quality=params.quality)
        self._augmenter = Augmenter(
            params.policy,
            seed=seed,
            output="uint8",
            backend=params.backend,
            threads=threads,
            min_visible=params.min_visible,
            min_side=params.min_side,
        )

    def produce(self, rows: Sequence[Mapping[str, Any]], facts: Counter[str]) -> Iterator[Made]:
        """Every view of every row in order, as a sample or as its outcome and row; counts boxes into `facts`."""
        chunks = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        chunks.append([])  # what comes after the last
        with ThreadPoolExecutor(self.threads) as pool:
            coming: list[Future[Parent | Outcome]] = [pool.submit(self.load, row) for row in chunks[0]]
            going: list[Future[Sample] | Lost] = []
            for chunk, following in itertools.pairwise(chunks):
                parents = [future.result() for future in coming]
                coming = [pool.submit(self.load, row) for row in following]
                made = self.views(parents)
                yield from _finished(going)
                going = []
                for row, parent, views in zip(chunk, parents, made, strict=True):
                    if isinstance(parent, Parent):
                        _count(parent, views, facts)
                    for ordinal, view in enumerate(views):
                        key = derived_key(row["key"], self.params.tag, ordinal)
                        if isinstance(view, View) and isinstance(parent, Parent):
                            going.append(pool.submit(self.sample, parent, view, key))
                        elif isinstance(view, Outcome):
                            going.append((view, self._lost_row(row, key)))
            yield from _finished(going)

    def load(self, row: Mapping[str, Any]) -> Parent | Outcome:
        """Read and decode one sample; never raises on bad data."""
        try:
            members = self.dataset.read(self.dataset.place_of(row["shard"]), row["key"], row["members"])
        except OSError as error:
            return failed("unreadable", "transient", words(error))
        image = next((members.pop(ext) for ext in IMAGE_EXTENSIONS if ext in members), None)
        if image is None:
            return failed("no_image", detail="the sample has no jpg, png or webp")
        pixels = decode_rgb(image)
        if isinstance(pixels, Outcome):
            return pixels
        height, width = pixels.shape[:2]
        try:
            described = json.loads(members.get("json", b"{}"))
            if not isinstance(described, dict):
                raise ValueError(f"the json member holds {type(described).__name__}, not an object")
            annotations = annotations_of(self.params, described, pixels, row["label"], width, height)
        except (ValueError, RecursionError) as error:
            return failed("bad_annotations", detail=str(error))
        return Parent(row, members, described, pixels, annotations)

    def views(self, parents: Sequence[Parent | Outcome]) -> list[list[View | Outcome]]:
        """All views of each parent; those of a lost one are its outcome each time."""
        groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, parent in enumerate(parents):
            if isinstance(parent, Parent):
                groups[parent.pixels.shape].append(place)
        by_parent: list[list[View | Outcome]] = [
            [parent] * self.params.views if isinstance(parent, Outcome) else [] for parent in parents
        ]
        for places in groups.values():
            for ordinal in range(self.params.views):
                outcome = self._view(
                    [parent for place in places if isinstance(parent := parents[place], Parent)], ordinal
                )
                for place, view in zip(places, outcome, strict=True):
                    by_parent[place].append(view)
        return by_parent

    def _view(self, parents: Sequence[Parent], ordinal: int) -> Sequence[View | Outcome]:
        try:
            return self._apply(parents, ordinal)
        except PolicyError as error:
            if len(parents) == 1:
                return [failed("policy_refused", "policy", str(error))]
            # Whether the policy fits a picture must not depend on its company.
            return [view for parent in parents for view in self._view([parent], ordinal)]

    def _apply(self, parents: Sequence[Parent], ordinal: int) -> list[View | Outcome]:
        keys = [parent.row["key"] for parent in parents]
        size = parents[0].pixels.shape[:2]
        draws = self._augmenter.draw(keys, (size[0], size[1]), view=ordinal, progress=self.params.progress)
        none = np.zeros((0, 4))
        boxes = [none if parent.annotations is None else parent.annotations.boxes for parent in parents]
        anything = any(parent.annotations is not None for parent in parents)
        pixels, found, kept = applied(
            self._augmenter, [parent.pixels for parent in parents], draws, boxes if anything else None, self.device
        )
        views: list[View | Outcome] = []
        for place, parent in enumerate(parents):
            annotations = None
            if parent.annotations is not None:
                key = derived_key(keys[place], self.params.tag, ordinal)
                image_id = image_id_of(parent.described.get("image_id"), key, ordinal, self.params.views)
                annotations = moved(
                    parent.annotations, found[place], kept[place].tolist(), image_id, ordinal, self.params.views
                )
            views.append(View(ordinal, pixels[place], draws.row(place), annotations))
        return views

    def sample(self, parent: Parent, view: View, key: str) -> Sample:
        """The view as a sample of the contract."""
        image = encode_pixels(view.pixels, self._image)
        described = {name: value for name, value in parent.described.items() if name not in STALE}
        described |= {"key": key, "parent": parent.row["key"], "view": view.ordinal} | image.size
        if view.annotations is not None:
            image_id = image_id_of(parent.described.get("image_id"), key, view.ordinal, self.params.views)
            described |= {"file_name": f"{key}.{image.member[0]}", "image_id": image_id}
            described["annotations"] = list(view.annotations)
        row = {name: parent.row[name] for name in CARRIED} | self._record(parent.row, view.ordinal, view.draws)
        carried = [(name, parent.members[name]) for name in ("cls", "txt") if name in parent.members]
        return Sample(key, (image.member, ("json", canonical_json(described)), *carried), row | image.row)

    def _lost_row(self, row: Mapping[str, Any], key: str) -> dict[str, Any]:
        carried = {name: row[name] for name in CARRIED}
        return carried | {"key": key, "parents": [row["key"]], "op": "augment", "seed": self.seed}

    def _record(self, row: Mapping[str, Any], ordinal: int, draws: Mapping[str, Any]) -> dict[str, Any]:
        params = canonical_json({"view": ordinal, "draws": draws}).decode()
        return {"parents": [row["key"]], "op": "augment", "params": params, "seed": self.seed}


def annotations_of(
    params: ViewSet, described: Mapping[str, Any], pixels: Pixels, label: int | None, width: int, height: int
) -> Annotations | None:
    """The boxes a set takes along with a parent; ValueError when its annotations are damaged."""
    if params.boxes == "foreground":
        return foreground(pixels, params.threshold, label)
    if params.boxes == "drop" or "annotations" not in described:
        return None
    return read_annotations(described["annotations"], width, height)


def applied(
    augmenter: Augmenter, pixels: Sequence[Pixels], draws: Any, boxes: Sequence[Any] | None, device: torch.device
) -> tuple[list[Pixels], list[Any], list[Any]]:
    """Views of equally large pictures by recorded draws, and their boxes with their places among those given."""
    import torch

    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device)
    augmented = augmenter.replay(images, draws, boxes=boxes)
    views = augmented.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(views), augmented.boxes or [], augmented.kept or []


def remake(params: ViewSet, row: Mapping[str, Any], parent: Pixels, device: torch.device) -> Pixels:
    """The pixels of a view once more, from its parent's pixels and its sidecar row: equal on the same kind of device."""
    from augment.augmenter import Augmenter
    from augment.draws import from_rows

    augmenter = Augmenter(params.policy, output="uint8", backend=params.backend)
    size = (parent.shape[0], parent.shape[1])
    draws = from_rows(augmenter.policy, size, [json.loads(row["params"])["draws"]])
    return applied(augmenter, [parent], draws, None, device)[0][0]


def _finished(going: Sequence[Future[Sample] | Lost]) -> Iterator[Made]:
    for sample in going:
        yield sample.result() if isinstance(sample, Future) else sample


def _count(parent: Parent, views: Sequence[View | Outcome], facts: Counter[str]) -> None:
    if parent.annotations is None:
        return
    for reason, count in parent.annotations.left_out.items():
        facts[f"left_out:{reason}"] += count
    for name, count in unfit(parent.annotations.items).items():
        facts[f"removed:{name}"] += count
    for view in views:
        if isinstance(view, View) and view.annotations is not None:
            facts["annotations"] += len(view.annotations)
            facts["dropped"] += len(parent.annotations.items) - len(view.annotations)
