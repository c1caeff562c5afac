"""Puts the page together: sections -> one HTML file with its styles, charts and pictures inside.

The page needs no network and no JavaScript, and its own content policy forbids both. Everything that comes from data or
parameters is escaped by the template; only charts drawn in `svg` are markup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.report.blocks import Beside, Block, Charts, Table
from pipelines.report.facts import run_section
from pipelines.report.reading import Outputs
from pipelines.report.section import Section

NOTHING_PROVED = "Nothing is proved yet: the accuracies are not measured."


@dataclass(frozen=True)
class Page:
    """All that the template shows; it decides nothing but looks. `missing` are name, state and what would be added."""

    title: str
    headline: str
    sections: Sequence[Section]
    missing: Sequence[tuple[str, str, str]]
    problems: Sequence[str]


@cache
def template_digest() -> str:
    """A hash of the files that make the page, so that a report is made again when its maker changed."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in (".py", ".j2", ".css"):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def render(outputs: Outputs, title: str, sections: Sequence[Section]) -> bytes:
    """The page as UTF-8, made of what the stages show of themselves. Equal outputs and logs give equal bytes."""
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = _kind
    css = Markup((folder / "report.css").read_text(encoding="utf-8"))
    page = build(outputs, title, sections)
    return environment.get_template("report.html.j2").render(page=page, css=css).encode()


def build(outputs: Outputs, title: str, sections: Sequence[Section]) -> Page:
    """The sections of the stages and those that every page has, in their order, and what is not in them."""
    headline = next((section.headline for section in sections if section.headline), "")
    missing = [
        (name, record.state, record.adds)
        for name, record in outputs.stages.items()
        # Where something is measured, what it was measured without is not wanted.
        if record.state == "unfinished" or (record.state == "missing" and not record.kind.optional and not headline)
    ]
    return Page(
        title,
        headline or NOTHING_PROVED,
        joined([*sections, run_section(outputs)]),
        missing,
        outputs.problems,  # last: reading the rest may have added to it
    )


def joined(sections: Sequence[Section]) -> list[Section]:
    """The sections in their order, those of one anchor as one: under the first one's title, tables beside one another, then charts."""
    by_anchor: dict[str, list[Section]] = {}
    for section in sorted(sections, key=lambda section: section.order):
        by_anchor.setdefault(section.anchor, []).append(section)
    return [same[0] if len(same) == 1 else replace(same[0], blocks=_packed(same)) for same in by_anchor.values()]


def _packed(sections: Sequence[Section]) -> list[Block]:
    blocks = [block for section in sections for block in section.blocks]
    tables = [block for block in blocks if isinstance(block, Table)]
    figures = [figure for block in blocks if isinstance(block, Charts) for figure in block.figures]
    rest = [block for block in blocks if not isinstance(block, Table | Charts)]
    packed: list[Block] = [Beside([[table] for table in tables])] if tables else []
    return [*packed, *([Charts(figures)] if figures else []), *rest]


def _kind(block: Any) -> str:
    """By which the template finds the macro of a block."""
    return type(block).__name__
