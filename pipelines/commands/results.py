"""`limbeck results`: what was proved, the tables with controls and bytes, and where the report is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.commands.tables import View
from pipelines.errors import UserError
from pipelines.report.blocks import GroupedTable, Sentences
from pipelines.report.section import Section
from pipelines.report.words import FIXED
from pipelines.stages import outputs_under, sections
from pipelines.storage import Storage
from pipelines.terminal import cell


def results_view(data: str) -> View:
    """The numbers of every section that proves something, and its tables. Raises `UserError` when nothing is measured."""
    shown = [one for one in sections(outputs_under(data)) if one.headline or one.console]
    if not shown:
        raise UserError(f"nothing is measured under {data} yet; run: limbeck run all")
    report = Storage(data).child("report")
    where = f"{report.url}/report.html" if report.exists("report.html") else None
    form = {one.anchor: {"headline": one.headline, "results": one.numbers} for one in shown}
    return View({"report": where, "sections": form}, [*printed_sections(shown), _place(where)])


def aside_view(data: str, name: str) -> View:
    """What sections show when they are asked for `name`: `frontier`. Raises `UserError` when none has any."""
    asides = {one.anchor: one.asides[name] for one in sections(outputs_under(data)) if name in one.asides}
    if not asides:
        raise UserError(f"no {name} is measured under {data} yet; run: limbeck run evaluate@distilled")
    printed: list[RenderableType] = []
    for aside in asides.values():
        printed += [_table(block) for block in aside.console if isinstance(block, GroupedTable)]
        printed += [Group(*_lines(block.texts)) for block in aside.console if isinstance(block, Sentences)]
    return View({name: {anchor: aside.numbers for anchor, aside in asides.items()}}, printed)


def results_table(data: str) -> list[RenderableType]:
    """What to print, in order."""
    return list(results_view(data).parts)


def printed_sections(shown: Sequence[Section]) -> list[RenderableType]:
    """The tables of every section, its headline, then its sentences."""
    printed: list[RenderableType] = []
    for one in shown:
        printed += [_table(block) for block in one.console if isinstance(block, GroupedTable)]
        printed += [cell(one.headline, "bold")] if one.headline else []
        printed += [Group(*_lines(block.texts)) for block in one.console if isinstance(block, Sentences)]
    return printed


def _place(where: str | None) -> Text:
    place = cell(f"report: {where or 'not made yet: limbeck run report'}")
    place.overflow = "fold"
    return place


def _table(block: GroupedTable) -> Table:
    chosen = [place for place, name in enumerate(block.head) if name not in block.left_out]
    table = Table(title=cell(block.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(block.corner)
    for place in chosen:
        words = block.head[place] in block.words
        justify: JustifyMethod = "left" if words else "right"
        table.add_column(block.head[place], justify=justify, no_wrap=not words)
    for group, rows in block.groups:
        table.add_section()
        table.add_row(cell(group, "bold"))
        for row in rows:
            style = "bold" if row.ours else "dim" if row.difference else ""
            table.add_row(cell(row.name), *(cell(row.cells[place]) for place in chosen), style=style)
    return table


def _lines(sentences: Sequence[str]) -> list[Text]:
    # A console breaks lines at a fixed space too, which would leave the percent sign alone on the next line.
    return [cell(sentence.replace(f"{FIXED}%", "%")) for sentence in sentences]
