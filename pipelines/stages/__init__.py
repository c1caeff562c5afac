"""The stages, a folder each: `stage.py` plans, runs and finishes, `params.py` has its parameters, `worker.py` does a unit.

A stage has one name everywhere: folder, CLI word, params.yaml section, dvc.yaml stage. No stage imports another; what one leaves
for others is read back in `pipelines.artifacts`.

Nothing here is imported before it is asked for, so that the command line starts quickly.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.evaluation import EVALUATIONS
from pipelines.runtime.job import Stage

if TYPE_CHECKING:
    from pipelines.report.reading import Outputs
    from pipelines.report.section import Section

#: In the order of the default pipeline.
STAGES: dict[str, str] = {
    "ingest": "Ingest",
    "split": "Split",
    "augment": "Augment",
    "squeeze": "Squeeze",
    "generator": "GeneratorStage",
    "datadream": "Datadream",
    "discl": "Discl",
    "cda": "Cda",
    "cudd": "Cudd",
    "dm": "Dm",
    "coreset": "Coreset",
    "samples": "Samples",
    "d3hr": "D3hr",
    "relabel": "Relabel",
    "evaluate": "Evaluate",
    "report": "Report",
}


def get_stage(name: str) -> Stage[Any]:
    """The stage of this name; an unknown name is a `UserError` with the nearest one."""
    if name not in STAGES:
        close = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"valid: {', '.join(STAGES)}"
        raise UserError(f"unknown stage {name!r}; {hint}")
    module = importlib.import_module(f"pipelines.stages.{name}.stage")
    stage: Stage[Any] = getattr(module, STAGES[name])()
    return stage


#: Reads all others, and is read by none.
REPORT = "report"


def outputs_under(data: str) -> Outputs:
    """All that the stages left under a data folder, finished or not."""
    from pipelines.report.reading import Outputs

    return Outputs.under(data, [get_stage(name) for name in STAGES if name != REPORT])


def sections(outputs: Outputs, samples_per_class: int | None = None, title: str = "") -> list[Section]:
    """What the stages and the evaluations show of their outputs: each folder that has a `section.py` is asked."""
    from pipelines.report.section import Options, section_makers, sections_by

    return sections_by(section_makers(section_packages()), outputs, Options(samples_per_class, title))


def section_packages() -> list[str]:
    """The packages that may have a `section.py`."""
    stages = [f"pipelines.stages.{name}" for name in STAGES if name != REPORT]
    return [*stages, *EVALUATIONS.values()]
