"""What the report shows of condensed sets: who beats the controls, accuracies, images beside real ones, and under which protocol."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.artifacts.teacher import TEACHER_WEIGHTS
from pipelines.evaluation.distilled.card import cards
from pipelines.evaluation.distilled.charts import accuracy_figures, student_figures
from pipelines.evaluation.distilled.claims import claims, headline, remarks
from pipelines.evaluation.distilled.details import controls_table, epochs_table, margins_table, stored_table
from pipelines.evaluation.distilled.formats import formats_table
from pipelines.evaluation.distilled.frontier import Frontier, frontier_numbers, frontier_of
from pipelines.evaluation.distilled.gallery import gallery
from pipelines.evaluation.distilled.results import PRODUCT, other_forms, read_results, titles_of
from pipelines.evaluation.distilled.rows import Arm, Results
from pipelines.evaluation.distilled.spent import TEACHER, spent_on
from pipelines.evaluation.distilled.table import accuracy_table, students_table
from pipelines.evaluation.distilled.trade import NOTE, frontier_table, points_table, trade_figures, trade_sentences
from pipelines.evaluation.distilled.training import protocol_table
from pipelines.evaluation.outputs import output_of, params_of, results_of
from pipelines.report.blocks import Block, Charts, Folded, GroupedTable, Sentences
from pipelines.report.reading import Outputs, inner
from pipelines.report.section import Aside, Options, Section
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
    frontiers = _frontiers(outputs, results, other_forms(form, titles_of(outputs)))
    trade = _trade(results, frontiers)
    blocks = [table, *sentences, *charts, *second, *trade, *images, *_details(outputs, results, frontiers, curves)]
    console: list[GroupedTable | Sentences] = [table, *second, *sentences]
    asides = {"frontier": _frontier_aside(results, frontiers)}
    return Section("distilled", name, 10, headline(results), blocks, console, form, files, asides)


def _frontiers(outputs: Outputs, results: Results, forms: Sequence[tuple[int, Arm]]) -> list[Frontier]:
    """Accuracy against bytes and seconds of every student, the main one first."""
    size, spent = outputs.size(TEACHER, TEACHER_WEIGHTS), spent_on(outputs, PRODUCT)
    return [frontier_of(results, student, size, spent, forms) for student in results.by_student]


def _trade(results: Results, frontiers: Sequence[Frontier]) -> list[Block]:
    """What a reader sees of the frontier of the main student."""
    main = frontiers[0]
    table, figures, said = frontier_table(results, main), trade_figures(results, main), trade_sentences(results, main)
    blocks: list[Block] = [Charts(figures)] if figures else []
    blocks += [table] if table is not None else []
    return [*blocks, Sentences(said)] if said else blocks


def _frontier_aside(results: Results, frontiers: Sequence[Frontier]) -> Aside:
    """What `limbeck results --frontier` prints: the frontier of the main student, then every point."""
    tables = [frontier_table(results, frontiers[0]), points_table(results, frontiers)]
    shown = [table for table in tables if table is not None]
    said = trade_sentences(results, frontiers[0])
    return Aside([*shown, *([Sentences([*said, NOTE])] if shown else [])], frontier_numbers(frontiers))


def _details(outputs: Outputs, results: Results, frontiers: Sequence[Frontier], curves: Rows) -> list[Block]:
    """What a reader opens: comparisons, epochs, bytes, and how students were trained."""
    figures = student_figures(curves, results)
    folds: dict[str, list[Block | None]] = {
        "Every comparison": [margins_table(results), controls_table(results)],
        "Accuracy over the epochs": [epochs_table(results), Charts(figures) if figures else None],
        "Accuracy per byte of every set": [points_table(results, frontiers)],
        "Best epochs and bytes": [stored_table(results), formats_table(results_of(outputs, "distilled"), results)],
        "Protocol": [protocol_table(params_of(outputs, "distilled"), _labelling(outputs), results)],
    }
    shown = {title: [block for block in blocks if block is not None] for title, blocks in folds.items()}
    return [Folded(title, blocks) for title, blocks in shown.items() if blocks]


def _labelling(outputs: Outputs) -> dict[str, object]:
    """The parameters of the soft labels: those of the first labelled set."""
    records = outputs.finished("relabel")
    return inner(records[0].config, "relabel") if records else {}
