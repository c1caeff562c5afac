"""What the report shows of `cudd`: the loss of the distilled images while they are made, and where each curriculum began."""

from __future__ import annotations

from pipelines.report.blocks import Block, Charts, Table
from pipelines.report.reading import Outputs
from pipelines.report.section import Options, Section
from pipelines.report.series import Rows, mean_and_range
from pipelines.report.svg import Series, line_chart
from pipelines.report.words import grouped, number


def section(outputs: Outputs, options: Options) -> Section | None:
    """The curve and a row for each curriculum; None when there is neither."""
    mean, band = mean_and_range(outputs.csv("cudd", "losses.csv"), "step", "loss")
    figure = line_chart(
        "Images distilled in curricula: loss", [Series("mean loss", mean, "distilled", band=band)], "step"
    )
    blocks: list[Block] = [Charts([figure])] if figure is not None else []
    if rows := choice_rows(outputs.csv("cudd", "choices.csv")):
        head = ("curriculum", "images", "teacher right, student wrong", "both wrong", "any")
        blocks.append(Table("Real images that curricula begin at", head, rows, (1, 2, 3, 4)))
    return Section("making", "Curricula", 51, blocks=blocks) if blocks else None


def choice_rows(choices: Rows) -> list[list[str]]:
    """What was chosen for each curriculum of the first set."""
    return [
        [
            grouped(1 + (number(row.get("curriculum")) or 0)),
            *(grouped(number(row.get(name))) for name in ("images", "recognised", "hard", "any")),
        ]
        for row in choices
        if number(row.get("set")) == 0
    ]
