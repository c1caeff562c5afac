"""`limbeck results`: the verdict, the tables with controls and bytes, and where the report is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.commands.tables import View
from pipelines.errors import UserError
from pipelines.report.blocks import GroupedTable, Row, Sentences
from pipelines.report.controls import (
    CONTROL_HEAD,
    control_headline,
    control_rows,
    control_sentences,
    is_ours,
)
from pipelines.report.page import ACCURACY_HEAD, accuracy_rows
from pipelines.report.results import headline, read_results, verdict
from pipelines.report.words import FIXED
from pipelines.stages import outputs_under, sections
from pipelines.storage import Storage
from pipelines.terminal import cell

#: Columns that a terminal of 80 characters has no room for; the report has them.
_LEFT_OUT = {"best epoch, %", "seeds", "image bytes", "label bytes"}
_CONTROLS_LEFT_OUT = {"validation, %", "steps", "image bytes", "adapters", "together"}

Groups = Sequence[tuple[str, Sequence[tuple[str, Row]]]]


def results_view(data: str) -> View:
    """The accuracies as `evaluate` wrote them, and as tables."""
    parts = results_table(data)
    report = Storage(data).child("report")
    where = f"{report.url}/report.html" if report.exists("report.html") else None
    outputs = outputs_under(data)
    measured = [name for name, record in outputs.stages.items() if record.stage == "evaluate" and record.item]
    form = {name.partition("@")[2]: outputs.json(name, "results.json") for name in measured}
    return View({"report": where, "evaluate": {item: one for item, one in form.items() if one}}, parts)


def results_table(data: str) -> list[RenderableType]:
    """What to print, in order. Raises `UserError` when `evaluate` has not finished."""
    outputs = outputs_under(data)
    results = read_results(outputs.json("evaluate@distilled", "results.json"))
    controls = outputs.json("evaluate@datadream", "results.json")
    shown = [one for one in sections(outputs) if one.headline or one.console]
    if not results and not controls and not shown:
        raise UserError(f"no accuracies under {data}/evaluate; run: limbeck run evaluate")
    printed: list[RenderableType] = []
    if results:
        rows = accuracy_rows(results)
        ours = {name for _, named in rows for name, _ in named if name.startswith("distilled")}
        printed += [_table("accuracy on the test set", ACCURACY_HEAD, _LEFT_OUT, rows, ours)]
        printed += [cell(headline(results), "bold"), *_lines(verdict(results))]
    if controls:
        rows = control_rows(controls)
        ours = {name for _, named in rows for name, _ in named if is_ours(name)}
        printed += [_table("DataDream: accuracy on the test set", CONTROL_HEAD, _CONTROLS_LEFT_OUT, rows, ours)]
        printed += [cell(control_headline(controls), "bold"), *_lines(control_sentences(controls))]
    for one in shown:
        printed += [_block(block) for block in one.console]
        printed += [cell(one.headline, "bold")] if one.headline else []
    report = Storage(data).child("report")
    where = f"{report.url}/report.html" if report.exists("report.html") else "not made yet: limbeck run report"
    place = cell(f"report: {where}")
    place.overflow = "fold"
    return [*printed, place]


def _block(block: GroupedTable | Sentences) -> RenderableType:
    if isinstance(block, Sentences):
        return Group(*_lines(block.texts))
    ours = {row.name for _, rows in block.groups for row in rows if row.ours}
    groups = [(group, [(row.name, row.cells) for row in rows]) for group, rows in block.groups]
    return _table(block.title, block.head, block.left_out, groups, ours)


def _table(title: str, head: Row, left_out: Collection[str], groups: Groups, ours: Collection[str]) -> Table:
    chosen = [place for place, name in enumerate(head) if name not in left_out]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("trained on", no_wrap=True)
    for place in chosen:
        table.add_column(head[place], justify="right")
    for group, rows in groups:
        table.add_section()
        table.add_row(cell(group, "bold"))
        for name, cells in rows:
            style = "bold" if name in ours else ""
            table.add_row(cell(name), *(cell(cells[place]) for place in chosen), style=style)
    return table


def _lines(sentences: Sequence[str]) -> list[Text]:
    # A console breaks lines at a fixed space too, which would leave the percent sign alone on the next line.
    return [cell(sentence.replace(f"{FIXED}%", "%")) for sentence in sentences]
