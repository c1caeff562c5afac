"""A published dataset is read by trainers that know nothing of Limbeck."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import webdataset
from torch.utils.data import DataLoader

from tests.loaders.making import COUNT, write_dataset


def test_the_readmes_lines_read_a_split(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data/split/train")
    block = next(part for part in re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL))
    read: list[tuple[Any, int]] = []
    monkeypatch.chdir(tmp_path)
    assert "import glob, webdataset" in block
    exec(block.replace("...", "read.append((image, label))"), {"read": read})
    assert [label for _, label in read] == [number % 3 for number in range(COUNT)]
    assert [image.getpixel((0, 0))[0] for image, _ in read] == [4 * number for number in range(COUNT)]


def test_open_clip_finds_the_size_and_the_pairs(tmp_path: Path) -> None:
    """Its own steps: sizes.json beside the shards, images under any of four names, a text from the json."""
    write_dataset(tmp_path)
    shards = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    sizes = json.loads((Path(shards[0]).parent / "sizes.json").read_text())
    assert sum(int(sizes[Path(shard).name]) for shard in shards) == COUNT
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(shards),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="json"),
        webdataset.to_tuple("image", "text"),
    )
    assert [text["n"] for _, text in pipeline] == list(range(COUNT))


def test_webdataset_in_two_workers_sees_every_sample_once(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    shards = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("cls", "__key__")
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert len({key for _, key in loader}) == COUNT
