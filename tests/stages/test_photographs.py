"""`recipes/photos_64.yaml` in small: class folders of photographs of many sizes, from ingest to the report, by the README's lines."""

from __future__ import annotations

import json
import re
import tarfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.commands.jobs import make_jobs
from pipelines.commands.runs import run_stage
from pipelines.shards.dataset import Dataset
from pipelines.stages import STAGES

#: The recipe's budgets, cut to seconds.
SMALL = [
    *("squeeze.training.epochs=1", "cda.ipc=1", "cda.recover.iterations=2", "relabel.epochs=2"),
    *(f"evaluate.distilled.{arm}.epochs=1" for arm in ("soft", "hard", "full")),
    "evaluate.distilled.seeds=1",
]


def photograph(label: int, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A lit ground with a blurred thing on it and a sensor's noise, in the class's colours; sides of 70 to 180 pixels."""
    rng = np.random.default_rng(1000 * label + number)
    height, width = rng.integers(70, 180, 2).tolist()
    light = np.linspace(40, 120, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    picture = np.repeat(light, 3, axis=2)
    colour = tuple(float(level) for level in np.roll([230, 40 + 12 * label, 90], label))
    centre = (int(rng.integers(width // 3, 2 * width // 3)), int(rng.integers(height // 3, 2 * height // 3)))
    cv2.circle(picture, centre, min(height, width) // 3, colour, -1 if label % 2 else 9)
    picture = cv2.GaussianBlur(picture, (0, 0), 1.5) + rng.normal(0, 6, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def run_recipe(folder: Path, recipe: Path, *changes: str) -> Path:
    """Run all that the recipe asks for in `folder`, where it finds `photos`."""
    asked = re.findall(r"^(\w+):", recipe.read_text(), re.MULTILINE)
    with chdir(folder):
        for stage in [name for name in STAGES if name in asked]:
            for job in make_jobs(stage, recipe, [*SMALL, *changes], "data/photos"):
                run_stage(job, "serial", debug=True)
    return folder / "data/photos"


def require_whole(data: Path, classes: list[str]) -> str:
    """All classes are in every set, figures and page are there and nothing is left of the demo; the page's text."""
    for part in ("train", "val", "test"):
        split = Dataset.open(data / "split" / part)
        assert split.classes == classes
        assert set(split.rows(["label"])["label"].to_pylist()) == set(range(len(classes)))
    teacher = json.loads((data / "squeeze/teacher.json").read_text())
    assert teacher["classes"] == classes
    assert all(0.05 < spread < 0.5 for spread in teacher["std"])
    assert sorted(Dataset.open(data / "cda").rows(["label"])["label"].to_pylist()) == list(range(len(classes)))
    page = (data / "report/report.html").read_text()
    assert all(name in page for name in classes)
    assert not [word for word in ("Fashion", "clothing", "Sneaker", "Trouser") if word in page]
    return page


def test_class_folders_of_photographs_go_from_ingest_to_the_report(repository: Path, tmp_path: Path) -> None:
    classes = [f"kind {label:02d}" for label in range(12)]
    for label, name in enumerate(classes):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            cv2.imwrite(str(tmp_path / "photos" / name / f"IMG_{number:04d}.jpg"), photograph(label, number))
    data = run_recipe(tmp_path, repository / "recipes/photos_64.yaml")
    require_whole(data, classes)
    sizes = Dataset.open(data / "ingest").rows(["width", "height"])
    assert set(sizes["width"].to_pylist()) == set(sizes["height"].to_pylist()) == {64}


@pytest.mark.shared_data
def test_real_photographs_in_splits_go_the_same_way(repository: Path, shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "imagenette224_sub5000.tar") as archive:
        taken: dict[str, int] = {}
        for member in archive:
            folder = Path(member.name).parent.as_posix()
            if member.isfile() and taken.get(folder, 0) < 8:
                taken[folder] = taken.get(folder, 0) + 1
                member.name = f"photos/{member.name}"
                archive.extract(member, tmp_path, filter="data")
    data = run_recipe(tmp_path, repository / "recipes/photos_64.yaml", "split.test=0.25")
    require_whole(data, sorted({name.rpartition("/")[2] for name in taken}))
