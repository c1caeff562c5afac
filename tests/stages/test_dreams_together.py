"""What `datadream` leaves is what `evaluate`, `report` and `limbeck results` read: the three stages on one toy folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from rich.console import Console

from pipelines.commands.jobs import make_job, make_jobs
from pipelines.commands.results import results_table
from pipelines.commands.runs import run_stage
from pipelines.evaluation.datadream.params import Variant
from tests.stages.test_datadream import PARAMS, write_models
from tests.stages.test_pipeline import write_source

SECTION = """
evaluate:
  datadream:
    variants: [zero_shot, cls]
    shots: [2]
    seeds: 2
    steps: 4
    classifier: {epochs: 2, warmup_epochs: 0, batch_size: 8}
"""


def test_variants_are_made_measured_and_shown(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    params, data = tmp_path / "params.yaml", tmp_path / "data"
    params.write_text(
        PARAMS.replace("SOURCE", str(tmp_path / "source")).replace("seeds: [0]", "seeds: [0, 1]") + SECTION
    )
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, params, data=str(data)), "serial", debug=True)
    write_models(data)
    wanted = ["datadream.variants=[zero_shot, cls]"]
    for job in make_jobs("datadream", params, wanted, str(data)):
        run_stage(job, "serial", debug=True)
    for stage in ("evaluate", "report"):
        run_stage(make_job(stage, params, wanted, str(data)), "serial", debug=True)
    found = json.loads((data / "evaluate/datadream/results.json").read_text())
    arm = found["shots_2"]["clip"]["pooled_cls"]
    kept = json.loads((data / "datadream/cls/metrics.json").read_text())
    both = [kept[f"shots02-seed{seed}"] for seed in (0, 1)]
    assert arm["images"]["real"] == 4
    assert arm["images"]["synthetic"] == round(sum(one["kept"] for one in both) / 2)
    assert arm["bytes"]["adapter_bytes"] == round(sum(one["adapters"]["bytes"] for one in both) / 2)
    assert arm["few_shot_seeds"] == [0, 1]
    assert arm["steps"] == 4
    assert {one["arm"] for one in found["wins"]} == {"pooled_zero_shot", "pooled_cls"}
    html = (data / "report/report.html").read_text()
    assert "real + cls" in html
    assert "What the filters did" in html
    assert "starts from the same noise" in html
    assert "Could not be read" not in html
    console = Console(width=110, record=True, file=io.StringIO())
    for part in results_table(str(data)):
        console.print(part)
    assert "real + zero-shot" in console.export_text()


def test_the_variants_are_those_of_the_stage() -> None:
    from typing import get_args

    from pipelines.evaluation.datadream.section import VARIANTS
    from pipelines.stages.datadream import params as datadream

    assert get_args(Variant) == get_args(datadream.Variant) == tuple(VARIANTS)
