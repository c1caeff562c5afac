"""`report`: all outputs -> `report.html`, one file that can be mailed, opened on a phone and read without a network,
and a card for each distilled set, `distilled.md`.

One unit. Its payload holds the plan and a content hash of every finished stage that it reads, and a hash of the
template, so it is up to date exactly when they are; stages that have not run are allowed and told. Times and machines
of the runs are shown but decide nothing: running a stage again to the same result leaves the report as it is.

What draws the page is imported when one is drawn: every command reads this module for its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.errors import UserError
from pipelines.report.reading import Outputs, content_digest
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.stages import STAGES, get_stage, section_packages, sections
from pipelines.stages.report.params import ReportParams
from pipelines.storage import Storage

REPORT_FILE = "report.html"


class Report(Stage[ReportParams]):
    """Reads what is there; never fails for what is not."""

    name = "report"
    version = 3
    summary = "everything -> report.html"
    Params = ReportParams
    code = ("pipelines.report",)
    plan_code = ("pipelines.stages", "pipelines.evaluation")  # their sections
    draws = False

    def inputs(self, job: Job[ReportParams]) -> Sequence[str]:
        """Every other stage."""
        return [name for name in STAGES if name != self.name]

    def needs(self, job: Job[ReportParams]) -> tuple[str, ...]:
        return ()  # what has not run is said on the page

    def plan(self, job: Job[ReportParams]) -> Plan:
        from pipelines.report.page import template_digest
        from pipelines.report.section import sections_digest

        outputs = _outputs(job)
        inputs: dict[str, Any] = {}
        for record in outputs.finished():
            content = content_digest(_folder(job, record.name))
            inputs[record.name] = {"plan": record.form.get("plan"), "content": content}
        if not inputs:
            raise UserError(f"no stage under {job.data} is finished, so there is nothing to report; limbeck run ingest")
        code = template_digest(), sections_digest(section_packages())
        return Plan([Unit("report-000000", {"inputs": inputs, "code": code})])

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[ReportParams]) -> None:
        from pipelines.report.page import render

        outputs = _outputs(job)
        shown = sections(outputs, job.params.samples_per_class, job.params.title)
        output.write(REPORT_FILE, render(outputs, job.params.title, shown))
        for name, content in sorted({name: one for section in shown for name, one in section.files.items()}.items()):
            output.write(name, content)
        output.summary = {"stages": sorted(unit.payload["inputs"]), "problems": len(outputs.problems)}


def _outputs(job: Job[ReportParams]) -> Outputs:
    return Outputs([get_stage(name) for name in STAGES if name != job.stage], job.input, job.logs)


def _folder(job: Job[ReportParams], name: str) -> Storage:
    """The output of STAGE or STAGE@ITEM."""
    stage, _, item = name.partition("@")
    return job.input(stage, item)
