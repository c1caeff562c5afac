"""Soft labels as Arrow files: one table per block of epochs, one row per view, in the order the views are trained on.

Columns: `key`, `epoch`, `crop` (top, left, height, width in pixels), `flip`, `partner` (key of the image mixed in), `mix_box`
(x1, y1, x2, y2 of its patch), `share` (the image's own weight in mixup) and the logits in one of the forms of
`distill.compression`. An epoch is one record batch, so any of them is read alone; local files are memory mapped, of remote
ones only the epoch asked for is fetched. Nothing in a file depends on time or machine. Any Arrow reader reads them too:
`pyarrow.ipc.open_file(path).read_all()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.storage import Storage, canonical_json

if TYPE_CHECKING:
    import torch

    from distill.compression import Packed
    from distill.views import Views

Epoch = tuple[int, "Views", "Packed"]
_FACTS = b"limbeck"


def write_soft_labels(path: Path, epochs: Iterable[Epoch], keys: Sequence[str], facts: Mapping[str, Any]) -> int:
    """Write a block, an epoch at a time; returns the bytes of the file.

    `keys[i]` is the key of image i of the set that the views index. `facts` holds at least `format` and `classes`.
    """
    names = pa.array(keys, pa.string())
    metadata = {_FACTS: canonical_json(dict(facts))}
    writer = None
    with pa.OSFile(str(path), "wb") as sink:
        for epoch, views, packed in epochs:
            table = _table(epoch, views, packed, names).replace_schema_metadata(metadata)
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
        assert writer is not None, "a block of no epochs"
        writer.close()
    return path.stat().st_size


class LabelFiles:
    """Stored labels by epoch as numpy arrays. Opening reads which epochs there are; no torch is needed.

    `keys` names the images that `image` and `partner` index, `facts` are those that were written, `epochs` is sorted.
    Raises `UserError` when a file is no label file, or when the files do not belong together.
    """

    def __init__(self, storage: Storage, paths: Sequence[str]) -> None:
        self.storage, self.paths = storage, tuple(paths)
        self._places: dict[int, tuple[pa.RecordBatchFileReader, int]] = {}
        keys: list[str] | None = None
        for path in paths:
            where = f"{storage.url}/{path}"
            try:
                reader = pa.ipc.open_file(_source(storage, path))
                facts = json.loads((reader.schema.metadata or {})[_FACTS])
            except FileNotFoundError as error:
                raise UserError(f"no soft labels at {where}; run relabel") from error
            except (pa.ArrowInvalid, KeyError, ValueError) as error:
                raise UserError(f"{where} is not a file of soft labels: {error}") from error
            mine = reader.get_batch(0)["key"].dictionary.to_pylist()
            if keys is None:
                keys, self.facts = mine, facts
            elif (keys, self.facts) != (mine, facts):
                raise UserError(f"{where} belongs to another set or teacher than {paths[0]}; run relabel again")
            for epoch, place in _epochs(storage, path, reader.num_record_batches):
                if epoch in self._places:
                    raise UserError(f"{where} has epoch {epoch}, which another file has too; run relabel again")
                self._places[epoch] = (reader, place)
        if keys is None:
            raise UserError(f"{storage.url} has no soft labels; run relabel")
        self.keys: list[str] = keys
        self.epochs = sorted(self._places)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.storage.size(path) for path in self.paths)

    def epoch(self, epoch: int) -> dict[str, np.ndarray[Any, Any]]:
        """One epoch of n views, in the order they are trained on.

        `image`, `partner` (n,) int32 places in `keys`; `crop` (n, 4) float32; `flip` (n,) bool; `mix_box` (n, 4) int16;
        `share` (n,) float32; `logits` as packed: (n, C) float16 or int8, or (n, k) float16; and as the format has them
        `scale` (n, 2) float32, `classes` (n, k) int16, `rest` (n,) float16. Arrays but `flip` are read-only views of the
        mapped file.
        """
        reader, place = self._places[epoch]
        batch = reader.get_batch(place)
        arrays = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_dictionary(column.type):
                arrays["image" if name == "key" else name] = column.indices.to_numpy()
            elif pa.types.is_fixed_size_list(column.type):
                arrays[name] = column.flatten().to_numpy().reshape(len(batch), column.type.list_size)
            elif name != "epoch":
                arrays[name] = column.to_numpy(zero_copy_only=False)
        return arrays


class StoredLabels(Mapping[int, "tuple[Views, torch.Tensor]"]):
    """`files` as the trainer takes them: by epoch, views that index `keys`, and logits (n, C) float32.

    Epochs are unpacked when they are asked for and one is kept, so labels may be larger than memory.
    """

    def __init__(self, files: LabelFiles, keys: Sequence[str]) -> None:
        place = {key: index for index, key in enumerate(keys)}
        missing = [key for key in files.keys if key not in place]
        if missing:
            raise UserError(
                f"{files.storage.url} has labels for sample {missing[0]}, which is not in the set; run relabel again"
            )
        self._files = files
        self._place = np.array([place[key] for key in files.keys], np.int64)
        self._kept: tuple[int, tuple[Views, torch.Tensor]] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What was written of all: `format`, `classes`, `teacher`."""
        return dict(self._files.facts)

    def __len__(self) -> int:
        return len(self._files.epochs)

    def __iter__(self) -> Iterator[int]:
        return iter(self._files.epochs)

    def __getitem__(self, epoch: int) -> tuple[Views, torch.Tensor]:
        if self._kept is None or self._kept[0] != epoch:
            self._kept = epoch, self._unpacked(epoch)
        return self._kept[1]

    def _unpacked(self, epoch: int) -> tuple[Views, torch.Tensor]:
        import torch

        from distill.compression import Packed, unpack
        from distill.views import Views

        # Copies, because torch has no read-only tensors.
        stored = {name: torch.from_numpy(values.copy()) for name, values in self._files.epoch(epoch).items()}
        place = torch.from_numpy(self._place)
        views = Views(
            place[stored["image"].long()],
            stored["crop"],
            stored["flip"],
            place[stored["partner"].long()],
            stored["mix_box"].long(),
            stored["share"],
        )
        facts = self._files.facts
        optional = (stored.get(name) for name in ("classes", "scale", "rest"))
        return views, unpack(Packed(facts["format"], facts["classes"], stored["logits"], *optional))


def read_soft_labels(storage: Storage, paths: Sequence[str], keys: Sequence[str]) -> StoredLabels:
    """The labels in the files `paths` for a set of images `keys`. `UserError` if they are not of this set."""
    return StoredLabels(LabelFiles(storage, paths), keys)


def _source(storage: Storage, path: str) -> Any:
    local = storage.local_path(path)
    return pa.memory_map(str(local)) if local is not None else pa.PythonFile(storage.open(path), mode="r")


def _epochs(storage: Storage, path: str, batches: int) -> Iterator[tuple[int, int]]:
    """(epoch, record batch) of a file; reads that one column."""
    with _source(storage, path) as source:
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[1]))
        for place in range(batches):
            yield reader.get_batch(place)["epoch"][0].as_py(), place


def _table(epoch: int, views: Views, packed: Packed, names: pa.Array) -> pa.Table:
    count = len(views)
    columns = {
        "key": _keys(views.order, names),
        "epoch": pa.array(np.full(count, epoch), pa.int32()),
        "crop": _fixed(views.box.numpy(), pa.float32()),
        "flip": pa.array(views.flip.numpy()),
        "partner": _keys(views.partner, names),
        "mix_box": _fixed(views.mix_box.numpy(), pa.int16()),
        "share": pa.array(views.share.numpy(), pa.float32()),
    }
    value_type = pa.int8() if packed.form == "int8" else pa.float16()
    columns["logits"] = _fixed(packed.values.cpu().numpy(), value_type)
    if packed.indices is not None and packed.rest is not None:
        columns["classes"] = _fixed(packed.indices.cpu().numpy(), pa.int16())
        columns["rest"] = pa.array(packed.rest.cpu().numpy(), pa.float16())
    if packed.scale is not None:
        columns["scale"] = _fixed(packed.scale.cpu().numpy(), pa.float32())
    return pa.table(columns).combine_chunks()


def _keys(places: torch.Tensor, names: pa.Array) -> pa.DictionaryArray:
    """Keys by reference: a file holds each key once."""
    return pa.DictionaryArray.from_arrays(pa.array(places.numpy(), pa.int32()), names)


def _fixed(values: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    flat = np.ascontiguousarray(values).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(kind.to_pandas_dtype()), kind), values.shape[1])
