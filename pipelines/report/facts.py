"""Tables of facts: what became of the samples, how large the datasets are, the teacher, the soft labels."""

from __future__ import annotations

from pipelines.report.blocks import Table
from pipelines.report.reading import Outputs
from pipelines.report.words import UNKNOWN, grouped, human_bytes, number, one_line, percent


def fact_tables(outputs: Outputs) -> list[Table]:
    """Those that there is something to say in."""
    return [*_data_tables(outputs), *_teacher_table(outputs), *_label_table(outputs)]


def _data_tables(outputs: Outputs) -> list[Table]:
    counted = [stage for stage in outputs.stages.values() if stage.counts]
    rows = []
    for stage in counted:
        counts = [stage.counts.get(name, 0) for name in ("kept", "dropped", "failed")]
        rows.append([stage.name, grouped(sum(stage.counts.values())), *map(grouped, counts)])
    tables = [Table("Outcomes", ("stage", "attempted", "kept", "dropped", "failed"), rows)] if rows else []
    reasons = []
    for stage in counted:
        for label, count in sorted(stage.reasons.items(), key=lambda item: (-item[1], item[0])):
            outcome, _, rest = label.partition(":")
            kind, _, reason = rest.rpartition(":")
            reasons.append([reason.replace("_", " "), grouped(count), stage.name, outcome, kind or "policy"])
    if reasons:
        note = "transient: trying again may help (limbeck retry); permanent: the data is bad; policy: a rule forbids it"
        tables.append(
            Table("Why samples were lost", ("reason", "samples", "stage", "outcome", "class"), reasons, (1,), note)
        )
    elif counted:
        tables[-1] = Table("Outcomes", tables[-1].head, rows, note="No sample was lost.")
    places = [(name, part) for name in outputs.stages for part in outputs.parts(name)]
    sizes = []
    for stage_name, part in places:
        stats = outputs.stats(stage_name, part)
        if stats:
            kept = number((stats.get("outcomes") or {}).get("kept"))
            size = number(stats.get("image_bytes"))
            each = human_bytes(size / kept) if size is not None and kept else UNKNOWN
            name = f"{stage_name}/{part}".rstrip("/")
            sizes.append([name, grouped(kept), str(len(stats.get("classes") or [])), human_bytes(size), each])
    if sizes:
        tables.append(Table("Datasets", ("dataset", "images", "classes", "image bytes", "per image"), sizes))
    return tables


def _teacher_table(outputs: Outputs) -> list[Table]:
    metrics, teacher = outputs.json("squeeze", "metrics.json"), outputs.json("squeeze", "teacher.json")
    if not metrics:
        return []
    cells = [percent(number(metrics.get(name))) for name in ("val_top1", "test_top1")]
    cells += [grouped(number(metrics.get("parameters"))), grouped(number(metrics.get("epochs")))]
    head = ("teacher", "validation", "test", "parameters", "epochs")
    return [Table("Teacher", head, [[str(teacher.get("network", UNKNOWN)), *cells]])]


def _label_table(outputs: Outputs) -> list[Table]:
    rows = []
    for key, form in outputs.json("relabel", "metrics.json").items():
        if isinstance(form, dict):
            epochs, samples, size = (number(form.get(name)) for name in ("epochs", "samples", "bytes"))
            name = key.replace("ipc_", "IPC ")
            rows.append([name, one_line(form.get("format")), grouped(epochs), grouped(samples), human_bytes(size)])
    return [Table("Soft labels", ("set", "format", "epochs", "samples", "bytes"), rows, (2, 3, 4))] if rows else []
