"""A method and a product join as folders: a source of condensed sets, and something that is measured, that no shared file names."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import pipelines.evaluation
import pipelines.stages
from pipelines.commands.asked import choose
from pipelines.commands.jobs import make_job
from pipelines.commands.results import results_table
from pipelines.commands.runs import run_stages
from pipelines.errors import UserError
from pipelines.evaluation import EVALUATIONS, folders
from pipelines.runtime.job import Job
from pipelines.stages import STAGES
from tests.stages.test_pipeline import write_source

HOUSE = Path(__file__).with_name("house")
PARAMS: dict[str, Any] = {
    "run": {"seed": 0, "threads": 1, "device": "cpu"},
    "ingest": {
        "sources": [{"type": "folder", "path": f"source/{split}", "split": split} for split in ("train", "test")],
        "image": {"format": "png"},
    },
    "squeeze": {"network": "convnet2_w8", "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.05}},
    "toy": {"ipc": 1},
    "relabel": {"sources": ["toy"], "epochs": 2, "batch_size": 2},
    "evaluate": {
        "distilled": {
            "sources": ["toy"],
            "networks": ["convnet2_w8"],
            "seeds": 2,
            "arms": ["distilled_soft", "start_soft", "random_soft", "distilled_hard", "random_hard"],
            "soft": {"epochs": 2, "learning_rate": 0.01},
            "hard": {"epochs": 2, "batch_size": 2, "learning_rate": 0.01},
        },
        "depth": {"images": 4},
    },
}


@pytest.fixture(scope="module")
def house() -> Iterator[None]:
    """A house that has a stage and an evaluation more: two folders, and the stage's line in the order of the pipeline."""
    stages, evaluations = dict(STAGES), dict(EVALUATIONS)
    with pytest.MonkeyPatch.context() as patch:
        for package, name in ((pipelines.stages, "stages"), (pipelines.evaluation, "evaluation")):
            patch.setattr(package, "__path__", [*package.__path__, str(HOUSE / name)])
        EVALUATIONS.update(folders())
        order = [*stages.items()]
        order.insert([*stages].index("relabel"), ("toy", "Toy"))
        STAGES.clear()
        STAGES.update(order)
        yield
    for registry, before in ((STAGES, stages), (EVALUATIONS, evaluations)):
        registry.clear()
        registry.update(before)
    for name in [
        name for name in sys.modules if name.startswith(("pipelines.stages.toy", "pipelines.evaluation.depth"))
    ]:
        del sys.modules[name]  # other tests have a toy of their own


@pytest.fixture(scope="module")
def data(house: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of `limbeck run all`."""
    root = tmp_path_factory.mktemp("joining")
    write_source(root / "source")
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        chosen = choose(["all"], "params.yaml")
        assert list(chosen.jobs) == ["ingest", "split", "squeeze", "toy", "relabel", "evaluate", "report"]
        run_stages(chosen.jobs, "serial", debug=True)
    return root / "data"


def results(data: Path, item: str) -> Any:
    return json.loads((data / "evaluate" / item / "results.json").read_text())


def test_a_source_that_is_a_folder_is_labelled_and_measured_beside_its_controls(data: Path) -> None:
    assert list((data / "relabel/toy/labels/ipc_001").glob("*.arrow"))
    form = results(data, "distilled")
    assert set(form["ipc_1"]) == {"toy_soft", "toy_start_soft", "random_soft", "toy_hard", "random_hard"}
    assert {(one["arm"], one["against"]) for one in form["comparisons"]} == {
        ("toy_soft", "random_soft"),
        ("toy_hard", "random_hard"),
    }
    assert [(one["arm"], one["against"]) for one in form["against_start"]] == [("toy_soft", "toy_start_soft")]
    judged = [(one["labels"], one["of"]) for one in (*form["comparisons"], *form["against_start"])]
    assert judged == [("hard", 1), ("soft", 2), ("soft", 2)]  # those of one question together


def test_a_product_that_is_a_folder_is_measured_by_itself(data: Path) -> None:
    form = results(data, "depth")
    assert set(form["arms"]) == {"few", "one"}
    assert form["protocol"] == {"note": ""}
    assert set(form["comparisons"][0]) >= {"low", "high", "outcome"}
    assert set(json.loads((data / "evaluate/depth/metrics.json").read_text())) == {"difference"}
    assert not (data / "evaluate/depth/curves.csv").exists()


def test_both_are_in_the_report_and_on_the_console(data: Path) -> None:
    page = (data / "report/report.html").read_text()
    console = Console(record=True, width=120, file=io.StringIO())
    for part in results_table(str(data)):
        console.print(part)
    printed = console.export_text()
    for shown in (page, printed):
        assert "A mean of a few gains" in shown
        assert "Distilled images are not told apart" in shown
    assert '<th scope="row">toy IPC 1</th>' in page  # its soft labels
    assert '<span class="of">distilled</span>' in page  # its pictures, beside the real ones
    (row,) = [line for line in printed.splitlines() if line.startswith(" distilled")]
    assert row.count("open") == 2  # with hard and with soft labels


@pytest.mark.usefixtures("house")
def test_a_source_that_is_none_is_refused(data: Path) -> None:
    def named(source: str) -> Job[Any]:
        changes = [f"{section}.sources=[{source}]" for section in ("relabel", "evaluate.distilled")]
        return make_job(f"relabel@{source}", data.parent / "params.yaml", changes, str(data))

    with pytest.raises(UserError, match="reads tooy: unknown stage 'tooy'; did you mean toy"):
        named("tooy")
    with pytest.raises(UserError, match="split made no dataset of its own"):
        pipelines.stages.get_stage("relabel").plan(named("split"))
