"""One sample of a dataset by number: its row, its bytes by offset, decoded pixels.

Samples are numbered through all shards in index order. No torch and no order here.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.images.params import ImageLimits
from pipelines.images.process import decode_rgb
from pipelines.outcomes import Outcome, failed
from pipelines.shards.dataset import Dataset
from pipelines.shards.sample import IMAGE_EXTENSIONS, MEMBER_RANK, MemberSpan
from pipelines.shards.walker import TarDamage

_READERS = 8
#: Members that can be asked for beside the image.
MEMBERS = tuple(ext for ext in MEMBER_RANK if ext not in IMAGE_EXTENSIONS)


@dataclass(frozen=True)
class _Rows:
    """Rows of the kept samples of a shard: keys, labels (-1 where there is none) and where each image lies."""

    keys: pa.Array
    labels: np.ndarray[Any, np.dtype[np.int64]]
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    sizes: np.ndarray[Any, np.dtype[np.int64]]  # -1 where the sample has no image
    sums: np.ndarray[Any, np.dtype[np.uint64]]  # XXH3 of the image
    members: pa.Array | None  # only where other members are asked for


class BadSampleError(UserError):
    """A sample that cannot be read: names its key, its shard and the command to look at it."""


class SampleReader:
    """Samples of `dataset` by number, as dicts: `key` str, `label` int (-1: none), `image` uint8 (H, W, 3) RGB, and one
    entry for each extension in `members`: `json` parsed, `cls` int, `txt` str, `npy` and `npz` arrays.

    Without `decode`, `image` is the encoded bytes as they were written, checked like any other member and not looked into.
    `keep` bounds the shards whose rows stay in memory; None reads all rows now (about 60 bytes a sample).
    """

    def __init__(
        self,
        dataset: Dataset,
        members: Sequence[str] = (),
        limits: ImageLimits | None = None,
        keep: int | None = None,
        decode: bool = True,
    ) -> None:
        unknown = [ext for ext in members if ext not in MEMBERS]
        if unknown:
            raise UserError(f"a sample has no member {unknown[0]!r}; choose from {', '.join(MEMBERS)}")
        if limits is not None and not decode:
            raise UserError("limits are for pictures that are decoded; leave them out with decode=False")
        if not len(dataset):
            raise UserError(f"{dataset.storage.url} holds no kept samples")
        self.dataset = dataset
        self.sizes = [shard.samples for shard in dataset.shards]
        self._firsts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._members, self._limits, self._keep = tuple(members), limits, keep
        self._decode = decode
        self._rows: OrderedDict[int, _Rows] = OrderedDict()
        self._lock = Lock()
        if keep is None:
            with ThreadPoolExecutor(_READERS) as pool:
                self._rows.update(enumerate(pool.map(self._read_rows, range(len(self.sizes)))))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Labels of all samples in index order, int64 (N,), -1 where there is none. Reads every sidecar."""
        return np.concatenate([self._rows_of(shard).labels for shard in range(len(self.sizes))])

    def read(self, number: int) -> dict[str, Any]:
        """One sample; safe from many threads.

        Raises `BadSampleError` when the bytes are not those that were written, when the image is to be decoded and does not
        within the limits, or when a member is missing or broken. Errors of the machine or the network are others and are not to be skipped.
        """
        shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
        rows, row = self._rows_of(shard), number - int(self._firsts[shard])
        key = rows.keys[row].as_py()
        try:
            sample = self._fetch(shard, rows, row)
        except TarDamage as damage:
            raise BadSampleError(self.dataset.damaged(shard, key, damage.reason)) from None
        if isinstance(sample, Outcome):
            detail = f": {sample.detail}" if sample.detail else ""
            problem = (
                f"sample {key} in {self.dataset.storage.url}/{self.dataset.shards[shard].path} cannot be read "
                f"({sample.reason}{detail}); look at it with: limbeck show {key}"
            )
            raise UserError(problem) if sample.error_class == "transient" else BadSampleError(problem)
        return {"key": key, "label": int(rows.labels[row]), **sample}

    def _fetch(self, shard: int, rows: _Rows, row: int) -> dict[str, Any] | Outcome:
        if rows.sizes[row] < 0:
            return failed("no_image")
        image_span = MemberSpan("image", int(rows.offsets[row]), int(rows.sizes[row]), int(rows.sums[row]))
        spans: list[MemberSpan] = []
        if rows.members is not None:
            found = {span["ext"]: MemberSpan(**span) for span in rows.members[row].as_py() or ()}
            missing = [ext for ext in self._members if ext not in found]
            if missing:
                return failed("missing_member", detail=f"it has no .{missing[0]}")
            spans = [found[ext] for ext in self._members]
        others = self.dataset.reader(shard).read([image_span, *spans])
        raw = others.pop("image")
        image = decode_rgb(raw, self._limits) if self._decode else raw
        if isinstance(image, Outcome):
            return image
        try:
            return {"image": image} | {ext: _member(ext, data) for ext, data in others.items()}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:  # the first is json's, utf-8's and numpy's too
            return failed("broken_member", detail=str(error))

    def _rows_of(self, shard: int) -> _Rows:
        with self._lock:
            rows = self._rows.get(shard)
            if rows is not None:
                self._rows.move_to_end(shard)
                return rows
        rows = self._read_rows(shard)
        with self._lock:
            self._rows[shard] = rows
            while self._keep is not None and len(self._rows) > self._keep:
                self._rows.popitem(last=False)
        return rows

    def _read_rows(self, shard: int) -> _Rows:
        entry = self.dataset.shards[shard]
        table = self.dataset.sidecar(shard, ["key", "outcome", "label", "members"])
        table = table.filter(pc.equal(table["outcome"], "kept")).combine_chunks()
        if len(table) != entry.samples:
            raise UserError(
                f"{self.dataset.storage.url}/{entry.sidecar} has {len(table)} kept samples, the index says "
                f"{entry.samples}; try: limbeck lint {self.dataset.storage.url}"
            )
        members = pa.chunked_array(table["members"]).combine_chunks()
        spans = members.flatten()
        counts = pc.fill_null(pc.list_value_length(members), 0).to_numpy()
        # By contract the image, where there is one, is a sample's first member.
        first = np.cumsum(counts) - counts
        has_image = counts > 0
        image_like = pc.is_in(spans.field("ext"), pa.array(IMAGE_EXTENSIONS)).to_numpy(zero_copy_only=False)
        has_image[has_image] = image_like[first[has_image]]
        offsets, sizes = np.zeros(len(table), np.int64), np.full(len(table), -1, np.int64)
        sums = np.zeros(len(table), np.uint64)
        offsets[has_image] = spans.field("offset").to_numpy()[first[has_image]]
        sizes[has_image] = spans.field("size").to_numpy()[first[has_image]]
        sums[has_image] = spans.field("xxh3").to_numpy()[first[has_image]]
        labels = pc.fill_null(table["label"], -1).to_numpy().astype(np.int64)
        keys = pa.chunked_array(table["key"]).combine_chunks()
        return _Rows(keys, labels, offsets, sizes, sums, members if self._members else None)


def _member(ext: str, data: bytes) -> Any:
    if ext == "json":
        return json.loads(data)
    if ext == "cls":
        return int(data)
    if ext == "txt":
        return data.decode()
    stored = np.load(io.BytesIO(data), allow_pickle=False)
    return dict(stored) if ext == "npz" else stored
