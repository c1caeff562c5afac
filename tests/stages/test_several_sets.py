"""Several distilled sets from seeds of their own: a ± that holds chance in distilling, and students that count as their set's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.evaluation.distilled.claims import headline
from pipelines.evaluation.distilled.results import read_results
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.execute import prepare
from pipelines.shards.dataset import Dataset
from pipelines.shards.keys import slot_key
from pipelines.stages import get_stage
from tests.stages.test_pipeline import params_of, write_source

CHANGES = (
    "cda.ipc=1",
    "cda.recover.iterations=3",
    "relabel.ipc=[1]",
    "evaluate.distilled.arms=[distilled_soft, random_soft, distilled_hard, random_hard]",
    "evaluate.distilled.seeds=2",
)


def run(folder: Path, stage: str, *changes: str) -> None:
    job = make_job(stage, folder / "params.yaml", [*CHANGES, *changes], str(folder / "data"))
    run_stage(job, "serial", debug=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_source(root / "source")
    params_of(root / "source", root)
    for stage in ("ingest", "split", "squeeze", "cda"):
        run(root, stage)
    return root


def images(folder: Path, name: str) -> Any:
    keys = [slot_key(name, label, 0) for label in range(2)]
    return load_arrays(Dataset.open(folder / "data/cda"), keys).images


def test_more_seeds_add_sets_and_each_has_students_of_its_own(folder: Path) -> None:
    alone = images(folder, "cda")
    more = make_job("cda", folder / "params.yaml", [*CHANGES, "cda.seeds=2"], str(folder / "data"))
    assert [unit.name for unit, _ in prepare(get_stage("cda"), more).pending] == ["cda_s1-000000"]
    for stage in ("cda", "relabel", "evaluate"):
        run(folder, stage, "cda.seeds=2")
    assert (images(folder, "cda") == alone).all()
    assert (images(folder, "cda_s1") != alone).any()
    form = json.loads((folder / "data/evaluate/distilled/results.json").read_text())
    arms = form["ipc_1"]
    assert {name: (arm["seeds"], arm["sets"]) for name, arm in arms.items()} == {
        "cda_soft": (2, 2),
        "random_soft": (2, 4),
        "cda_hard": (2, 2),
        "random_hard": (2, 4),
    }
    assert [(one["labels"], one["seeds"], one["products"]) for one in form["comparisons"]] == [
        ("hard", 4, 2),
        ("soft", 4, 2),
    ]
    assert form["protocol"]["distillation_seeds"] == 2
    assert "one distillation seed" not in headline(read_results(form))
    labels = sorted(path.parent.name for path in (folder / "data/relabel/cda/labels").rglob("*.arrow"))
    assert set(labels) == {"ipc_001", "ipc_001-s1"}
