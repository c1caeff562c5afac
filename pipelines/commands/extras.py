"""The optional parts of the installation: which packages an extra brings, and who asks for it.

A stage declares the extras that it imports from; which packages they bring stands in pyproject.toml, and is read where it was
installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable

from pipelines.errors import UserError
from pipelines.stages import STAGES, get_stage

#: Extras that no stage asks for, and what does.
BESIDE = {"ray": "--runner ray", "dvc": "dvc repro"}
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+)[^;]*;\s*extra\s*==\s*['"]([\w-]+)['"]""")


def packages_by_extra() -> dict[str, list[str]]:
    """The packages of every extra in the order they are listed; empty where Limbeck runs without being installed."""
    try:
        required = importlib.metadata.requires("limbeck") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    by_extra: dict[str, list[str]] = {}
    for package, extra in (match.groups() for one in required if (match := _REQUIREMENT.match(one))):
        by_extra.setdefault(extra, []).append(package)
    return by_extra


def purposes() -> dict[str, list[str]]:
    """Who asks for each extra: stages, in the order of the pipeline, or another part of Limbeck."""
    asked: dict[str, list[str]] = {}
    for stage in STAGES:
        for extra in get_stage(stage).extras:
            asked.setdefault(extra, []).append(stage)
    return asked | {extra: [what] for extra, what in BESIDE.items()}


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def require_extras(stages: Iterable[str]) -> None:
    """`UserError` for a stage that cannot even begin here: the package that all of an extra builds on is not installed."""
    packages = packages_by_extra()
    for stage in stages:
        for extra in get_stage(stage).extras:
            if (first := packages.get(extra, [])[:1]) and not is_installed(first[0]):
                raise UserError(f"{stage} needs {first[0]}, which is not installed; pip install 'limbeck[{extra}]'")
