"""Soft labels as Arrow files: one table per block of epochs, one row per view, in the order the views are trained on.

Columns: `key`, `epoch`, `crop` (top, left, height, width in pixels), `flip`, `partner` (key of the image mixed in), `mix_box`
(x1, y1, x2, y2 of its patch), `share` (the image's own weight in mixup) and the logits in one of the forms of
`distill.compression`. Local files are memory mapped. Nothing in a file depends on time or machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.storage import Storage, canonical_json

if TYPE_CHECKING:
    import torch

    from distill.compression import LabelFormat, Packed
    from distill.views import Views

Epoch = tuple[int, "Views", "Packed"]


def write_soft_labels(path: Path, epochs: Iterable[Epoch], keys: Sequence[str], facts: Mapping[str, Any]) -> int:
    """Write a block; `keys[i]` is the key of image i of the set that the views index. Returns the bytes of the file."""
    names = pa.array(keys, pa.string())
    tables = [_table(epoch, views, packed, names) for epoch, views, packed in epochs]
    metadata = {b"limbeck": canonical_json(dict(facts))}
    schema = tables[0].schema.with_metadata(metadata)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(metadata))
    return path.stat().st_size


def read_soft_labels(
    storage: Storage, paths: Sequence[str], keys: Sequence[str]
) -> dict[int, tuple[Views, torch.Tensor]]:
    """All epochs of the files `paths`: views that index `keys`, and float32 logits. `UserError` if the keys differ."""
    place = {key: index for index, key in enumerate(keys)}
    epochs: dict[int, tuple[Views, torch.Tensor]] = {}
    for path in paths:
        local = storage.local_path(path)
        source = pa.memory_map(str(local)) if local is not None else pa.BufferReader(storage.read_bytes(path))
        with source, pa.ipc.open_file(source) as reader:
            facts = json.loads(reader.schema.metadata[b"limbeck"])
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                try:
                    epochs[batch["epoch"][0].as_py()] = _views(batch, place, facts)
                except KeyError as error:
                    raise UserError(
                        f"{storage.url}/{path} has labels for sample {error}, which is not in the set; run relabel again"
                    ) from None
    return epochs


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


def _views(batch: pa.RecordBatch, place: Mapping[str, int], facts: Mapping[str, Any]) -> tuple[Views, torch.Tensor]:
    import torch

    from distill.compression import Packed, unpack
    from distill.views import Views

    def column(name: str) -> torch.Tensor:
        array = batch[name]
        flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
        values = flat.to_numpy(zero_copy_only=False)
        return torch.from_numpy(values.reshape(batch.num_rows, -1).copy())

    def places(name: str) -> torch.Tensor:
        return torch.tensor([place[key] for key in batch[name].to_pylist()])

    form: LabelFormat = facts["format"]
    packed = Packed(
        form,
        facts["classes"],
        column("logits"),
        indices=column("classes") if form == "top_k" else None,
        scale=column("scale") if form == "int8" else None,
        rest=column("rest")[:, 0] if form == "top_k" else None,
    )
    views = Views(
        places("key"),
        column("crop"),
        column("flip")[:, 0],
        places("partner"),
        column("mix_box").long(),
        column("share")[:, 0],
    )
    return views, unpack(packed)
