"""Puts the page together: outputs -> view models -> one HTML file with its styles, charts and pictures inside.

The page needs no network and no JavaScript, and its own content policy forbids both. Everything that comes from data or
parameters is escaped by the template; only charts drawn in `svg` are markup.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.report.augmented import Grid, view_grids
from pipelines.report.blocks import Row, Table
from pipelines.report.controls import control_headline
from pipelines.report.dreams import Dreams, dreams
from pipelines.report.facts import fact_tables
from pipelines.report.pictures import Gallery, gallery
from pipelines.report.reading import Outputs, StageRecord
from pipelines.report.results import Arm, Comparison, Results, headline, read_results, verdict
from pipelines.report.section import Section
from pipelines.report.series import accuracy_figure, recover_figures, student_figures, teacher_figures
from pipelines.report.svg import Figure, Series, line_chart
from pipelines.report.words import (
    UNKNOWN,
    grouped,
    human_bytes,
    human_seconds,
    number,
    one_line,
    percent,
    share,
    signed,
)

#: Bars of the class balance at the most; more classes are drawn as a line over their rank.
BARS = 40
#: Packages whose release decides numbers or bytes.
PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "pyarrow")
#: Those of generated images besides.
SYNTH_PACKAGES = ("diffusers", "transformers", "peft")


@dataclass(frozen=True)
class Bar:
    """A class in the balance: counts per part and their widths in percent of the largest class."""

    name: str
    parts: Sequence[tuple[str, float, int]]
    total: str


@dataclass(frozen=True)
class Page:
    """All that the template shows; it decides nothing but looks."""

    title: str
    results: Results
    headline: str
    verdict: str
    missing: Sequence[tuple[str, str, str]]
    problems: Sequence[str]
    accuracy: Figure | None
    accuracy_rows: Sequence[tuple[str, Sequence[tuple[str, Row]]]]
    dreams: Dreams | None
    protocol: Sequence[tuple[str, str]]
    gallery: Gallery | None
    views: Sequence[Grid]
    curves: Sequence[Figure]
    facts: Sequence[Table]
    bars: Sequence[Bar]
    parts: Sequence[str]
    balance: Figure | None
    ran: Table
    packages: str
    parameters: Sequence[tuple[str, str]]
    sections: Sequence[Section]


@cache
def template_digest() -> str:
    """A hash of the files that make the page, so that a report is remade when its maker changed."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in (".py", ".j2", ".css"):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def render(outputs: Outputs, title: str, samples_per_class: int, sections: Sequence[Section] = ()) -> bytes:
    """The page as UTF-8, made of what the stages show of themselves. Equal outputs and logs give equal bytes."""
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    page = build(outputs, title, samples_per_class, sections)
    styles = ["report.css", *(["dreams.css"] if page.dreams else [])]
    css = Markup("".join((folder / name).read_text(encoding="utf-8") for name in styles))
    return environment.get_template("report.html.j2").render(page=page, css=css, heads=ACCURACY_HEAD).encode()


def build(outputs: Outputs, title: str, samples_per_class: int, sections: Sequence[Section] = ()) -> Page:
    """Read everything and decide what is shown."""
    results = read_results(outputs.json("evaluate@distilled", "results.json"))
    dreamt = dreams(outputs, samples_per_class)
    headlines = [one.headline for one in sections if one.headline]
    measured = bool(results or headlines or (dreamt and dreamt.rows))
    part = "split/train" if outputs.dataset("split", "train") is not None else "ingest"
    real = outputs.dataset("split", "train") or outputs.dataset("ingest")
    pictures = gallery(real, part, outputs.dataset("cda"), samples_per_class)
    curves = [
        *student_figures(outputs.csv("evaluate@distilled", "students.csv")),
        *recover_figures(outputs.csv("cda", "losses.csv")),
        *teacher_figures(outputs.csv("squeeze", "history.csv")),
    ]
    bars, parts, balance = _balance(outputs)
    found = fact_tables(outputs)
    return Page(
        title=title,
        results=results,
        headline=headlines[0]
        if headlines
        else page_headline(results, outputs.json("evaluate@datadream", "results.json")),
        verdict=" ".join(verdict(results)),
        missing=[
            (name, stage.state, stage.adds)
            for name, stage in outputs.stages.items()
            # Where something is measured, what it was measured without is not wanted.
            if stage.state == "unfinished" or (stage.state == "missing" and not stage.optional and not measured)
        ],
        accuracy=accuracy_figure(results),
        accuracy_rows=accuracy_rows(results),
        dreams=dreamt,
        protocol=[(key.replace("_", " "), one_line(value)) for key, value in results.protocol.items() if key != "note"],
        gallery=pictures,
        views=view_grids(outputs),
        curves=curves,
        facts=found,
        bars=bars,
        parts=parts,
        balance=balance,
        ran=_ran(list(outputs.stages.values())),
        packages=", ".join(
            f"{name} {version}" for name, version in _installed(PACKAGES + (SYNTH_PACKAGES if dreamt else ()))
        ),
        parameters=[
            (name, json.dumps(stage.config, indent=2, ensure_ascii=False, sort_keys=True))
            for name, stage in outputs.stages.items()
            if stage.config
        ],
        sections=sections,
        problems=outputs.problems,  # last: reading the rest may have added to it
    )


def page_headline(results: Results, controls: Mapping[str, Any]) -> str:
    """The one sentence at the top: what distillation brought, else what DataDream brought."""
    if results:
        return headline(results)
    return control_headline(controls) if controls else "Nothing is proved yet: the accuracies are not measured."


#: Columns of the accuracy table, after the name of the arm.
ACCURACY_HEAD = (
    "last epoch, %",
    "against random",
    "best epoch, %",
    "seeds",
    "images",
    "image bytes",
    "label bytes",
    "together",
    "of full set",
)


def accuracy_rows(results: Results) -> list[tuple[str, list[tuple[str, Row]]]]:
    """Groups (IPC n, full set) of rows (arm, cells under `ACCURACY_HEAD`)."""
    full_bytes = results.full.bytes if results.full is not None else None
    groups: list[tuple[str, list[tuple[str, Row]]]] = []
    for ipc, arms in results.by_ipc.items():
        rows = []
        for arm in arms.values():
            comparison = results.comparisons.get((ipc, arm.labels)) if arm.images_from == "distilled" else None
            gap = _gap(comparison) if comparison is not None else ""
            rows.append((f"{arm.images_from}, {arm.labels} labels", _cells(arm, gap, full_bytes)))
        groups.append((f"IPC {ipc}", rows))
    whole: list[tuple[str, Row]] = []
    if results.full is not None:
        whole.append(("all real, hard labels", _cells(results.full, "", full_bytes)))
    if results.teacher_accuracy is not None:
        name = f"teacher {results.teacher_network}".strip()
        whole.append((name, (percent(results.teacher_accuracy, False), *[""] * (len(ACCURACY_HEAD) - 1))))
    return [*groups, ("Full set", whole)] if whole else groups


def _gap(comparison: Comparison) -> str:
    error = number(comparison.told.get("standard_error"))
    return signed(comparison.gap) + ("" if error is None else f" ± {error:.1f}")


def _cells(arm: Arm, gap: str, full_bytes: float | None) -> Row:
    mean = percent(arm.mean, False)
    if arm.std is not None and (arm.seeds or 1) > 1:
        mean += f" ± {percent(arm.std, False)}"
    seeds = str(arm.seeds) if arm.seeds else UNKNOWN
    if arm.sets is not None and (arm.seeds or 1) > 1 and arm.images_from != "all real":
        seeds += f" on {arm.sets} set{'s' if arm.sets > 1 else ''}"
    sizes = (human_bytes(arm.image_bytes), human_bytes(arm.label_bytes), human_bytes(arm.bytes))
    return mean, gap, percent(arm.best, False), seeds, grouped(arm.images), *sizes, share(arm.bytes, full_bytes)


def _balance(outputs: Outputs) -> tuple[list[Bar], list[str], Figure | None]:
    """Counts per class and part: bars for few classes, a line over the rank for many."""
    parts = {name: outputs.stats("split", name) for name in ("train", "val", "test")}
    if not any(parts.values()):
        parts = {"kept": outputs.stats("ingest")}
    counts: dict[str, dict[str, int]] = {}
    for part, stats in parts.items():
        for place, form in enumerate(stats.get("classes") or []):
            name = str(form.get("name", place))
            counts.setdefault(name, {})[part] = int(number(form.get("kept")) or 0)
    named = [part for part, stats in parts.items() if stats]
    totals = {name: sum(by_part.values()) for name, by_part in counts.items()}
    largest = max(totals.values(), default=0)
    if not largest:
        return [], [], None
    if len(counts) > BARS:
        ranked = sorted(totals.values(), reverse=True)
        line = [(float(rank), float(count)) for rank, count in enumerate(ranked, 1)]
        figure = line_chart(
            "Images per class, largest first", [Series("images", line, "other")], "rank of class", zero=True, log=False
        )
        return [], [], figure
    bars = [
        Bar(
            name,
            [(part, round(100 * by_part.get(part, 0) / largest, 2), by_part.get(part, 0)) for part in named],
            grouped(totals[name]),
        )
        for name, by_part in counts.items()
    ]
    return bars, named, None


def _ran(stages: Sequence[StageRecord]) -> Table:
    rows = []
    total = 0.0
    for stage in (stage for stage in stages if stage.done):
        log = stage.log
        seconds = number(log.get("seconds"))
        total += seconds or 0
        units = grouped(number(stage.form.get("units")))
        ran, planned = number(log.get("ran")), number(log.get("units"))
        took = human_seconds(seconds) + (f" for {grouped(ran)} units" if ran is not None and ran != planned else "")
        began = one_line(log.get("started")).replace("T", " ").replace("Z", " UTC")
        versions = (one_line(stage.form.get("version")), one_line(log.get("limbeck")), one_line(log.get("python")))
        rows.append([stage.name, took, units, began, one_line(log.get("machine")), *versions])
    head = ("stage", "took", "units", "started", "machine", "version", "limbeck", "Python")
    note = (
        f"{human_seconds(total)} in all, counting the last run of each stage." if total else "No run times were kept."
    )
    return Table("Stages", head, rows, (2,), note)


def _installed(packages: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for name in packages:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
