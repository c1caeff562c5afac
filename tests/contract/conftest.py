"""Fixtures of the contract tests: fresh workplaces, and what a clean run leaves in one."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.contract.folders import Workplace


@pytest.fixture
def workplaces(tmp_path: Path) -> Callable[[], Workplace]:
    """Makes workplaces with equal sources."""
    numbers = itertools.count()
    return lambda: Workplace(tmp_path / f"data{next(numbers)}")


@pytest.fixture
def workplace(workplaces: Callable[[], Workplace]) -> Workplace:
    return workplaces()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace after one undisturbed serial run; not to be changed."""
    place = Workplace(tmp_path_factory.mktemp("clean") / "data")
    place.run()
    place.ran()
    return place


@pytest.fixture(scope="session")
def clean(finished: Workplace) -> dict[str, bytes]:
    """Every file of the toy stage's output after one undisturbed serial run."""
    return finished.tree()


@pytest.fixture
def done(finished: Workplace, tmp_path: Path) -> Workplace:
    """A finished workplace to change: a copy, which is quicker than a run."""
    return finished.copy_to(tmp_path / "done")


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServerContext]:
    """Starts child processes in milliseconds: forked from a server that has imported everything and runs no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.contract.limbeck_toy"])
    return context
