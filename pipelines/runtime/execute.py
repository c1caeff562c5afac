"""The driver: plan, skip what is done, run the rest, reduce, publish. The same for every stage and every runner."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pipelines import __version__
from pipelines.redaction import redacted
from pipelines.runtime import folder
from pipelines.runtime.breaker import Breaker
from pipelines.runtime.code import code_digest, reduce_digest
from pipelines.runtime.folder import Prepared, plan_digest
from pipelines.runtime.guard import no_units, only_run
from pipelines.runtime.inputs import inputs_file, inputs_of, record_inputs, require_pinned
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.ledger import Ledger
from pipelines.runtime.machine import machine_errors
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.ownership import planning_code, read_units, require_ours
from pipelines.runtime.places import require_place
from pipelines.runtime.progress import ProgressView
from pipelines.runtime.rows import table_digest
from pipelines.runtime.tally import Tally, transient_of
from pipelines.runtime.units import Marker, Unit, identity_of
from pipelines.storage import Storage, pretty_json

#: First line of the file that tells of a unit that raised.
TRACEBACK = "# Written by Limbeck, and removed when the stage runs again.\n"
#: Called as `tick(unit, done, total, note)` while units run.
TickOf = Callable[[str, float, float, str], None]


@dataclass(frozen=True, slots=True)
class UnitError:
    """A unit that raised; `error` is one line, `trace` the whole. `comes_again`: the same run would meet it once more."""

    unit: str
    error: str
    trace: str = ""
    comes_again: bool = False


class Runner(Protocol):
    """Runs the units of one run of a stage, wave after wave, and keeps its workers between waves."""

    def run(
        self, stage: Stage[Any], job: Job[Any], units: Sequence[tuple[Unit, str]], tick: TickOf
    ) -> Generator[Marker | UnitError, None, None]:
        """Yield a marker or an error for every unit given, in any order; when closed early, stop what is still running."""
        ...

    def close(self) -> None:
        """Let go of the workers, after the last wave."""
        ...


def prepare(
    stage: Stage[Any], job: Job[Any], verify: bool = False, keep_code: bool = False, redo: Collection[str] = ()
) -> Prepared:
    """Plan a job and look at what its output already holds. Reads only.

    A unit with transient failures is not done: it is planned again, and what it did stays until then; so is one named in `redo`, and
    one that other code made, unless `keep_code` says that it is kept, or said so when the code of now planned the output last.
    """
    require_place(stage, job)
    require_ours(job.name, job.output, job.output.list())
    with method_errors(job.name):
        plan = stage.plan(job)
    code = code_digest(stage, job.item)
    params, rows = stage.identity_params(job), {name: table_digest(table) for name, table in plan.rows.items()}
    recipes = {u.name: u.recipe(stage.name, stage.version, params, rows.get(u.name, "")) for u in plan.units}
    assert len(recipes) == len(plan.units), f"{stage.name} planned two units of one name"
    assert rows.keys() <= recipes.keys(), f"{stage.name} planned rows for no unit"
    identities = {name: identity_of(recipe, code) for name, recipe in recipes.items()}
    ledger = Ledger(job.output, verify)
    markers = ledger.found(recipes, plan.units)
    again = {name: count for name, marker in markers.items() if (count := transient_of(marker.reasons))}
    others = {name: marker for name, marker in markers.items() if marker.code != code and name not in {*again, *redo}}
    accepted = set() if keep_code or not others else _accepted(job.output, code)
    for name, marker in others.items():
        if keep_code or marker.identity in accepted:
            identities[name] = marker.identity
    done = {n: m for n, m in markers.items() if n not in {*again, *redo} and m.identity == identities[n]}
    digest = plan_digest(plan, identities, reduce_digest(stage))
    return Prepared(plan, identities, done, digest, again, code, frozenset(others), ledger.unsigned)


def _accepted(output: Storage, code: str) -> set[str]:
    """Identities in the plan that lies in the output, where the code of now wrote it: those of other code were accepted then."""
    units = read_units(output) if planning_code(output) == code else None
    return {unit["id"] for unit in units or ()}


def execute(
    stage: Stage[Any],
    job: Job[Any],
    runner: Callable[[], Runner],
    verify: bool = False,
    again: Collection[str] = (),
    told: Callable[[Tally], None] = lambda tally: None,
    keep_code: bool = False,
    planned: Callable[[Prepared], None] = lambda prepared: None,
) -> dict[str, Any]:
    """Bring the output of a stage up to date. Returns the content of stage.json, with `ran` = units run now.

    `planned` is given the plan before anything is touched. With `keep_code` what other code made of the same is done.

    `runner` is called only if there is work. `verify` hashes finished files instead of trusting their sizes. Units
    named in `again` run even if they are done; until they have, what they did before stays. `told` is given what became
    of the samples, once, also when the breaker stops the run. Raises `StageStopped` when it does or the machine fails,
    `UserError` when the request cannot be carried out.
    """
    require_place(stage, job)
    require_ours(job.name, job.output, job.output.list())  # before a lock is laid beside it
    with (
        machine_errors(job.name, "its output folder", job.output.url),
        only_run(job, inputs_of(stage, job)) as job,
    ):
        started = time.time()
        job.output.sweep_temporary()
        job.logs.sweep_temporary(partial(_is_log_of, job))
        prepared = prepare(stage, job, verify, keep_code, again)
        planned(prepared)
        if not prepared.pending and (form := folder.sealed(stage, job, prepared, verify)) is not None:
            told(_tally(stage, prepared, prepared.done.values()))
            record_inputs(job)
            return {**form, "ran": 0}
        if prepared.pending:
            with method_errors(job.name):
                stage.check(job)
        names = folder.begin(stage, job, prepared)
        breaker = Breaker(job.name, job.run.breaker, _tally(stage, prepared, prepared.done.values()))
        try:
            markers = _run_pending(stage, job, prepared, runner, breaker)
        finally:
            told(breaker.tally)
        no_units(job)
        require_pinned(job)
        in_order = [markers[unit.name] for unit in prepared.plan.units]
        form = folder.finish(stage, job, prepared, names, in_order, partial(require_pinned, job))
        record_inputs(job)
        _log(stage, job, prepared, started)
        return {**form, "ran": len(prepared.pending)}


def _is_log_of(job: Job[Any], path: str) -> bool:
    """Whether a file among the logs is written by runs of this job alone."""
    return path in (f"{job.name}.json", f"{job.name}.run", inputs_file(job.name)) or path.startswith(
        (f"errors/{job.name}/", f"ticks/{job.name}/")
    )


def _remove_tracebacks(job: Job[Any], folder: str) -> None:
    """Remove what earlier runs left of units that raised; a file without our first line is somebody else's."""
    for path in job.logs.list(folder):
        if path.endswith(".txt") and job.logs.read_bytes(path).startswith(TRACEBACK.encode()):
            job.logs.remove(path)
    job.logs.remove_empty_folders([folder])


def _tally(stage: Stage[Any], prepared: Prepared, markers: Iterable[Marker]) -> Tally:
    """What earlier runs did, and what the plan says was met and gets no row."""
    tally = Tally(counted=stage.counted, passed_over=dict(prepared.plan.facts.get("passed_over", {})))
    for marker in markers:
        tally.add(marker)
    return tally


def _run_pending(
    stage: Stage[Any], job: Job[Any], prepared: Prepared, runner: Callable[[], Runner], breaker: Breaker
) -> dict[str, Marker]:
    """Run what is not done; the markers of all units by name. Raises if the breaker finds a reason to."""
    markers = dict(prepared.done)
    errors = f"errors/{job.name}"
    _remove_tracebacks(job, errors)
    if prepared.pending:
        with closing(runner()) as at_work, ProgressView(job.name, len(prepared.plan.units), len(markers)) as view:
            for wave in sorted({unit.wave for unit, _ in prepared.pending}):
                if breaker.unit_errors:
                    break  # units of this wave may read what was not made
                units = [(unit, identity) for unit, identity in prepared.pending if unit.wave == wave]
                # Closed by hand: the traceback of an error would keep the runner, and what it runs, alive.
                with closing(at_work.run(stage, job, units, view.tick)) as results:
                    for result in results:
                        if isinstance(result, UnitError):
                            trace = TRACEBACK + redacted(result.trace or result.error)
                            job.logs.write_bytes(f"{errors}/{result.unit}.txt", trace.encode(errors="backslashreplace"))
                            breaker.unit_error(result.unit, result.error, result.comes_again)
                            continue
                        markers[result.name] = result
                        view.finished(result)
                        breaker.finished(result)
    breaker.conclude()
    return markers


def _log(stage: Stage[Any], job: Job[Any], prepared: Prepared, started: float) -> None:
    form = {
        "stage": job.name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "units": len(prepared.plan.units),
        "ran": len(prepared.pending),
        "limbeck": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    job.logs.write_bytes(f"{job.name}.json", pretty_json(form))
