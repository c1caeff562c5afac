"""Scenes from bases whose labels are text, numbers, or damaged in part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.shards.dataset import Dataset
from tests.faults.making import run_ingest
from tests.sources.test_tar import write_tar


def thing(number: int) -> bytes:
    """A bright disc on a dark ground."""
    pixels = np.zeros((28, 28, 3), np.uint8)
    cv2.circle(pixels, (14, 14), 6 + number % 5, (200 - number,) * 3, -1)
    return cv2.imencode(".png", pixels)[1].tobytes()


def composed(folder: Path, *labels: bytes, **base: Any) -> dict[str, Any]:
    members = []
    for number, label in enumerate(labels):
        members += [(f"{number}.png", thing(number)), (f"{number}.cls", label)]
    tar = write_tar(folder / "base.tar", *members)
    return {"type": "composed", "base": {"type": "tar", "path": str(tar), **base}, "scenes": 6, "items": [1, 1]}


def test_text_labels_of_a_base_are_classes_and_bad_records_are_counted(tmp_path: Path) -> None:
    source = composed(tmp_path / "in", b"dog", b"cat", b"dog", b"", b"cat")
    dataset = Dataset.open(run_ingest(tmp_path / "data", source))
    assert dataset.classes == ["cat", "dog"]
    assert {row["label_name"] for row in dataset.rows().to_pylist()} <= {"cat", "dog"}
    assert dataset.index["account"]["passed_over"] == {"unusable_base": 1}


def test_numbers_need_names_before_scenes_can_be_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no class names; give them in `base\.classes`"):
        run_ingest(tmp_path / "data", composed(tmp_path / "in", b"0", b"1"))
    named = composed(tmp_path / "in", b"0", b"1", b"7", classes=["cat", "dog"])
    assert Dataset.open(run_ingest(tmp_path / "data", named)).classes == ["cat", "dog"]
