"""Several distilled sets from seeds of their own: a ± that holds chance in distilling, and students that count as their set's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
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


def test_images_of_a_class_are_recovered_together_and_held_to_its_statistics(folder: Path) -> None:
    """One class or both in a unit: each is a group of its own, of all its slots."""
    by_class = ("cda.ipc=2", "cda.statistics=class", "cda.slots_per_unit=auto")
    run(folder, "cda", "cda.ipc=2")
    keys = [slot_key("cda", label, slot) for label in range(2) for slot in range(2)]
    of_all = load_arrays(Dataset.open(folder / "data/cda"), keys)
    run(folder, "cda", *by_class)
    both = load_arrays(Dataset.open(folder / "data/cda"), keys)
    assert not (both.images == of_all.images).all()
    apart = make_job("cda", folder / "params.yaml", [*CHANGES, *by_class, "cda.class_chunk=1"], str(folder / "data"))
    assert len(prepare(get_stage("cda"), apart).identities) == 2
    run(folder, "cda", *by_class, "cda.class_chunk=1")
    alone = load_arrays(Dataset.open(folder / "data/cda"), keys)
    assert (abs(both.images.astype(int) - alone.images) <= 2).mean() > 0.99  # sums are rounded by the size of a batch
    parents = Dataset.open(folder / "data/cda").rows(["key", "parents"]).to_pylist()
    assert len({row["parents"][0] for row in parents}) == 4


def test_residuals_without_a_real_start_are_refused(folder: Path) -> None:
    with pytest.raises(
        UserError, match="residual_every mixes in the real images that recovery starts from, and init is noise"
    ):
        make_job("cda", folder / "params.yaml", ["cda.init=noise", "cda.recover.residual_every=1"])
