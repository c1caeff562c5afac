"""What the report shows of `evaluate@depth`."""

from __future__ import annotations

from pipelines.report.blocks import GroupedTable, NamedRow
from pipelines.report.reading import Outputs
from pipelines.report.section import Options, Section


def section(outputs: Outputs, options: Options) -> Section | None:
    """A row."""
    form = outputs.json("evaluate@depth", "results.json")
    if not form:
        return None
    gap = form["comparisons"][0]["gap"]
    table = GroupedTable("Means of images", "of", ("gain",), [("all", [NamedRow("a few", (f"{gap:.1f}",))])])
    return Section("depth", "Means of images", 12, f"A mean of a few gains {gap:.1f} points.", [table], [table])
