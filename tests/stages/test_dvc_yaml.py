"""`dvc.yaml` and `params.yaml` name what there is: every stage, and files that exist or that another stage makes.

That the file is what the stages declare is held by `tests/commands/test_dvc.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipelines.stages import STAGES, get_stage

ROOT = Path(__file__).resolve().parents[2]
DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RETRAINING = "reference_family"


def test_every_stage_is_one_of_dvc_and_the_other_way_round() -> None:
    """All but those that many jobs do without, and that `params.yaml` does not ask for."""
    asked = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(DVC) - {RETRAINING} == {name for name in STAGES if name in asked or not get_stage(name).optional}
    assert DVC[RETRAINING]["frozen"]  # `dvc repro` trains no generators unless it is asked to


def test_what_a_stage_depends_on_exists_or_is_made_by_one_in_front_of_it() -> None:
    made: list[str] = []
    for name, body in DVC.items():
        for path in body["deps"]:
            if path.startswith("data/"):
                assert any(f"{one}/".startswith(f"{path}/") for one in made), f"{name}: {path}"
            else:
                assert (ROOT / path).exists(), f"{name}: {path}"
        made += [path for out in body["outs"] for path in out]


def test_a_stage_writes_where_its_items_and_no_other_stage_do() -> None:
    outs = [path for body in DVC.values() for out in body["outs"] for path in out]
    assert len(set(outs)) == len(outs)
    assert all("${item." in out for body in DVC.values() if "matrix" in body for out in body["outs"][0])
