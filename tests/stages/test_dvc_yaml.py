"""`dvc.yaml` and `params.yaml` name what there is: every stage, its items, its section, and files that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.commands.jobs import make_jobs
from pipelines.stages import STAGES, get_stage

ROOT = Path(__file__).resolve().parents[2]
DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RETRAINING = "reference_family"


def test_every_stage_is_one_of_dvc_and_the_other_way_round() -> None:
    assert set(DVC) - {RETRAINING} == set(STAGES)
    assert DVC[RETRAINING]["frozen"]  # `dvc repro` trains no generators unless it is asked to


@pytest.mark.parametrize("name", [name for name in DVC if name != RETRAINING])
def test_a_stage_runs_with_its_section_into_its_folder(name: str) -> None:
    told = DVC[name]
    items = tuple(job.item for job in make_jobs(name, ROOT / "params.yaml") if job.item)
    if items:
        assert tuple(told["matrix"]["variant"]) == items
        assert told["cmd"] == f"limbeck run {name}@${{item.variant}}"
        assert list(told["outs"][0]) == [f"data/{name}/${{item.variant}}"]
    else:
        assert told["cmd"] == f"limbeck run {name}"
        assert list(told["outs"][0]) == [f"data/{name}"]
    assert list(told["outs"][0].values()) == [{"persist": True}]
    assert name in told["params"]
    assert {"run", "run.seed"} & set(told["params"])


def made_by_dvc() -> set[str]:
    """Every output, those of a matrix one by one."""
    found = set()
    for told in DVC.values():
        variants = told.get("matrix", {}).get("variant", [""])
        found |= {path.replace("${item.variant}", one) for out in told["outs"] for path in out for one in variants}
    return found


def test_what_a_stage_depends_on_exists_or_is_made() -> None:
    made = made_by_dvc()
    for name, told in DVC.items():
        for path in told["deps"]:
            assert path in made if path.startswith("data/") else (ROOT / path).exists(), f"{name}: {path}"


def test_a_stage_depends_on_what_it_reads() -> None:
    for name in STAGES:
        for upstream in get_stage(name).upstream:
            wanted = {
                path for path in made_by_dvc() if path == f"data/{upstream}" or path.startswith(f"data/{upstream}/")
            }
            assert wanted <= set(DVC[name]["deps"]), (name, wanted)
