"""What the report shows of `relabel`: the soft labels and their size."""

from __future__ import annotations

from pipelines.report.blocks import Table
from pipelines.report.reading import Outputs
from pipelines.report.section import Options, Section
from pipelines.report.words import grouped, human_bytes, number, one_line


def section(outputs: Outputs, options: Options) -> Section | None:
    """A row for each set that was labelled; None when none was."""
    records = outputs.finished("relabel")
    rows = [row for record in records for row in label_rows(outputs, record.name, record.item)]
    if not rows:
        return None
    table = Table("Soft labels", ("set", "format", "epochs", "samples", "bytes"), rows, (2, 3, 4))
    return Section("making", "Soft labels", 52, blocks=[table])


def label_rows(outputs: Outputs, name: str, item: str) -> list[list[str]]:
    """Set, format, epochs, samples and bytes of what one item of the stage labelled."""
    rows = []
    for key, form in outputs.json(name, "metrics.json").items():
        if isinstance(form, dict):
            epochs, samples, size = (number(form.get(field)) for field in ("epochs", "samples", "bytes"))
            of_set = " ".join(filter(None, [item, key.replace("ipc_", "IPC ")]))
            rows.append([of_set, one_line(form.get("format")), grouped(epochs), grouped(samples), human_bytes(size)])
    return rows
