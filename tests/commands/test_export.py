"""`limbeck export`: images as plain files, tiles decoded, whole or gone on with; and the lines that decode tiles by hand."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipelines.commands.export import LIST, RECORD
from pipelines.images.made import synthetic_sample
from pipelines.images.params import ImageParams
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.loaders.tiles import decoded_tiles
from pipelines.shards.dataset import Dataset, publish
from pipelines.shards.sample import Sample
from pipelines.storage import Storage, canonical_json
from tests.commands.conftest import Limbeck
from tests.contract.folders import assert_same, tree
from tests.shards.builders import samples, write_dataset, write_shard

KEYS = ("set-c00000-s00000", "set-c00001-s00000")
CLASSES = ["coat", "T-shirt/top"]
FOLDERS = ["T-shirt_top-", "coat"]

_KILLED = """
import sys
from pathlib import Path
from pipelines.commands.export import export_dataset
from tests.contract.limbeck_toy import _die_before
_die_before(int(sys.argv[1]))
export_dataset(sys.argv[2], "data", Path(sys.argv[3]))
"""


def tiled(folder: Path) -> Path:
    """A dataset of two stored images of 2 x 2 tiles."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    stored = []
    for label, key in enumerate(KEYS):
        row = {"parents": [f"real{place}" for place in range(4)], "params": canonical_json({"tiles": 2}).decode()}
        one = synthetic_sample(key, noise[label], ImageParams(format="png"), (label, CLASSES[label]), row)
        stored.append(Sample(one.key, one.members, one.row | {"key": key, "outcome": "kept"}))
    storage = Storage(folder)
    publish(storage, [write_shard(storage, "set-000000", stored)], CLASSES, {"name": "set"})
    return folder


def listed(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / LIST).read_text().splitlines()))


def read_png(path: Path) -> np.ndarray[Any, Any]:
    pixels = cv2.imread(str(path))
    assert pixels is not None
    return pixels[:, :, ::-1].transpose(2, 0, 1)


def test_tiles_are_files_of_their_own_and_those_that_loaders_hand_out(limbeck: Limbeck, tmp_path: Path) -> None:
    dataset = Dataset.open(tiled(tmp_path / "set"))
    said = limbeck("export", str(tmp_path / "set"), str(tmp_path / "out"))
    assert (said.code, said.out.count("8 images, decoded from 2 stored ones in 2 folders, listed in images.csv")) == (
        0,
        1,
    )
    rows = listed(tmp_path / "out")
    assert [(row["key"], row["tile"]) for row in rows] == [(key, str(tile)) for key in KEYS for tile in range(4)]
    assert rows[5]["label"] == "1"
    assert rows[5]["label_name"] == "T-shirt/top"
    assert rows[5]["parents"] == "real0 real1 real2 real3"
    assert rows[0]["file"] == f"coat/{KEYS[0]}_0.png"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name.rstrip("0123456789abcdef") for name in names[:1]] == [FOLDERS[0]]  # no class name leads elsewhere
    assert names[1:] == [FOLDERS[1], RECORD, LIST]
    expected = decoded_tiles(load_arrays(dataset), 2).images
    assert np.array_equal(np.stack([read_png(tmp_path / "out" / row["file"]) for row in rows]), expected)


def test_whole_images_keep_their_bytes(limbeck: Limbeck, tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", shards=2, per_shard=4)
    assert limbeck("export", str(tmp_path / "set"), str(tmp_path / "out")).code == 0
    rows, stored = listed(tmp_path / "out"), samples(8)
    assert [row["key"] for row in rows] == [sample.key for sample in stored]
    for row, sample in zip(rows, stored, strict=True):
        ext, data = sample.image or ("", b"")
        assert row["file"] == f"{sample.row['label_name']}/{sample.key}.{ext}"
        assert (tmp_path / "out" / row["file"]).read_bytes() == data
        assert (row["tile"], row["parents"]) == ("", "")


@pytest.mark.parametrize("change", [2, 5, 11])
def test_killed_it_leaves_whole_files_only_and_goes_on_to_the_same(
    limbeck: Limbeck, tmp_path: Path, change: int
) -> None:
    """Before the first image, among them, and before the list."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert limbeck("export", str(tiled(tmp_path / "set")), str(whole)).code == 0
    words = [sys.executable, "-c", _KILLED, str(change), str(tmp_path / "set"), str(out)]
    ended = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not [path for path in out.rglob(".*") if path.parent != out]
    left = {path: data for path, data in tree(out).items() if not path.startswith(".tmp-")}
    assert LIST not in left
    assert {path: data for path, data in tree(whole).items() if path in left} == left
    assert limbeck("export", str(tmp_path / "set"), str(out)).code == 0
    assert_same(tree(out), tree(whole))
    assert not list(out.rglob(".*"))


def test_a_folder_of_something_else_is_refused_untouched(limbeck: Limbeck, tmp_path: Path) -> None:
    source, out = tiled(tmp_path / "set"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    said = limbeck("export", str(source), str(out))
    assert (said.code, sorted(path.name for path in out.iterdir())) == (2, ["thesis.tex"])
    assert "holds 1 file (thesis.tex), which no export wrote; choose a new or an empty folder" in said.err
    write_dataset(tmp_path / "other", shards=1, per_shard=2)
    assert limbeck("export", str(tmp_path / "other"), str(tmp_path / "of_other")).code == 0
    before = tree(tmp_path / "of_other")
    said = limbeck("export", str(source), str(tmp_path / "of_other"))
    assert "holds an export of another dataset" in said.err
    assert_same(tree(tmp_path / "of_other"), before)
    assert "lies in the dataset" in limbeck("export", str(source), str(source / "images")).err


def test_a_name_that_is_no_dataset_is_one_sentence(limbeck: Limbeck, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data/split/train", shards=1, per_shard=2)
    data = ["--data", str(tmp_path / "data")]
    assert "split is no dataset of its own; name one of those in it: split/train" in limbeck(
        "export", "split", str(tmp_path / "out"), *data
    ).err.replace("\n", " ")
    assert "run: limbeck run dm" in limbeck("export", "dm", str(tmp_path / "out"), *data).err
    assert not (tmp_path / "out").exists()
    assert limbeck("export", "split/train", str(tmp_path / "out"), *data).code == 0
    assert len(listed(tmp_path / "out")) == 2


def test_the_lines_of_the_manual_that_decode_tiles_give_the_images_that_loaders_give(repository: Path) -> None:
    (lines,) = re.findall(r"```python\n(s = .*?)```", (repository / "docs/format.md").read_text(), re.S)
    assert len(lines.strip().splitlines()) == 3
    stored = np.random.default_rng(1).integers(0, 256, (3, 12, 12), dtype=np.uint8)
    for f in (2, 3):
        place: dict[str, Any] = {"torch": torch, "image": torch.from_numpy(stored).float(), "f": f}
        exec(lines, place)  # as a reader would type them
        theirs = place["images"].round().clamp(0, 255).byte().numpy()
        ours = decoded_tiles(ImageArrays(stored[None], np.zeros(1, np.int64), ["k"]), f).images
        assert np.array_equal(theirs, ours)
