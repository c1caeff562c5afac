"""Few real images are different ones: no picture twice, and none under two labels, however many keys it has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipelines.artifacts.distilled import keys_by_class, random_real, shuffled_keys
from pipelines.artifacts.distinct import distinct_places
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.shards.dataset import Dataset
from pipelines.stages.split.params import SplitParams
from pipelines.stages.split.stage import few_shot

ORDERS = ("hash", "natural", "disef")


def manifest(rows: Sequence[tuple[str, int, str, str]], order: str, shots: int = 16) -> dict[str, list[str]]:
    """Of (key, label, picture, decision): the keys of seed 1 by class."""
    keys, labels, pictures, decisions = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({"key": keys, "label": labels, "source": keys, "pixel_sha256": pictures, "decision": decisions})
    params = SplitParams(few_shot=(shots,), few_shot_seeds=(1,), few_shot_order=order)  # type: ignore[arg-type]
    found: dict[str, list[str]] = few_shot(table, params, 0)["seeds"]["1"]
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_shots_show_different_pictures(order: str) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"k{i:03d}", i % 2, "same" if i % 2 == 0 and rng.random() < 0.5 else f"p{i}", "train") for i in range(100)]
    picture = {key: shown for key, _, shown, _ in rows}
    for keys in manifest(rows, order).values():
        assert len({picture[key] for key in keys}) == len(keys) == 16


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("elsewhere", ["train", "test", "long_tail"])
def test_a_picture_of_two_labels_is_no_shot(order: str, elsewhere: str) -> None:
    rows = [(f"k{i}", i % 2, f"p{i}", "train") for i in range(8)]
    rows += [("a", 0, "both", "train"), ("b", 1, "both", elsewhere)]
    chosen = [key for keys in manifest(rows, order).values() for key in keys]
    assert not {"a", "b"} & set(chosen)
    assert len(chosen) == 8


def test_the_first_in_natural_order_stands_for_its_picture() -> None:
    rows = [("img_10", 0, "same", "train"), ("img_2", 0, "same", "train"), ("img_3", 0, "other", "train")]
    assert manifest(rows, "natural")["0"] == ["img_2", "img_3"]


def test_a_class_of_one_picture_has_one_shot() -> None:
    rows = [(f"k{i}", 0, "same", "train") for i in range(9)]
    assert [len(manifest(rows, order)["0"]) for order in ORDERS] == [1, 1, 1]


def test_samples_without_a_hash_are_pictures_of_their_own() -> None:
    assert distinct_places([0, 0, None, 1, 1, 0], [None, None, "a", "b", "b", "c"]) == [0, 1, 3, 5]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of 12 files for each of two classes: nine show one picture, and one picture is in both classes."""
    root = tmp_path_factory.mktemp("same")
    rng = np.random.default_rng(1)
    both = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    for label, name in enumerate(("left", "right")):
        folder = root / "source" / name
        folder.mkdir(parents=True)
        same = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        for place in range(12):
            pixels = same if place < 8 else both if place == 8 else rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            cv2.imwrite(
                str(folder / f"{place}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, place if label else 9 - place % 10]
            )
    sources = f"{{type: folder, path: {root}/source}}"
    (root / "params.yaml").write_text(
        f"ingest:\n  sources: [{sources}]\n  image: {{format: keep}}\nsplit: {{validation: 0, few_shot: [4]}}\n"
    )
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, root / "params.yaml", data=str(root / "data")), "serial", debug=True)
    return root / "data"


def shown(dataset: Dataset) -> dict[str, Any]:
    rows = dataset.rows(["key", "pixel_sha256"])
    return dict(zip(rows["key"].to_pylist(), rows["pixel_sha256"].to_pylist(), strict=True))


def test_random_arms_and_starts_of_recovery_show_different_pictures(data: Path) -> None:
    train = Dataset.open(data / "split/train")
    picture = shown(train)
    for keys in (*keys_by_class(train), *shuffled_keys(train, 3)):
        assert len({picture[key] for key in keys}) == len(keys) == 4
    both = set.intersection(*({picture[key] for key in keys} for keys in keys_by_class(train)))
    assert both == set()
    drawn = random_real(train, 4, run_seed=0, draw=1)
    assert len({picture[key] for key in drawn.keys}) == 8
    few = json.loads((data / "split/few_shot.json").read_text())["seeds"]["0"]
    assert all(len({picture[key] for key in keys}) == 4 for keys in few.values())
