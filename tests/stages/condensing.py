"""Small jobs of the stages that condense, for their tests: the same two classes, each stage's own few parameters on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.commands.jobs import make_job, make_jobs
from pipelines.commands.runs import run_stage
from pipelines.runtime.job import Job
from tests.stages.test_pipeline import params_of, write_source


class Condensing:
    """Jobs with `changes` of the parameters that lie beside a data folder."""

    def __init__(self, *changes: str) -> None:
        self.changes = changes

    def job_of(self, data: Path, name: str, *changes: str) -> Job[Any]:
        return make_job(name, data.parent / "params.yaml", [*self.changes, *changes], str(data))

    def run(self, data: Path, name: str, *changes: str) -> Path:
        """Bring a stage up to date; returns its folder."""
        job = self.job_of(data, name, *changes)
        run_stage(job, "serial", debug=True)
        return Path(str(job.output.root))

    def write_base(self, root: Path, name: str) -> Path:
        """A data folder with a teacher and what the stage `name` condensed, and the parameters beside it."""
        write_source(root / "source")
        params_of(root / "source", root)
        for stage in ("ingest", "split", "squeeze", name):
            self.run(root / "data", stage)
        return root / "data"


def write_job(root: Path, params: Mapping[str, Any]) -> None:
    """The source of two classes, and `params` beside it."""
    write_source(root / "source")
    (root / "params.yaml").write_text(yaml.safe_dump(dict(params)))


def run_stages(root: Path, stages: Iterable[str]) -> None:
    """Bring every item of `stages` up to date in root/data, from within `root`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for stage in stages:
            for job in make_jobs(stage, root / "params.yaml", data=str(root / "data")):
                run_stage(job, "serial", debug=True)
