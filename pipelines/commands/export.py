"""`limbeck export`: a dataset's images as plain files in class folders, stored tiles as the images that they stand for.

A folder begins as an export with `export.json`, which names the dataset, and is whole with `images.csv`, which is written last. Files
appear under their names when they are complete, so that a command which was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.artifacts.datasets import dataset_digest
from pipelines.commands.info import place_of
from pipelines.commands.samples import file_name
from pipelines.errors import UserError
from pipelines.images.encode import encode
from pipelines.images.params import ImageParams
from pipelines.images.process import decode_rgb
from pipelines.loaders.arrays import ImageArrays
from pipelines.loaders.tiles import decoded_tiles
from pipelines.outcomes import Outcome
from pipelines.runtime.ownership import described, is_litter
from pipelines.runtime.progress import ProgressView
from pipelines.shards.dataset import INDEX, Dataset
from pipelines.shards.sample import Sample
from pipelines.storage import Storage, csv_bytes, pretty_json

#: What says which dataset a folder is an export of, and what lists its images.
RECORD, LIST = "export.json", "images.csv"
COLUMNS = ("file", "key", "tile", "label", "label_name", "parents")
#: The folder of images that have no class.
NO_CLASS = "unlabelled"
_PNG = ImageParams(format="png")


def export_dataset(name: str, data: str, out: Path) -> str:
    """Write the images of a dataset into the folder `out`; returns the sentence that says what is there.

    Images are stored bytes as they are; those of tiles are decoded and PNG, `CLASS/KEY_0.png`, `CLASS/KEY_1.png` and so on.
    """
    dataset, folder = _dataset(name, data), Storage(out.expanduser())
    _require_free(folder, dataset)
    folder.write_bytes(RECORD, pretty_json(_record(dataset)))
    folder.sweep_temporary()
    present, total, rows = set(folder.list()), max(len(dataset), 1), list[dict[str, Any]]()
    with ProgressView("export", 1, 0) as progress:
        for place, sample in enumerate(dataset.samples()):
            for path, row, encoded in _files(dataset, sample, present):
                if encoded is not None:
                    _write(folder, path, encoded)
                rows.append(row)
            progress.tick("images", place + 1, total, f"{place + 1:,} of {total:,} samples")
    folder.write_bytes(LIST, csv_bytes(rows, COLUMNS))
    classes = len({row["label_name"] for row in rows})
    whole = "" if len(rows) == len(dataset) else f", decoded from {len(dataset):,} stored ones"
    return f"export: {len(rows):,} images{whole} in {classes:,} folders, listed in {LIST} -> {folder.url}"


def _dataset(name: str, data: str) -> Dataset:
    """The dataset of a name; `UserError` that names the parts where there are several."""
    root, stage = place_of(name, data)
    if root.exists(INDEX):
        return Dataset.open(root, stage or "STAGE")
    parts = [path.removesuffix(f"/{INDEX}") for path in root.list() if path.endswith(f"/{INDEX}")]
    if parts:
        named = ", ".join(f"{name.rstrip('/')}/{part}" for part in sorted(parts)[:6])
        raise UserError(f"{name} is no dataset of its own; name one of those in it: {named}")
    hint = f"run: limbeck run {stage.partition('/')[0]}" if stage else "is it a dataset folder? see limbeck info"
    raise UserError(f"no {INDEX} under {root.url}: unfinished or not a dataset; {hint}")


def _record(dataset: Dataset) -> dict[str, Any]:
    return {"dataset": dataset_digest(dataset), "samples": len(dataset)}


def _require_free(folder: Storage, dataset: Dataset) -> None:
    """Refuse a folder that holds something else than this export, or lies in the dataset."""
    source = dataset.storage
    if folder.is_local and source.is_local and folder.root.resolve().is_relative_to(source.root.resolve()):
        raise UserError(
            f"{folder.url} lies in the dataset {source.url}, whose files are Limbeck's; choose another folder"
        )
    present = [path for path in folder.list() if not is_litter(path)]
    if not present:
        return
    if RECORD not in present:
        raise UserError(
            f"{folder.url} holds {described(present)}, which no export wrote; choose a new or an empty folder"
        )
    try:
        record = json.loads(folder.read_bytes(RECORD))
    except ValueError:
        record = None
    if record != _record(dataset):
        raise UserError(
            f"{folder.url} holds an export of another dataset, or of {source.url} as it was before; choose a new folder, or remove it"
        )


def _files(dataset: Dataset, sample: Sample, present: set[str]) -> Iterator[tuple[str, dict[str, Any], bytes | None]]:
    """Path, row of the list and bytes of each file of a sample; None for bytes that are there."""
    row, image = sample.row, sample.image
    if image is None:
        return
    tiles = _tiles(row)
    head = f"{file_name(row['label_name'] or '') or NO_CLASS}/{sample.key}"
    told = {name: "" if row[name] is None else row[name] for name in ("label", "label_name")}
    told |= {"key": sample.key, "parents": " ".join(row["parents"] or ())}
    if tiles == 1:
        path = f"{head}.{image[0]}"
        yield path, {"file": path, "tile": "", **told}, None if path in present else image[1]
        return
    paths = [f"{head}_{tile}.png" for tile in range(tiles**2)]
    decoded = None if present.issuperset(paths) else _decoded(dataset, sample, image[1], tiles)
    for tile, path in enumerate(paths):
        encoded = None
        if decoded is not None and path not in present:
            encoded = encode(np.ascontiguousarray(decoded[tile].transpose(1, 2, 0)), "png", _PNG)
        yield path, {"file": path, "tile": tile, **told}, encoded


def _write(folder: Storage, path: str, encoded: bytes) -> None:
    """Write a whole file; what a kill leaves of it lies beside the folders of classes, where no reader of images looks."""
    temporary = folder.temp_file(path.rsplit("/", 1)[-1])
    try:
        temporary.write_bytes(encoded)
        folder.publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _tiles(row: dict[str, Any]) -> int:
    """Tiles to a side of a stored image; 1 where it is one image."""
    tiles = json.loads(row["params"] or "{}").get("tiles", 1)
    return tiles if isinstance(tiles, int) and tiles > 1 else 1


def _decoded(dataset: Dataset, sample: Sample, encoded: bytes, tiles: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The images (tiles^2, 3, H, W) uint8 of a stored one."""
    pixels, where = decode_rgb(encoded), f"sample {sample.key} of {dataset.storage.url}"
    if isinstance(pixels, Outcome):
        raise UserError(f"{where} does not decode ({pixels.reason}); try: limbeck lint")
    height, width = pixels.shape[:2]
    if height % tiles or width % tiles:
        raise UserError(
            f"{where} has {width}x{height} pixels, and its row says {tiles} x {tiles} tiles; try: limbeck lint"
        )
    stored = ImageArrays(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None], np.zeros(1, np.int64), [sample.key])
    return decoded_tiles(stored, tiles).images
