"""A small dataset whole in memory as one uint8 array: what the distillation stages train and recover from.

For sets that do not fit, use `pipelines.loaders.dataset`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.images.process import decode_rgb
from pipelines.outcomes import Outcome
from pipelines.shards.dataset import Dataset

if TYPE_CHECKING:
    import torch

#: Images that are counted at a time for the spread of their values.
_COUNTED = 64
#: Beyond this a whole set in memory is a mistake more often than a wish.
MAX_BYTES = 16 << 30


@dataclass(frozen=True)
class ImageArrays:
    """`images` (N, 3, H, W) uint8 RGB; `labels` (N,) int64; `keys` N sample keys; all in index order."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 3, H, W) uint8 and labels (N,) int64 on `device`."""
        import torch

        return torch.from_numpy(self.images).to(device), torch.from_numpy(self.labels).to(device)

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation (over all pixels, biased) of each channel, of images in [0, 1].

        Values are counted and the counts multiplied as whole numbers, so that no order of images or number of threads rounds otherwise.
        """
        means, spreads = [], []
        for channel in range(self.images.shape[1]):
            counts = np.zeros(256, np.int64)
            for start in range(0, len(self.images), _COUNTED):
                counts += np.bincount(self.images[start : start + _COUNTED, channel].ravel(), minlength=256)
            values = list(enumerate(counts.tolist()))
            pixels = sum(count for _, count in values)
            total = sum(value * count for value, count in values)
            squares = sum(value * value * count for value, count in values)
            means.append(total / (255 * pixels))
            spreads.append(math.sqrt((squares * pixels - total * total) / (255 * pixels) ** 2))
        return tuple(means), tuple(spreads)

    def take(self, places: Sequence[int] | np.ndarray[Any, Any]) -> ImageArrays:
        """The samples at `places`, in that order."""
        chosen = np.asarray(places, dtype=np.int64)
        return ImageArrays(self.images[chosen], self.labels[chosen], [self.keys[index] for index in chosen])


def load_arrays(
    dataset: Dataset,
    keys: Sequence[str] | None = None,
    threads: int = 2,
    fit: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None = None,
) -> ImageArrays:
    """Decode a dataset (or the samples named by `keys`, in that order) into memory.

    Images of several sizes go one by one through `fit`, (3, H, W) uint8 to (3, h, w) uint8; those of one size stay as they are.
    Raises `UserError` when a sample has no label, when sizes differ and there is no `fit`, or when the set is too large.
    """
    rows = _rows(dataset, keys)
    if rows["label"].null_count:
        raise UserError(
            f"{rows['label'].null_count} samples of {dataset.storage.url} have no label; training needs one"
        )
    sizes = set(zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True))
    decoded = _decoded(dataset, rows, threads)
    if len(sizes) > 1:
        if fit is None:
            raise UserError(
                f"{dataset.storage.url} holds images of {len(sizes)} sizes, such as {sorted(sizes)[:3]}; ingest them at one "
                f"size (ingest.image.resize: center_crop, exact or pad)"
            )
        decoded = map(fit, decoded)
        first = next(decoded)
        decoded, sizes = chain([first], decoded), {first.shape[1:]}
    height, width = sizes.pop()
    if rows.num_rows * height * width * 3 > MAX_BYTES:
        raise UserError(
            f"{dataset.storage.url} needs over {MAX_BYTES >> 30} GiB decoded; stages read sets that fit memory"
        )
    images = np.empty((rows.num_rows, 3, height, width), np.uint8)
    for place, image in enumerate(decoded):
        images[place] = image
    return ImageArrays(images, rows["label"].to_numpy().astype(np.int64), rows["key"].to_pylist())


def load_images(dataset: Dataset, keys: Sequence[str] | None = None, threads: int = 2) -> list[np.ndarray[Any, Any]]:
    """(3, H, W) uint8 RGB of the samples named by `keys`, in that order, each of its own size; all without `keys`."""
    return list(_decoded(dataset, _rows(dataset, keys), threads))


def _rows(dataset: Dataset, keys: Sequence[str] | None) -> pa.Table:
    """Sidecar rows of the samples, one at least."""
    rows = dataset.rows(["key", "label", "members", "width", "height"])
    if keys is not None:
        places = pc.index_in(pa.array(keys, pa.string()), rows["key"])
        if places.null_count:
            missing = keys[places.is_null().to_pylist().index(True)]
            raise UserError(f"sample {missing} is not in {dataset.storage.url}; run the stage that made the list again")
        rows = rows.take(places)
    if rows.num_rows == 0:
        raise UserError(f"{dataset.storage.url} holds no kept samples")
    return rows


def _decoded(dataset: Dataset, rows: pa.Table, threads: int) -> Iterator[np.ndarray[Any, Any]]:
    """The images of `rows` in order, (3, H, W) uint8."""
    spans = list(zip(*(rows[name].to_pylist() for name in ("shard", "key", "members")), strict=True))

    def decode(place: int) -> np.ndarray[Any, Any]:
        decoded = decode_rgb(dataset.read_image_bytes(*spans[place]))
        if isinstance(decoded, Outcome):
            key = rows["key"][place]
            raise UserError(
                f"sample {key} of {dataset.storage.url} does not decode ({decoded.reason}); try: limbeck lint"
            )
        return decoded.transpose(2, 0, 1)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(decode, range(rows.num_rows))
