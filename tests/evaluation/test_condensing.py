"""`limbeck condense` at toy size: students on the validation split, the same bytes however often it is run, and what is shipped."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.artifacts.teacher import TEACHER_WEIGHTS
from pipelines.commands.condense import candidates_view, condense, condense_job
from pipelines.commands.views import lint_view
from pipelines.errors import UserError
from pipelines.evaluation.distilled.arms import TrainStudent
from pipelines.evaluation.distilled.choice import Choice, Measured
from pipelines.evaluation.distilled.condensing import Condense, candidates_of
from pipelines.evaluation.distilled.shipping import LABELS_FILE, ship
from pipelines.runtime.ledger import STAGE_FILE, all_markers
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.dataset import Dataset
from pipelines.storage import Storage
from tests.stages.condensing import run_stages, write_job

TRAINING = {"batch_size": 4, "learning_rate": 0.01, "epochs": 2}
PARAMS: dict[str, Any] = {
    "run": {"seed": 0, "threads": 1, "device": "cpu"},
    "ingest": {
        "sources": [{"type": "folder", "path": f"source/{split}", "split": split} for split in ("train", "test")],
        "image": {"format": "png"},
    },
    "split": {"validation": 0.25},
    "squeeze": {"network": "convnet2_w8", "training": {"epochs": 4, "batch_size": 8, "learning_rate": 0.05}},
    "cda": {"ipc": 2, "seeds": 2, "recover": {"iterations": 3, "jitter": 1}},
    "coreset": {"methods": ["medoids"], "ipc": 1},
    "relabel": {"ipc": [1], "epochs": 2, "batch_size": 2},
    "evaluate": {
        "distilled": {
            "controls": ["coreset@medoids"],
            "networks": ["convnet2_w8_in"],
            "seeds": 1,
            "arms": [
                "distilled_soft",
                "distilled_online",
                "distilled_fixed",
                "distilled_hard",
                "start_hard",
                "random_hard",
            ],
            "label_formats": [{"format": "int8"}],
            "fixed": TRAINING,
            "soft": {"epochs": 2, "learning_rate": 0.01},
            "online": TRAINING,
            "hard": TRAINING,
        }
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a finished run, and what was condensed of it within 1 MB."""
    root = tmp_path_factory.mktemp("condense")
    write_job(root, PARAMS)
    run_stages(root, ("ingest", "split", "squeeze", "cda", "coreset", "relabel", "evaluate"))
    condense(condense_job(str(root / "data"), "1MB", 1.0), "serial")
    return root / "data"


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_set_and_kind_of_labels_is_a_candidate_and_a_dry_run_changes_nothing(data: Path) -> None:
    before = tree(data)
    view = candidates_view(condense_job(str(data), "4KB", 1.0))
    names = {row["name"]: row["fits"] for row in view.form["candidates"]}
    assert set(names) == {
        f"{name} at IPC 1"
        for name in (
            *("cda_soft", "cda_soft_int8", "cda_online", "cda_fixed", "cda_hard", "cda_start_hard", "random_hard"),
            "coreset_medoids_fixed",
            *("coreset_medoids_soft", "coreset_medoids_online", "coreset_medoids_hard"),
        )
    }
    assert names["cda_hard at IPC 1"]
    assert not names["cda_online at IPC 1"]  # the teacher is larger
    # Two sets of cda and as many draws of random images, one of the coreset.
    students = [1 if "medoids" in name else 2 for name, fits in names.items() if fits]
    assert view.form["students"] == sum(students)
    assert tree(data) == before
    with pytest.raises(UserError, match="nothing that was measured fits into 10 bytes"):
        candidates_view(condense_job(str(data), "10", 1.0))


def test_students_are_tested_on_the_validation_split_alone(data: Path) -> None:
    folder = Storage(data / "condense/1000000")
    images = {part: len(Dataset.open(str(data / "split" / part))) for part in ("val", "test")}
    assert images["val"] != images["test"]
    markers = [marker for marker in all_markers(folder) if marker.kind == TrainStudent.kind]
    assert markers
    for marker in markers:
        right = marker.summary["last"] * images["val"]
        assert math.isclose(right, round(right), abs_tol=1e-6)
        head = folder.read_bytes(f"curves/{marker.name}.csv").split(b"\n")[0]
        assert head.endswith(b"val_top1")
    plan = Condense().plan(condense_job(str(data), "1MB", 1.0))
    assert all("test" not in unit.payload["inputs"] for unit in plan.units if unit.kind == TrainStudent.kind)


def test_what_is_written_is_a_sound_dataset_within_the_budget_that_says_why(data: Path) -> None:
    folder = data / "condense/1000000"
    _, ok = lint_view(str(folder), decode=True)
    assert ok
    choice = json.loads((folder / "choice.json").read_text())
    (chosen,) = [row for row in choice["candidates"] if row["chosen"]]
    assert choice["chosen"] == chosen["name"]
    assert chosen["open"]
    assert choice["why"] in (folder / "card.md").read_text()
    facts = json.loads((folder / STAGE_FILE).read_text())["facts"]
    assert facts["shipped_bytes"] == chosen["bytes"] <= 1_000_000
    assert len(Dataset.open(str(folder))) == 2


def test_running_again_does_nothing_and_a_run_that_was_cut_off_ends_with_the_same_bytes(
    data: Path, tmp_path: Path
) -> None:
    folder = data / "condense/1000000"
    before = tree(folder)
    condense(condense_job(str(data), "1MB", 1.0), "serial")
    assert tree(folder) == before
    copy = tmp_path / "data"
    shutil.copytree(data, copy, symlinks=True)
    broken = copy / "condense/1000000"
    first = sorted((broken / "ledger").glob("cda*"))[0]
    for path in (first, broken / "ledger/condensed-000000.json", broken / STAGE_FILE, broken / "choice.json"):
        path.unlink()
    condense(condense_job(str(copy), "1MB", 1.0), "serial")
    assert tree(broken) == before


SHIPPED = (
    *("cda_soft", "cda_soft_int8", "cda_online", "cda_fixed", "cda_hard", "cda_start_hard", "random_hard"),
    *("coreset_medoids_soft", "coreset_medoids_hard"),
)


@pytest.mark.parametrize("name", SHIPPED)
def test_whatever_is_chosen_takes_the_bytes_that_its_candidate_said(data: Path, tmp_path: Path, name: str) -> None:
    job = condense_job(str(data), "1MB", 1.0)
    own, candidates = candidates_of(job)
    (candidate,) = [one for one in candidates.all() if one.arm.name == name]
    only = Measured(candidate, {0: {0: 0.5}})
    output = UnitOutput(Storage(tmp_path), Unit("condensed-000000", {}), "0" * 32)
    worker = Condense().open(job)
    ship(Choice(only, only, [], [only], 1.0), candidates, own, worker, output)
    output.commit()
    assert output.summary["bytes"] == candidate.bytes
    stored = [path for path in tmp_path.rglob("*.arrow") if ".partial" not in path.parts]
    about = json.loads((tmp_path / LABELS_FILE).read_text())
    assert about["ships"] == candidate.ships
    if candidate.ships == "the teacher":
        assert (tmp_path / "teacher" / TEACHER_WEIGHTS).stat().st_size + candidate.image_bytes == candidate.bytes
    else:
        labels = sum(path.stat().st_size for path in stored)
        assert labels + candidate.image_bytes + (0 if stored else candidate.label_bytes) == candidate.bytes
    assert bool(stored) == (candidate.ships == "stored labels")
    fixed = [np.load(path) for path in tmp_path.rglob("fixed.npy")]
    assert [(one.dtype.name, one.shape, one.nbytes) for one in fixed] == (
        [("float16", (2, 2), candidate.label_bytes)] if candidate.arm.labels == "fixed" else []
    )


def test_a_condensed_folder_is_a_condensed_set_itself(data: Path) -> None:
    """Its rows have label and slot, so that it may be measured or labelled again."""
    rows = Dataset.open(str(data / "condense/1000000")).rows(["label", "params"]).to_pylist()
    assert sorted((row["label"], json.loads(row["params"])["slot"]) for row in rows) == [(0, 0), (1, 0)]
