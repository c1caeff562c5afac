"""What a stage needs beside the plain installation is what it declares, in `doctor` and before several stages run."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from pipelines.commands.extras import packages_by_extra, purposes, require_extras
from pipelines.errors import UserError
from pipelines.stages import STAGES, get_stage
from tests.commands.conftest import Limbeck


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where only the plain package is installed."""
    find = importlib.util.find_spec

    def found(name: str, *rest: Any) -> Any:
        return None if name in ("torch", "timm", "diffusers") else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_every_extra_that_a_stage_declares_brings_packages() -> None:
    packages = packages_by_extra()
    for stage in STAGES:
        assert all(packages[extra] for extra in get_stage(stage).extras), stage
    assert purposes()["distill"][:2] == ["squeeze", "cda"]


@pytest.mark.usefixtures("without_torch")
def test_doctor_says_which_stages_go_without_a_package(limbeck: Limbeck) -> None:
    checks = {one["check"]: one for one in limbeck("doctor", "--json").json["checks"]}
    torch = next(one for name, one in checks.items() if name.startswith("torch ("))
    assert torch["result"] == "not installed"
    assert "pip install 'limbeck[" in torch["advice"]
    assert "squeeze" in torch["check"]
    assert "ingest" not in torch["check"]
    assert next(one for name, one in checks.items() if name == "ray (--runner ray)")


@pytest.mark.usefixtures("project", "without_torch")
def test_a_later_stage_that_cannot_begin_stops_the_first(limbeck: Limbeck) -> None:
    said = limbeck("run", "ingest", "squeeze")
    assert said.code == 2
    assert "squeeze needs torch, which is not installed; pip install 'limbeck[distill]'" in said.err
    assert "ran in" not in said.out
    assert limbeck("run", "ingest", "split").code == 0
    with pytest.raises(UserError, match="generator needs torch"):
        require_extras(["ingest", "generator"])
