"""What `limbeck plan` and `limbeck lint` show. Reads files only; starts nothing, and trips over no damaged file.

`status`, `info` and `samples` beside this file hold the other reading verbs.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.text import Text

from pipelines.commands.linting import lint_all
from pipelines.commands.runs import code_lines
from pipelines.commands.tables import View, add_row, new_table, styled
from pipelines.images.isolation import Decoders
from pipelines.images.params import HARD_CAPS, STORED_CAPS, ImageParams
from pipelines.report.words import human_bytes
from pipelines.runtime.execute import prepare
from pipelines.runtime.job import Job
from pipelines.stages import get_stage

#: Rows a table shows before it says how many more there are.
SHOWN = 40


def plan_view(job: Job[Any]) -> View:
    """The units of a stage with what would run."""
    prepared = prepare(get_stage(job.stage), job)
    pending = {unit.name for unit, _ in prepared.pending}
    listed: list[dict[str, Any]] = []
    for unit in prepared.plan.units:
        other = unit.name in prepared.others
        state = "to run" if unit.name in pending else "done"
        again = prepared.again.get(unit.name, 0)
        form: dict[str, Any] = {"name": unit.name, "id": prepared.identities[unit.name], "state": state}
        listed.append(form | {"other_code": other, "failed": again, "payload": unit.payload})
    form = {"stage": job.name, "output": job.output.url, "to_run": len(pending), "units": listed}
    table = new_table(f"{job.name}: {len(pending)} of {len(listed)} units to run -> {job.output.url}")
    for name in ("unit", "id", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("payload", overflow="ellipsis", no_wrap=True, max_width=44)
    for one in listed[:SHOWN]:
        payload = ", ".join(f"{key}={value}" for key, value in one["payload"].items())
        words = one["state"] + (", made by other code" if one["other_code"] else "")
        words = f"again: {one['failed']:,} failed for a time" if one["failed"] else words
        add_row(
            table,
            one["name"],
            one["id"][:8],
            styled(words, "green" if words.startswith("done") else "yellow"),
            payload[:200],
        )
    if len(listed) > SHOWN:
        table.caption = f"and {len(listed) - SHOWN} more"
    lines = [Text(line, "yellow") for line in code_lines(job, prepared)]
    return View(form, [table, *lines])


def lint_view(url: str, decode: bool) -> tuple[View, bool]:
    """Findings of `lint` and whether the dataset is sound. Other people's images are decoded where they can do no harm."""
    if decode:
        with Decoders(ImageParams(limits=STORED_CAPS), 1) as ours, Decoders(ImageParams(limits=HARD_CAPS), 1) as others:
            report = lint_all(url, lambda data, is_ours: _decode(data, ours if is_ours else others))
    else:
        report = lint_all(url, None)
    findings = [asdict(finding) for finding in report.findings]
    form = {"url": url, "ok": report.ok, "samples": report.samples, "bytes": report.bytes, "findings": findings}
    table = new_table(f"{url}: {report.samples:,} samples, {human_bytes(report.bytes)}")
    for name in ("severity", "code", "where", "message"):
        table.add_column(name)
    for finding in report.findings[:SHOWN]:
        colour = "red" if finding.severity == "error" else "yellow"
        add_row(table, styled(finding.severity, colour), finding.code, finding.where, finding.message)
    more = len(report.findings) - SHOWN
    table.caption = f"and {more} more" if more > 0 else ("no findings" if not report.findings else None)
    return View(form, [table]), report.ok


def _decode(data: bytes, decoders: Decoders) -> None:
    if (outcome := decoders.check(data)) is not None:
        raise ValueError(f"{outcome.reason}: {outcome.detail}")
