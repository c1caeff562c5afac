"""The worked examples in the docstrings of `augment` compute what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import augment

MODULES = sorted(path.stem for path in Path(augment.__file__).parent.glob("*.py") if ">>> " in path.read_text())


def test_the_hard_files_have_a_worked_example() -> None:
    assert {"axis_maps", "colour_plan", "homography", "warp_samplers"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_worked_example_computes_its_numbers(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"augment.{name}"))
    assert result.attempted
    assert not result.failed
