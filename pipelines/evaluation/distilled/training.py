"""The protocol of `evaluate@distilled` as a table: how the students of each kind of labels are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.distilled.rows import Results
from pipelines.evaluation.distilled.table import with_norm
from pipelines.report.blocks import Table
from pipelines.report.reading import inner
from pipelines.report.words import UNKNOWN, listed, one_line

#: What a protocol says of every kind of arm: title, and where it stands in a training's parameters.
_PROTOCOL = {
    "epochs": "epochs",
    "batch size": "batch_size",
    "optimiser": "optimizer",
    "learning rate": "learning_rate",
    "weight decay": "weight_decay",
    "temperature": "temperature",
    "views": "views",
}

#: What `budget: steps` means for the epochs of a table.
EQUAL_STEPS = (
    "Epochs are those of the set with the most images; students of smaller ones go through theirs more often, for as many optimiser "
    "steps."
)
#: Columns of trainings that ask no teacher.
_WITHOUT_TEACHER = ("hard labels", "full set")


def protocol_table(params: Mapping[str, Any], labelling: Mapping[str, Any], results: Results) -> Table | None:
    """How the students of each kind of arm are trained: `params` are those of the evaluation, `labelling` of relabel.

    Students of stored soft labels see the views and batches that were labelled. None where the parameters are not there.
    """
    labelled = {name: labelling[name] for name in ("batch_size", "views") if name in labelling}
    sections = {f"{labels} labels": inner(params, labels) for labels in results.labels} | {
        "full set": inner(params, "full") if results.full is not None else {}
    }
    columns = {
        title: training | (labelled if title == "soft labels" else {})
        for title, training in sections.items()
        if training
    }
    if not columns:
        return None
    rows = []
    for title, field in _PROTOCOL.items():
        cells = [
            UNKNOWN if field == "temperature" and column in _WITHOUT_TEACHER else _setting(training, field)
            for column, training in columns.items()
        ]
        rows.append([title, *cells])
    protocol = results.protocol
    students = listed([with_norm(student) for student in results.by_student if student])
    facts = {"student (norm)": students or UNKNOWN, "teacher": with_norm(results.teacher_network) or UNKNOWN}
    named = [name for name in ("seeds", "distillation_seeds", "test_images") if name in protocol]
    facts |= {name.replace("_", " "): one_line(protocol[name]) for name in named}
    note = "; ".join(f"{name} {value}" for name, value in facts.items()) + ", the same for every row."
    if protocol.get("budget") == "steps":
        note += f" {EQUAL_STEPS}"
    return Table("Protocol", ("", *columns), rows, (), note)


def _setting(training: Mapping[str, Any], field: str) -> str:
    value = training.get(field)
    if field == "views" and isinstance(value, Mapping):
        crop = f"crop {one_line(value.get('crop'))}" + (
            f" by {value.get('padding')}" if value.get("crop") == "pad" else ""
        )
        mix = value.get("mix")
        return ", ".join(
            filter(None, [crop, "flip" if value.get("flip") else "", str(mix) if mix not in (None, "none") else ""])
        )
    return one_line(value)
