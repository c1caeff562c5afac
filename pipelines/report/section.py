"""A section of the report: what one stage, or one evaluation, shows of its outputs on the page and on the console.

Whoever has something to show has `section(outputs, options) -> Section | None` in its `section.py`, which reads finished outputs
only, raises for none of them, and imports no torch. The page and `limbeck results` are handed sections and know no stage.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.report.blocks import Block, GroupedTable, Sentences
from pipelines.report.reading import Outputs


@dataclass(frozen=True)
class Options:
    """What the reader of a report asked for: pictures of each class and source at the most, where None stands for as many as stand in
    one line, and what the report is called."""

    samples_per_class: int | None = None
    title: str = ""


@dataclass(frozen=True)
class Aside:
    """What `limbeck results` prints where it is asked for by name, and the same for programs."""

    console: Sequence[GroupedTable | Sentences] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of the report.

    `anchor` names it in links and in JSON. `order`: results 10-29, data 30-39, how things were made 40-89, in the order of the
    pipeline. `headline` is one sentence of what was proved; the first one is that of the page. `console` is what
    `limbeck results` prints below the headline, `numbers` the same for programs. `files` are written beside the page, by name;
    `asides` are what `limbeck results` prints in place of `console` where it is asked to, by the name of its option.
    """

    anchor: str
    title: str
    order: int
    headline: str | None = None
    blocks: Sequence[Block] = ()
    console: Sequence[GroupedTable | Sentences] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    asides: Mapping[str, Aside] = field(default_factory=dict)


MakeSection = Callable[[Outputs, Options], Section | None]


def section_makers(packages: Iterable[str]) -> list[MakeSection]:
    """The functions `section` of those packages that have a module `section`."""
    return [importlib.import_module(f"{package}.section").section for package in _with_a_section(packages)]


def sections_digest(packages: Iterable[str]) -> str:
    """A hash of the files of those packages, so that a report is made again when one of them shows something else."""
    digest = hashlib.sha256()
    for package in _with_a_section(packages):
        for folder in importlib.import_module(package).__path__:
            for path in sorted(Path(folder).glob("*.py")):
                digest.update(f"{package}/{path.name}".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _with_a_section(packages: Iterable[str]) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(f"{package}.section") is not None]


def sections_by(functions: Iterable[MakeSection], outputs: Outputs, options: Options) -> list[Section]:
    """The sections that there is something to show in, in their order."""
    sections = (function(outputs, options) for function in functions)
    return sorted((section for section in sections if section is not None), key=lambda section: section.order)
