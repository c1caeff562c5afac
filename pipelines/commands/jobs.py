"""From a parameter file to a job. Every section is validated, whichever stage is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.config import RunParams, load_sections, read_params
from pipelines.errors import UserError
from pipelines.locations import normal
from pipelines.runtime.job import Job
from pipelines.stages import STAGES, get_stage


def section_models() -> dict[str, type[BaseModel]]:
    """The parameter model of every section of params.yaml."""
    models: dict[str, type[BaseModel]] = {"run": RunParams}
    models.update({name: get_stage(name).Params for name in STAGES})
    return models


def make_job(name: str, params: Path | str, overrides: Sequence[str] = (), data: str = "data") -> Job[Any]:
    """Read, override and validate the parameters, and bind them to a stage and a data folder.

    `name` is STAGE, or STAGE@ITEM where a stage has items.
    """
    jobs = make_jobs(name, params, overrides, data)
    if len(jobs) > 1:
        raise UserError(f"{name} has items; name one: {', '.join(job.name for job in jobs)}")
    return jobs[0]


def make_jobs(name: str, params: Path | str, overrides: Sequence[str] = (), data: str = "data") -> list[Job[Any]]:
    """The jobs that `name` stands for: a stage with items, named without one, is all of them in turn."""
    return jobs_of(name, read_sections(params, overrides), data)


def read_sections(params: Path | str, overrides: Sequence[str] = ()) -> dict[str, BaseModel]:
    """Every section of a parameter file with overrides applied, validated."""
    return checked_sections(read_params(params, overrides), params)


def checked_sections(raw: Mapping[str, Any], origin: Path | str) -> dict[str, BaseModel]:
    """Every section of a parameter mapping, validated; and what one names as its input is a stage, with such an item.

    Items are those of the mapping's own section: without one, other parameters may have made what is read.
    """
    sections = load_sections(raw, section_models(), str(origin))
    read = {(job.name, name) for stage in STAGES for job in jobs_of(stage, sections, "data") for name in _inputs(job)}
    for reader, name in sorted(read):
        try:
            if "@" in name and name.partition("@")[0] in raw:
                jobs_of(name, sections, "data")
            get_stage(name.partition("@")[0])
        except UserError as error:
            raise UserError(f"{origin}: {reader} reads {name}: {error}") from None
    return sections


def _inputs(job: Job[Any]) -> Sequence[str]:
    return get_stage(job.stage).inputs(job)


def jobs_of(name: str, sections: Mapping[str, BaseModel], data: str) -> list[Job[Any]]:
    """The jobs of STAGE or STAGE@ITEM with parameters that were read."""
    stage, _, item = name.partition("@") if "/" not in name else (name, "", "")
    known = get_stage(stage)
    run = sections["run"]
    assert isinstance(run, RunParams)
    url = normal(data)
    section: Any = sections[stage]
    items = known.items(section)
    if item and item not in items:
        have = f"there is {', '.join(f'{stage}@{one}' for one in items)}" if items else "it has no items"
        raise UserError(f"{stage} has no {item!r}; {have}")
    wanted = [item] if item else list(items) or [""]
    return [Job(stage, known.of_item(section, one), run, url, item=one) for one in wanted]
