"""From a parameter file to a job. Every section is validated, whichever stage is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.config import RunParams, load_sections, read_params
from pipelines.runtime.job import Job
from pipelines.stages import STAGES, get_stage


def section_models() -> dict[str, type[BaseModel]]:
    """The parameter model of every section of params.yaml."""
    models: dict[str, type[BaseModel]] = {"run": RunParams}
    models.update({name: get_stage(name).Params for name in STAGES})
    return models


def make_job(stage: str, params: Path | str, overrides: Sequence[str] = (), data: str = "data") -> Job[Any]:
    """Read, override and validate the parameters, and bind them to a stage and a data folder."""
    get_stage(stage)
    sections = load_sections(read_params(params, overrides), section_models(), str(params))
    run = sections["run"]
    assert isinstance(run, RunParams)
    url = data if "://" in data else str(Path(data).absolute())
    return Job(stage, sections[stage], run, url)  # type: ignore[type-var]
