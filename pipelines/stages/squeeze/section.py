"""What the report shows of `squeeze`: the teacher and how it was trained."""

from __future__ import annotations

from pipelines.report.blocks import Block, Charts, Table
from pipelines.report.reading import Outputs
from pipelines.report.section import Options, Section
from pipelines.report.series import Rows, last_value, not_drawn, points_of
from pipelines.report.svg import Figure, Series, line_chart
from pipelines.report.words import UNKNOWN, grouped, number, percent


def section(outputs: Outputs, options: Options) -> Section | None:
    """The teacher's accuracies and curves; None when there is no teacher."""
    tables, figures = teacher_table(outputs), teacher_figures(outputs.csv("squeeze", "history.csv"))
    blocks: list[Block] = [*tables, *([Charts(figures)] if figures else [])]
    return Section("making", "Teacher and distillation", 50, blocks=blocks) if blocks else None


def teacher_table(outputs: Outputs) -> list[Table]:
    """Its accuracies and its size."""
    metrics, teacher = outputs.json("squeeze", "metrics.json"), outputs.json("squeeze", "teacher.json")
    if not metrics:
        return []
    cells = [percent(number(metrics.get(name))) for name in ("val_top1", "test_top1")]
    cells += [grouped(number(metrics.get("parameters"))), grouped(number(metrics.get("epochs")))]
    head = ("network", "validation", "test", "parameters", "epochs")
    return [Table("Teacher", head, [[str(teacher.get("network", UNKNOWN)), *cells]])]


def teacher_figures(history: Rows) -> list[Figure]:
    """Loss and validation accuracy of the teacher over epochs."""
    accuracy = points_of(history, "epoch", "val_top1", 100)
    train, held_out = points_of(history, "epoch", "train_loss"), points_of(history, "epoch", "val_loss")
    figures = [
        line_chart(
            "Teacher: accuracy on validation images, %",
            [Series("validation", accuracy, "other", value=last_value(accuracy))],
            "epoch",
        ),
        line_chart(
            "Teacher: loss",
            [Series("training", train, "other", dashed=True), Series("validation", held_out, "other")],
            "epoch",
            note=not_drawn(history, ("train_loss", "val_loss")),
        ),
    ]
    return [figure for figure in figures if figure is not None]
