"""What the report shows of condensed sets: who beats the controls, accuracies, images beside real ones, and under which protocol."""

from __future__ import annotations

from pipelines.evaluation.distilled.card import cards
from pipelines.evaluation.distilled.charts import accuracy_figures, student_figures
from pipelines.evaluation.distilled.claims import claims, headline, remarks
from pipelines.evaluation.distilled.details import controls_table, epochs_table, margins_table, stored_table
from pipelines.evaluation.distilled.gallery import gallery
from pipelines.evaluation.distilled.results import PRODUCT, read_results, titles_of
from pipelines.evaluation.distilled.rows import Results
from pipelines.evaluation.distilled.table import accuracy_table, students_table
from pipelines.evaluation.distilled.training import protocol_table
from pipelines.evaluation.outputs import output_of, params_of, results_of
from pipelines.report.blocks import Block, Charts, Folded, GroupedTable, Sentences
from pipelines.report.reading import Outputs, inner
from pipelines.report.section import Options, Section
from pipelines.report.series import Rows


def section(outputs: Outputs, options: Options) -> Section | None:
    """Images as soon as there are some, accuracies once they are measured; None without either."""
    pictures = gallery(outputs, options.samples_per_class)
    form = results_of(outputs, "distilled")
    results = read_results(form, titles_of(outputs))
    curves = outputs.csv(output_of("distilled"), "students.csv")
    if not (results or outputs.finished(product=PRODUCT)):
        return Section("images", "Images", 32, blocks=[pictures]) if pictures is not None else None
    images: list[Block] = [pictures] if pictures is not None else []
    name = "Condensed sets" if len(outputs.finished(product=PRODUCT)) > 1 else "Distilled images"
    files = cards(outputs, options.title)
    if not results:
        return Section("distilled", name, 10, blocks=images, files=files)
    table, others, figures = accuracy_table(results), students_table(results), accuracy_figures(results)
    said = Sentences([*claims(results), *remarks(results)], listed=True)
    sentences = [said] if said.texts else []
    second = [others] if others is not None else []
    charts: list[Block] = [Charts(figures)] if figures else []
    blocks = [table, *sentences, *charts, *second, *images, *_details(outputs, results, curves)]
    console: list[GroupedTable | Sentences] = [table, *second, *sentences]
    return Section("distilled", name, 10, headline(results), blocks, console, form, files)


def _details(outputs: Outputs, results: Results, curves: Rows) -> list[Block]:
    """What a reader opens: comparisons, epochs, bytes, and how students were trained."""
    figures = student_figures(curves, results)
    folds: dict[str, list[Block | None]] = {
        "Every comparison": [margins_table(results), controls_table(results)],
        "Accuracy over the epochs": [epochs_table(results), Charts(figures) if figures else None],
        "Best epochs and bytes": [stored_table(results)],
        "Protocol": [protocol_table(params_of(outputs, "distilled"), _labelling(outputs), results)],
    }
    shown = {title: [block for block in blocks if block is not None] for title, blocks in folds.items()}
    return [Folded(title, blocks) for title, blocks in shown.items() if blocks]


def _labelling(outputs: Outputs) -> dict[str, object]:
    """The parameters of the soft labels: those of the first labelled set."""
    records = outputs.finished("relabel")
    return inner(records[0].config, "relabel") if records else {}
