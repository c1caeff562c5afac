"""What the report shows of distilled sets: their images beside the controls, their accuracies, and under which protocol."""

from __future__ import annotations

from pipelines.evaluation.distilled.card import cards
from pipelines.evaluation.distilled.gallery import PRODUCT, gallery
from pipelines.evaluation.distilled.results import headline, read_results, remarks
from pipelines.evaluation.distilled.table import accuracy_figure, accuracy_table, protocol_table, student_figures
from pipelines.evaluation.outputs import output_of, params_of, results_of
from pipelines.report.blocks import Beside, Block, Charts, Folded, Sentences
from pipelines.report.reading import Outputs, inner
from pipelines.report.section import Options, Section


def section(outputs: Outputs, options: Options) -> Section | None:
    """Images as soon as there are some, accuracies once they are measured; None without either."""
    pictures = gallery(outputs, options.samples_per_class)
    form = results_of(outputs, "distilled")
    results = read_results(form)
    curves = student_figures(outputs.csv(output_of("distilled"), "students.csv"))
    if not (results or curves or outputs.finished(product=PRODUCT)):
        return Section("images", "Images", 32, blocks=[pictures]) if pictures is not None else None
    table, sentences = accuracy_table(results), Sentences(remarks(results))
    blocks: list[Block] = [pictures] if pictures is not None else []
    if results:
        figure = accuracy_figure(results)
        protocol = protocol_table(params_of(outputs, "distilled"), _labelling(outputs), results)
        right: list[Block] = [*([sentences] if sentences.texts else []), *([protocol] if protocol is not None else [])]
        columns = [column for column in ([Charts([figure])] if figure is not None else [], right) if column]
        blocks += [table, *([Beside(columns)] if columns else [])]
    blocks += [Folded("Curves of the students", [Charts(curves)])] if curves else []
    files = cards(outputs, options.title)
    if not results:
        return Section("distilled", "Distilled images", 10, blocks=blocks, files=files)
    return Section("distilled", "Distilled images", 10, headline(results), blocks, [table, sentences], form, files)


def _labelling(outputs: Outputs) -> dict[str, object]:
    """The parameters of the soft labels: those of the first labelled set."""
    records = outputs.finished("relabel")
    return inner(records[0].config, "relabel") if records else {}
