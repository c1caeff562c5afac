"""The stage: up to date exactly when what it reads is. And the console's table."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.commands.results import results_table
from pipelines.config import RunParams
from pipelines.errors import UserError
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.stages.report.params import ReportParams
from pipelines.stages.report.stage import Report
from tests.report.folders import DataFolder, arm, metrics


def run(folder: DataFolder, **params: object) -> int:
    """Units that ran."""
    job = Job("report", ReportParams.model_validate(params), RunParams(), str(folder.root))
    ran = execute(Report(), job, lambda: SerialRunner(debug=True))["ran"]
    assert isinstance(ran, int)
    return ran


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path).everything()


def test_the_report_is_made_once(folder: DataFolder) -> None:
    assert run(folder) == 1
    assert (folder.root / "report" / "report.html").read_text().startswith("<!doctype html>")
    assert run(folder) == 0


def test_the_distilled_set_gets_a_card_that_names_its_controls(folder: DataFolder) -> None:
    run(folder)
    card = (folder.root / "report" / "distilled.md").read_text()
    assert "12 images in 3 classes" in card
    assert "| IPC 10: distilled | 60.0 ± 0.1 | −6.2 loses | 84.1 ± 0.1 | +1.1 wins | 3 |" in card
    assert "| IPC 10: random real | 66.2 ± 0.1 | best control | 83.0 ± 0.1 | best control |" in card
    assert "made by `cda`: teacher" in card
    assert 'wds.WebDataset("shards/cda-000000.tar"' in card
    assert "1. dog" in card


def test_the_card_escapes_what_comes_from_data(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, classes=["<script>|*x*", "b", "c"])
    folder.cda()
    run(folder)
    card = (tmp_path / "report" / "distilled.md").read_text()
    assert "0. \\<script\\>\\|\\*x\\*" in card
    assert "Not measured yet" in card


def test_a_changed_input_or_parameter_makes_it_again(folder: DataFolder) -> None:
    run(folder)
    assert run(folder, title="another") == 1
    folder.finish("evaluate@distilled", 14, {"epochs": 301})
    assert run(folder, title="another") == 1
    marker = folder.root / "ingest" / "ledger" / "ingest-000000.json"
    form = json.loads(marker.read_bytes())
    form["counts"]["kept"] += 1  # as `limbeck retry` would: the same plan, other content
    marker.write_text(json.dumps(form))
    assert run(folder, title="another") == 1


def test_a_later_run_with_the_same_result_does_not(folder: DataFolder) -> None:
    run(folder)
    folder.write(".limbeck/cda.json", json.dumps({"started": "2027-01-01T00:00:00Z", "seconds": 1}).encode())
    assert run(folder) == 0


def test_a_stage_that_appears_makes_it_again(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.ingest()
    assert run(folder) == 1
    folder.split()
    assert run(folder) == 1
    assert run(folder) == 0


def test_nothing_to_report_names_the_first_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="limbeck run ingest"):
        run(DataFolder(tmp_path))


@pytest.mark.parametrize("count", [0, 51])
def test_samples_per_class_has_limits(count: int) -> None:
    with pytest.raises(ValueError, match="samples_per_class"):
        ReportParams(samples_per_class=count)


def printed(data: Path) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    for part in results_table(str(data)):
        console.print(part)
    return console.export_text()


def test_the_console_shows_verdict_controls_bytes_and_the_path(folder: DataFolder) -> None:
    text = printed(folder.root)
    assert "Distilled images beat as many random real images by 1.1 points at IPC 10 with soft labels" in text
    assert re.search(r"distilled +60\.0 ± 0\.1 +−6\.2 loses +84\.1 ± 0\.1 +\+1\.1 wins +58\.6", text)
    assert re.search(r"random real +66\.2 ± 0\.1 +best control", text)
    assert "not made yet: limbeck run report" in text
    run(folder)
    assert str(folder.root / "report" / "report.html") in printed(folder.root).replace("\n", "")


def test_the_console_without_results_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="limbeck run all"):
        results_table(str(tmp_path))


def test_brackets_in_names_are_not_console_markup(folder: DataFolder) -> None:
    form = metrics()
    form["protocol"]["note"] = "[/red][bold]net"
    form["ipc_1"]["distilled_soft"] = arm(0.5)
    folder.evaluate(form)
    assert "[/red][bold]net" in printed(folder.root)


def test_the_report_imports_neither_torch_nor_matplotlib(repository: Path) -> None:
    heavy = "{'torch', 'ray', 'timm', 'matplotlib'}"
    code = f"import sys, pipelines.stages.report, pipelines.commands.results as _; print(sorted({heavy} & set(sys.modules)))"
    made = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
