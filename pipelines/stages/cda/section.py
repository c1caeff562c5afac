"""What the report shows of `cda`: the loss of the distilled images while they are made. The images stand beside their controls."""

from __future__ import annotations

from pipelines.report.blocks import Charts
from pipelines.report.reading import Outputs
from pipelines.report.section import Options, Section
from pipelines.report.series import Rows, mean_and_range, not_drawn
from pipelines.report.svg import Figure, Series, line_chart


def section(outputs: Outputs, options: Options) -> Section | None:
    """The curve; None when there is none."""
    figures = recover_figures(outputs.csv("cda", "losses.csv"))
    return Section("making", "Distillation", 51, blocks=[Charts(figures)]) if figures else None


def recover_figures(losses: Rows) -> list[Figure]:
    """The loss of the distilled images over steps: mean and range over units."""
    mean, band = mean_and_range(losses, "step", "loss")
    units = len({row.get("unit") for row in losses})
    note = f"mean of {units} units, shaded from the lowest to the highest" if units > 1 else ""
    note = "; ".join(filter(None, [note, not_drawn(losses, ("loss",))]))
    name = "mean loss" if units > 1 else "loss"
    figure = line_chart(
        "Distilled images: loss while they are made", [Series(name, mean, "distilled", band=band)], "step", note
    )
    return [figure] if figure is not None else []
