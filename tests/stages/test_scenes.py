"""Scenes that a generator could not learn from are refused when they are read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipelines.artifacts.scenes import load_scenes
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.shards.dataset import Dataset
from pipelines.storage import Storage


def composed(root: Path, classes: tuple[str, ...]) -> Dataset:
    rng = np.random.default_rng(3)
    for name in classes:
        (root / "source" / name).mkdir(parents=True)
        for place in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            cv2.imwrite(str(root / "source" / name / f"{place}.png"), pixels)
    base = {"type": "folder", "path": str(root / "source")}
    scenes = {"type": "composed", "base": base, "scenes": 8, "size": 32, "items": [1, 2]}
    form = {"run": {"device": "cpu"}, "ingest": {"sources": [scenes], "image": {"format": "png"}}}
    (root / "scenes.yaml").write_text(yaml.safe_dump(form))
    run_stage(make_job("ingest", root / "scenes.yaml", data=str(root / "data")), "serial")
    return Dataset.open(Storage(str(root / "data/ingest")))


def test_classes_of_one_noun_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="classes 'Red_bag' and 'red bag' are both called 'red bag'"):
        load_scenes(composed(tmp_path, ("Red_bag", "red bag")), 32)


def test_classes_of_several_nouns_are_read(tmp_path: Path) -> None:
    assert load_scenes(composed(tmp_path, ("bag", "coat")), 32).nouns == ["bag", "coat"]
