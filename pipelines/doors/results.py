"""`limbeck results`: the verdict, the accuracy table with controls and bytes, and where the report is."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.errors import UserError
from pipelines.report.page import ACCURACY_HEAD, accuracy_rows
from pipelines.report.reading import Outputs
from pipelines.report.results import headline, read_results, verdict
from pipelines.report.words import FIXED
from pipelines.storage import Storage

#: Columns that a terminal of 80 characters has no room for; the report has them.
_LEFT_OUT = {"best epoch, %", "seeds", "image bytes", "label bytes"}


def results_table(data: str) -> list[RenderableType]:
    """What to print, in order. Raises `UserError` when `evaluate` has not finished."""
    outputs = Outputs.under(data)
    results = read_results(outputs.json("evaluate", "metrics.json"))
    if not results:
        raise UserError(f"no accuracies under {data}/evaluate; run: limbeck run evaluate")
    chosen = [place for place, name in enumerate(ACCURACY_HEAD) if name not in _LEFT_OUT]
    table = Table(title="accuracy on the test set", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("trained on", no_wrap=True)
    for place in chosen:
        table.add_column(ACCURACY_HEAD[place], justify="right")
    for group, rows in accuracy_rows(results):
        table.add_section()
        table.add_row(Text(group, style="bold"))
        for name, cells in rows:
            style = "bold" if name.startswith("distilled") else ""
            table.add_row(Text(name), *(Text(cells[place]) for place in chosen), style=style)
    report = Storage(f"{data}/report")
    where = f"{report.url}/report.html" if report.exists("report.html") else "not made yet: limbeck run report"
    # A console breaks lines at a fixed space too, which would leave the percent sign alone on the next line.
    lines = [Text(sentence.replace(f"{FIXED}%", "%")) for sentence in verdict(results)]
    return [table, Text(headline(results), style="bold"), *lines, Text(f"report: {where}", overflow="fold")]
