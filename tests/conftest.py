"""Fixtures every test may use. The Ray session and the shared data are made once and only when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests with one worker, which shares what they make, and all that use Ray with one: a machine needs one Ray."""
    names = {item.path: item.path.stem for item in items}
    names |= {item.path: "ray" for item in items if item.get_closest_marker("ray")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(names[item.path]))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout the tests run in."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights beside the checkout; tests that need it skip when it is absent."""
    for parent in REPOSITORY.parents:
        folder = parent / "shared" / "data"
        if (folder / "README.md").is_file():
            return folder
    pytest.skip("no shared/data folder beside the checkout: real images and weights are not here")


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Numbers that depend on the reduction order must not depend on the machine's core count."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole suite: starting one takes seconds and more than a gigabyte."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: limbeck[ray]")
    if not ray.is_initialized():
        os.environ.setdefault("RAY_task_oom_retries", "3")
        ray.init(
            address="local",
            num_cpus=5,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=128 << 20,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}},
        )
    yield
    ray.shutdown()
