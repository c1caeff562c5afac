"""What `ingest` was told to refuse is taste, not damage: what it kept is sound to lint, to loaders and to every later stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import RunParams
from pipelines.images.params import HARD_CAPS, ImageLimits
from pipelines.images.process import decode_rgb
from pipelines.loaders.arrays import load_images
from pipelines.loaders.dataset import MapDataset
from pipelines.loaders.stream import StreamDataset
from pipelines.outcomes import Outcome
from pipelines.report.pictures import picture_of
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.stages.augment.params import AugmentParams
from pipelines.stages.augment.stage import Augment
from pipelines.stages.split.params import SplitParams
from pipelines.stages.split.stage import Split
from tests.faults.making import lay, run_ingest

#: (height, width): lines of text, icons, a single pixel, and the longest side that PNG readers here take.
SIZES = [(16, 480), (480, 16), (4, 4), (1, 1), (1, 20_000)]


def picture(number: int, size: tuple[int, int], ending: str = ".png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.imencode(ending, pixels)[1].tobytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ingest` and `split` of odd sizes, with limits that allow them."""
    root = tmp_path_factory.mktemp("limits")
    files = {f"{'ab'[number % 2]}/{number}.png": picture(number, size) for number, size in enumerate(SIZES * 2)}
    source = {"type": "folder", "path": str(lay(root / "photos", files))}
    run_ingest(root / "data", source, image={"format": "png", "limits": {"max_aspect": 50_000, "min_side": 1}})
    split = SplitParams(strategy="random", validation=0, few_shot=(1,))
    execute(Split(), Job("split", split, RunParams(device="cpu"), str(root / "data")), SerialRunner)
    return root / "data"


def test_lint_decodes_what_was_kept(data: Path) -> None:
    result = CliRunner().invoke(app, ["lint", str(data)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: load_images(Dataset.open(folder)),
        lambda folder: [sample["image"] for sample in MapDataset(folder)],
        lambda folder: [s for batch in StreamDataset(folder, batch_size=3, collate=list) for s in batch],
        lambda folder: [
            picture_of(Dataset.open(folder), row, "x")
            for row in Dataset.open(folder).rows(["key", "members", "width", "height"]).to_pylist()
        ],
    ],
    ids=["load_images", "MapDataset", "StreamDataset", "report"],
)
def test_every_reader_hands_out_what_was_kept(data: Path, read: Callable[[Path], list[Any]]) -> None:
    found = read(data / "split/train")
    assert len(found) == len(SIZES) * 2
    assert all(one is not None for one in found)


def test_augment_views_what_was_kept(data: Path) -> None:
    params = AugmentParams.model_validate({"sets": {"flipped": {"policy": ["horizontal_flip"], "format": "png"}}})
    execute(Augment(), Job("augment", params, RunParams(device="cpu"), str(data)), SerialRunner)
    assert len(Dataset.open(data / "augment/flipped")) == len(SIZES) * 2


def test_of_other_people_s_images_only_what_would_cost_too_much_is_refused() -> None:
    for number, size in enumerate(SIZES):
        assert not isinstance(decode_rgb(picture(number, size), HARD_CAPS), Outcome)
    assert HARD_CAPS.max_pixels == ImageLimits().max_pixels
