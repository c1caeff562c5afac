"""What the report shows of `dm`: the distance to the real features while images are condensed. The images stand beside their controls."""

from __future__ import annotations

from pipelines.report.blocks import Charts
from pipelines.report.reading import Outputs
from pipelines.report.section import Options, Section
from pipelines.report.series import mean_and_range
from pipelines.report.svg import Series, line_chart
from pipelines.stages.dm.params import LOSSES


def section(outputs: Outputs, options: Options) -> Section | None:
    """The curve; None when there is none."""
    losses = outputs.csv("dm", LOSSES)
    mean, band = mean_and_range(losses, "iteration", "loss")
    figure = line_chart(
        "Condensed images: distance to the real features", [Series("loss", mean, "distilled", band=band)], "iteration"
    )
    return Section("making", "Matching", 53, blocks=[Charts([figure])]) if figure is not None else None
