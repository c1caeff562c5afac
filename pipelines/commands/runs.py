"""Running a stage from the command line: choose the runner, execute, say what happened in one line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args

from pipelines.commands.extras import require_extras
from pipelines.errors import LimbeckError, UserError
from pipelines.outcomes import ErrorClass
from pipelines.runtime.execute import Runner, execute, prepare
from pipelines.runtime.folder import Prepared
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import STAGE_FILE, all_markers
from pipelines.runtime.serial import SerialRunner
from pipelines.runtime.tally import Tally
from pipelines.stages import get_stage

#: DVC names the stage whose command it runs.
UNDER_DVC = "DVC_STAGE"


def choose_runner(name: str, workers: int | None, debug: bool) -> Callable[[], Runner]:
    """A factory, since Ray is to start only when there is work."""
    if name not in ("serial", "ray", "auto"):
        raise UserError(f"--runner takes serial, ray or auto; got {name!r}")
    if name == "auto":
        name = "ray" if os.environ.get("RAY_ADDRESS") or (workers or 1) > 1 else "serial"
    if name == "serial":
        return lambda: SerialRunner(debug)

    def start_ray() -> Runner:
        try:
            import ray  # noqa: F401
        except ImportError:
            raise UserError("Ray is not installed; pip install 'limbeck[ray]', or use --runner serial") from None
        from pipelines.runtime.ray_runner import RayRunner

        return RayRunner(workers)

    return start_ray


def run_stage(
    job: Job[Any],
    runner: str = "auto",
    workers: int | None = None,
    verify: bool = False,
    debug: bool = False,
    again: Collection[str] = (),
    say: Callable[[str], None] = print,
    keep_code: bool = False,
) -> str:
    """Bring a stage up to date; returns the line to print. Units named in `again` run even if they are done.

    `say` is given what is to be known of the code that made what is there, and what became of all samples, also when the run is
    stopped. With `keep_code` units that other code made stay. DVC takes what it finds in an output for right, so under DVC the files
    are always verified.
    """
    started = time.monotonic()
    verify = verify or UNDER_DVC in os.environ

    def told(tally: Tally) -> None:
        if line := tally.line(job.name):
            say(line)

    def planned(prepared: Prepared) -> None:
        for line in code_lines(job, prepared):
            say(line)

    chosen = choose_runner(runner, workers, debug)
    stage = get_stage(job.stage)
    done = execute(stage, job, chosen, verify, again, told, keep_code, planned)
    seconds = time.monotonic() - started
    for line in stage.lines(job):
        say(line)
    if not done["ran"]:
        return f"{job.name}: up to date ({done['units']} units, nothing to do) -> {job.output.url}"
    return f"{job.name}: {done['ran']} of {done['units']} units ran in {seconds:.1f} s -> {job.output.url}"


def code_lines(job: Job[Any], prepared: Prepared) -> list[str]:
    """What a run says of units that other code made: that they are made again and how to keep them, or that they are kept."""
    count = len(prepared.plan.units)
    replaced = sum(name not in prepared.done for name in prepared.others)
    lines = []
    if replaced:
        lines.append(
            f"{job.name}: {replaced} of {count} units were made by other code and are made again; to keep what is there instead: "
            f"limbeck run {job.name} --keep-code"
        )
    if kept := len(prepared.others) - replaced:
        lines.append(f"{job.name}: {kept} of {count} units that other code made are kept")
    if prepared.unsigned:
        lines.append(
            f"{job.name}: {prepared.unsigned} of {count} units were made by an earlier release, whose code is not recorded, and are "
            "made again"
        )
    return lines


def run_stages(
    stages: Mapping[str, Sequence[Job[Any]]],
    runner: str = "auto",
    workers: int | None = None,
    verify: bool = False,
    debug: bool = False,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
    keep_code: bool = False,
) -> list[str]:
    """Bring stages up to date one after another, and say so of each; returns what is to be said at the end.

    The first that stops ends the command; `warn` is told which were not begun.
    """
    names = list(stages)
    hints = []
    # What a later stage cannot do without is said before the first one runs, for hours perhaps.
    require_extras(name for name in names if any(not job.output.exists(STAGE_FILE) for job in stages[name]))
    for place, stage in enumerate(names):
        try:
            plan_all(stages[stage])
            for job in stages[stage]:
                say(run_stage(job, runner, workers, verify, debug, say=say, keep_code=keep_code))
        except LimbeckError:
            if rest := names[place + 1 :]:
                warn(f"not begun: {', '.join(rest)}")
            raise
        if hint := unseen_by_dvc(stages[stage][0]):
            hints.append(hint)
    return hints


def unseen_by_dvc(job: Job[Any]) -> str:
    """A sentence about inputs of the user's own whose changes `dvc repro` would not see; empty when there are none."""
    from pipelines.commands.dvc_commands import unseen

    paths = unseen(job.stage, job.data, get_stage(job.stage).reads(job.params).values())
    if not paths:
        return ""
    return f"note: dvc.yaml does not name {', '.join(paths)}, so dvc repro will not see it change; add it with: limbeck dvc"


def plan_all(jobs: Sequence[Job[Any]]) -> None:
    """Plan every item before the first one runs: what a later one cannot do is said before any work. Changes nothing."""
    for job in jobs if len(jobs) > 1 else ():
        prepare(get_stage(job.stage), job)


def retry_stage(
    job: Job[Any],
    error_class: str,
    runner: str = "auto",
    workers: int | None = None,
    say: Callable[[str], None] = print,
    keep_code: bool = False,
) -> str:
    """Run the stage with the units that hold failures of one class done again."""
    if error_class not in get_args(ErrorClass):
        raise UserError(f"--class takes {', '.join(get_args(ErrorClass))}; got {error_class!r}")
    if not job.output.exists():
        raise UserError(f"{job.output.url} does not exist; run first: limbeck run {job.name}")
    prefix = f"failed:{error_class}:"
    hit = [marker for marker in all_markers(job.output) if any(reason.startswith(prefix) for reason in marker.reasons)]
    if not hit:
        return f"{job.name}: no sample failed with a {error_class} error"
    samples = sum(count for marker in hit for reason, count in marker.reasons.items() if reason.startswith(prefix))
    line = run_stage(job, runner, workers, again={marker.name for marker in hit}, say=say, keep_code=keep_code)
    return f"retried {samples} samples in {len(hit)} units. {line}"
