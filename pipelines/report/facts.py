"""What holds of every stage, whichever it is: what became of the samples, how large the datasets are, when and where it ran."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence

from pipelines.report.blocks import Block, Folded, Preformatted, Sentences, Table
from pipelines.report.reading import Outputs, inner, inner_list
from pipelines.report.section import Section
from pipelines.report.words import UNKNOWN, grouped, human_bytes, human_seconds, number, one_line

#: Packages whose release decides numbers or bytes.
PACKAGES = (
    *("torch", "timm", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "pyarrow"),
    *("diffusers", "transformers", "peft"),
)


def outcome_tables(outputs: Outputs) -> list[Table]:
    """Samples by stage and outcome, and why they were lost."""
    counted = [record for record in outputs.stages.values() if record.counts]
    rows = []
    for record in counted:
        counts = [record.counts.get(name, 0) for name in ("kept", "dropped", "failed")]
        rows.append([record.name, grouped(sum(record.counts.values())), *map(grouped, counts)])
    reasons = []
    for record in counted:
        for label, count in sorted(record.reasons.items(), key=lambda item: (-item[1], item[0])):
            outcome, _, rest = label.partition(":")
            kind, _, reason = rest.rpartition(":")
            reasons.append([reason.replace("_", " "), grouped(count), record.name, outcome, kind or "policy"])
    note = "" if reasons else "No sample was lost."
    tables = [Table("Outcomes", ("stage", "attempted", "kept", "dropped", "failed"), rows, note=note)] if rows else []
    if reasons:
        note = "transient: trying again may help (limbeck retry); permanent: the data is bad; policy: a rule forbids it"
        head = ("reason", "samples", "stage", "outcome", "class")
        tables.append(Table("Why samples were lost", head, reasons, (1,), note))
    return tables


def dataset_table(outputs: Outputs) -> list[Table]:
    """The size of every dataset."""
    sizes = []
    for name in outputs.stages:
        for part in outputs.parts(name):
            stats = outputs.stats(name, part)
            kept, size = number(inner(stats, "outcomes").get("kept")), number(stats.get("image_bytes"))
            each = human_bytes(size / kept) if size is not None and kept else UNKNOWN
            classes = str(len(inner_list(stats, "classes")))
            sizes.append([f"{name}/{part}".rstrip("/"), grouped(kept), classes, human_bytes(size), each])
    return [Table("Datasets", ("dataset", "images", "classes", "image bytes", "per image"), sizes)] if sizes else []


def run_section(outputs: Outputs) -> Section:
    """When, where and with what the stages ran, and with which parameters."""
    packages = ", ".join(f"{name} {version}" for name, version in _installed(PACKAGES))
    parameters: list[Block] = [
        Preformatted(name, json.dumps(record.config, indent=2, ensure_ascii=False, sort_keys=True))
        for name, record in outputs.stages.items()
        if record.config
    ]
    versions = Sentences([f"Packages where this page was made: {packages}."], quiet=True)
    return Section(
        "runs", "What ran", 90, blocks=[_ran(outputs), Folded("Packages and all parameters", [versions, *parameters])]
    )


def _ran(outputs: Outputs) -> Table:
    rows = []
    total = 0.0
    for record in outputs.finished():
        log = record.log
        seconds = number(log.get("seconds"))
        total += seconds or 0
        units = grouped(number(record.form.get("units")))
        ran, planned = number(log.get("ran")), number(log.get("units"))
        took = human_seconds(seconds) + (f" for {grouped(ran)} units" if ran is not None and ran != planned else "")
        began = one_line(log.get("started")).replace("T", " ").replace("Z", " UTC")
        versions = (one_line(record.form.get("version")), one_line(log.get("limbeck")), one_line(log.get("python")))
        rows.append([record.name, took, units, began, one_line(log.get("machine")), *versions])
    head = ("stage", "took", "units", "started", "machine", "version", "limbeck", "Python")
    note = (
        f"{human_seconds(total)} in all, counting the last run of each stage." if total else "No run times were kept."
    )
    return Table("", head, rows, (2,), note)


def _installed(packages: Sequence[str]) -> list[tuple[str, str]]:
    installed = []
    for name in packages:
        try:
            installed.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
