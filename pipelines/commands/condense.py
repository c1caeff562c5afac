"""`limbeck condense`: choose the condensed set to ship within a budget, by the validation split of a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.text import Text

from pipelines.commands.extras import require_extras
from pipelines.commands.runs import choose_runner
from pipelines.commands.tables import View, add_row, new_table, styled
from pipelines.errors import LimbeckError, UserError
from pipelines.evaluation.distilled.candidates import measured_run
from pipelines.evaluation.distilled.choice import bytes_of, within
from pipelines.evaluation.distilled.condensing import CHOICE_FILE, NAME, Condense, CondenseParams, candidates_of
from pipelines.report.words import human_bytes, signed
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.job import Job
from pipelines.runtime.tally import Tally


def condense_job(data: str, budget: str, points: float) -> Job[CondenseParams]:
    """The job for a budget such as `200KB`: its own folder below the data folder, the run of the evaluation."""
    size = bytes_of(budget)
    if points < 0:
        raise UserError(f"--within takes points from 0, got {points}")
    own, _ = measured_run(data)
    return Job(NAME, CondenseParams(budget=size, within=points), own.run, own.data, item=str(size))


def candidates_view(job: Job[CondenseParams]) -> View:
    """What there is to choose from and what of it fits; changes nothing. `UserError` where nothing fits."""
    own, candidates = candidates_of(job)
    every, budget = candidates.all(), job.params.budget
    fitting = {one.name for one in within(every, budget)}
    prepared = prepare(Condense(), job)
    table = new_table(f"condensed sets in {budget:,} bytes -> {job.output.url}")
    for name in ("set", "labels", "bytes", "shipped", "fits"):
        table.add_column(name, justify="right" if name == "bytes" else "left", no_wrap=name == "bytes")
    for one in every:
        fits = one.name in fitting
        add_row(
            table,
            one.name,
            one.arm.labels,
            f"{one.bytes:,}",
            one.ships,
            styled("yes" if fits else "no", "green" if fits else "dim"),
        )
    students = [unit for unit, _ in prepared.pending if unit.kind == "student"]
    words = f"{len(fitting)} of {len(every)} fit; {len(students)} students of {own.params.networks[0]} to train"
    rows = [
        {
            "name": one.name,
            "bytes": one.bytes,
            "image_bytes": one.image_bytes,
            "ships": one.ships,
            "fits": one.name in fitting,
        }
        for one in every
    ]
    form: dict[str, Any] = {"budget": budget, "output": job.output.url, "students": len(students), "candidates": rows}
    return View(form, [table, Text(words)])


def condense(
    job: Job[CondenseParams],
    runner: str = "auto",
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> View:
    """Bring the output for the budget up to date; returns what was chosen and why."""
    require_extras(["evaluate"])

    def counted(tally: Tally) -> None:
        if line := tally.line(job.name):
            say(line)

    try:
        execute(Condense(), job, choose_runner(runner, workers, False), told=counted)
    except LimbeckError as error:  # sentences of the runtime name the command of a stage of the pipeline
        command = f"limbeck condense --budget {job.params.budget}"
        raise type(error)(str(error).replace(f"limbeck run {job.name}", command)) from error
    choice = json.loads(job.output.read_bytes(CHOICE_FILE))
    table = new_table(f"candidates within {job.params.budget:,} bytes")
    for name in ("set", "bytes", "validation, %", "behind", ""):
        table.add_column(name, justify="left" if name in ("set", "") else "right", no_wrap=name != "set")
    for row in choice["candidates"]:
        accuracy = f"{100 * row['validation_mean']:.1f} ± {100 * row['validation_std']:.1f}"
        words = "chosen" if row["chosen"] else "open" if row["open"] else ""
        add_row(table, row["name"], f"{row['bytes']:,}", accuracy, signed(round(-row["best_minus_this"], 1)), words)
    lines = [Text(f"chosen: {choice['why']}", "bold"), Text(f"{job.output.url}")]
    if (full := candidates_of(job)[1].full_bytes()) <= job.params.budget:
        lines.append(Text(f"the full set fits as well: {human_bytes(full)} in {job.data}/split/train"))
    return View({"output": job.output.url} | choice, [table, *lines])
