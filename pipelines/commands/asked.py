"""Which stages a command is about: those that are named, or with `all` those that the parameters ask for.

Parameters ask for a stage by having a section of its name, and for every stage whose output such a one needs. The report comes
with whatever runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.commands.jobs import checked_sections, jobs_of
from pipelines.config import read_params
from pipelines.runtime.job import Job
from pipelines.stages import REPORT, STAGES, get_stage

ALL = "all"


@dataclass(frozen=True)
class Chosen:
    """Jobs by stage in the order of the pipeline, and the stages that `all` leaves out."""

    jobs: Mapping[str, Sequence[Job[Any]]]
    skipped: tuple[str, ...]


def choose(names: Sequence[str], params: Path | str, overrides: Sequence[str] = (), data: str = "data") -> Chosen:
    """The jobs of STAGE, STAGE@ITEM and `all`, each once; `UserError` for an unknown name, before anything runs."""
    raw = read_params(params, overrides)
    sections = checked_sections(raw, params)
    asked = asked_for(raw, sections, data) if ALL in names else ()
    by_name = {job.name: job for name in [*names, *asked] if name != ALL for job in jobs_of(name, sections, data)}
    jobs = {}
    for stage in STAGES:
        # Items in the order of the parameters, however they were named.
        of_stage = [job for job in by_name.values() if job.stage == stage]
        if of_stage:
            order = [job.name for job in jobs_of(stage, sections, data)]
            jobs[stage] = sorted(of_stage, key=lambda job: order.index(job.name))
    return Chosen(jobs, tuple(stage for stage in STAGES if ALL in names and stage not in jobs))


def asked_for(raw: Mapping[str, Any], sections: Mapping[str, BaseModel], data: str = "data") -> tuple[str, ...]:
    """The stages that parameters ask for, in the order of the pipeline."""
    asked = {stage for stage in STAGES if stage in raw and stage != REPORT}
    waiting = list(asked)
    while waiting:
        for job in jobs_of(waiting.pop(), sections, data):
            needed = {name.partition("@")[0] for name in get_stage(job.stage).needs(job)} - asked
            asked |= needed
            waiting += needed
    return tuple(stage for stage in STAGES if stage in asked or (stage == REPORT and asked))
