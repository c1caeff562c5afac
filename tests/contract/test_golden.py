"""The bytes of every stage are pinned next to its version, so that a change of the one without the other is noticed.

When a test here fails and the change is wanted, raise the stage's version and run `python -m tests.contract.golden`: the
difference of `golden.json` is the list of the files that changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.discl.section import HEAD, section
from pipelines.report.blocks import GroupedTable
from pipelines.report.reading import Outputs
from pipelines.report.section import Options
from pipelines.shards.dataset import Dataset
from pipelines.stages import STAGES, get_stage
from tests.contract.golden import (
    COMPUTERS,
    COMPUTING,
    COPYING,
    PACKERS,
    PINS,
    arithmetic,
    computed,
    copied,
    decisions,
    products,
    releases,
)

GOLDEN: dict[str, Any] = json.loads(PINS.read_text())


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("copied"))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")
    return computed(tmp_path_factory.mktemp("computed"))


def require_releases(packages: tuple[str, ...]) -> None:
    """Skip where other releases are installed than those of the pins."""
    pinned = {name: GOLDEN["releases"][name] for name in packages}
    if releases(packages) != pinned:
        pytest.skip(f"pinned with {pinned}, here are {releases(packages)}")


def test_every_stage_but_the_report_is_pinned() -> None:
    assert {*COPYING, *COMPUTING} == set(GOLDEN["stages"]) == set(STAGES) - {"report"}


@pytest.mark.parametrize("stage", COPYING)
def test_what_a_stage_decides_changes_with_its_version_only(copies: Path, stage: str) -> None:
    pin = GOLDEN["stages"][stage]
    assert (get_stage(stage).version, decisions(copies / stage)) == (pin["version"], pin["decisions"])


@pytest.mark.parametrize("stage", COPYING)
def test_the_bytes_of_a_stage_change_with_its_version_only(copies: Path, stage: str) -> None:
    require_releases(PACKERS)
    pin = GOLDEN["stages"][stage]
    assert (get_stage(stage).version, products(copies / stage)) == (pin["version"], pin["products"])


@pytest.mark.parametrize("stage", COMPUTING)
def test_the_bytes_of_a_training_change_with_its_version_only(trainings: Path, stage: str) -> None:
    require_releases(PACKERS + COMPUTERS)
    if arithmetic() != GOLDEN["arithmetic"]:
        pytest.skip("the pins were made by a processor that rounds otherwise")
    pin = GOLDEN["stages"][stage]
    assert (get_stage(stage).version, products(trainings / stage)) == (pin["version"], pin["products"])


def test_a_long_tail_goes_from_split_through_discl_to_its_students_in_the_report(trainings: Path) -> None:
    outputs = Outputs.under(str(trainings), [get_stage(name) for name in ("split", "generator", "discl", "evaluate")])
    shown = section(outputs, Options())
    assert shown is not None
    table = shown.blocks[0]
    assert isinstance(table, GroupedTable)
    synthetic = {row.name: row.cells[HEAD.index("synthetic shown")] for _, own in table.groups for row in own}
    # Two epochs of levels that each show as many images of the rare class as it has real ones; the third is on real images.
    assert {name: count for name, count in synthetic.items() if "DisCL" in name} == dict.fromkeys(
        ("CE + DisCL", "BS + DisCL", "CE + DisCL, own norms"), "6"
    )
    assert "DisCL gains" in (shown.headline or "")
    results = json.loads((trainings / "evaluate/discl/results.json").read_text())
    made = Dataset.open(str(trainings / "discl/kept")).rows(["label"]).to_pylist()
    assert results["arms"]["ce_discl"]["synthetic"] == len(made)
    assert {row["label"] for row in made} == {label for label, group in enumerate(results["groups"]) if group == "few"}
