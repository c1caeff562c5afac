"""What `evaluate` knows of a product that it measures, and what it writes of it.

An evaluation is written against this file as a stage is against `runtime.job`: its units train and test one network each, and
`metrics` is the one deterministic reduce at the end. It is called by its folder's name, which is its item of `evaluate` and its
section of params.yaml, and is given a job whose parameters are this section.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

from pipelines.runtime.job import Job, ParamsT, Plan
from pipelines.runtime.units import Marker, Unit, UnitOutput

#: The whole table of an evaluation, with its protocol, its comparisons and their words.
RESULTS_FILE = "results.json"
#: Test accuracy over epochs: one line an arm, a mean over seeds.
CURVES_FILE = "curves.csv"
CURVE_COLUMNS = ("line", "epoch", "test_top1", "seeds")


@dataclass(frozen=True)
class Measured:
    """What an evaluation amounts to.

    `numbers` are the few that `dvc metrics` compares: accuracies as fractions and differences in percentage points, by arm. `results` is
    the whole table as JSON; `evaluate` adds its note to `results["protocol"]`. `seeds` are those of an arm, `curves` rows of
    `CURVE_COLUMNS`, and `facts` go into stage.json.
    """

    numbers: Mapping[str, Any]
    results: Mapping[str, Any]
    seeds: int
    curves: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Evaluation(ABC, Generic[ParamsT]):
    """One product, measured beside its controls."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: what may be read, as STAGE or STAGE@ITEM; see `inputs`
    upstream: ClassVar[tuple[str, ...]]
    #: title of its curves in `dvc plots`; empty where it leaves none
    curves: ClassVar[str] = ""
    #: modules that decide what units write, with what they import; without any the folder's `evaluation`
    code: ClassVar[tuple[str, ...]] = ()
    #: modules that only `metrics` uses: where they are others the results are put together anew and no network is trained again
    reduces: ClassVar[tuple[str, ...]] = ()

    def inputs(self, params: ParamsT) -> Sequence[str]:
        """The outputs of stages that are read with these parameters, as STAGE or STAGE@ITEM."""
        return self.upstream

    def reads(self, params: ParamsT) -> Mapping[str, str]:
        """The user's own files and folders that are read, by the parameter that names them."""
        return {}

    @abstractmethod
    def plan(self, job: Job[ParamsT]) -> Plan:
        """A unit for every network that is trained, decided from the inputs and the parameters alone; their payloads hold all that
        decides them, so that an arm or a seed more leaves the others as they are."""

    def check(self, job: Job[ParamsT]) -> None:
        """Raise `UserError` for what would stop every unit and costs an import to find out."""
        return

    @abstractmethod
    def open(self, job: Job[ParamsT]) -> Any:
        """What a worker keeps between units."""

    @abstractmethod
    def run(self, unit: Unit, worker: Any, output: UnitOutput) -> None:
        """Train and test one network; write through `output` only."""

    def subject(self, unit: Unit, job: Job[ParamsT]) -> str:
        """What an error of a method in this unit is about: the parameters that decide the unit, as a user writes them."""
        return f"evaluate.{self.name}"

    @abstractmethod
    def metrics(self, job: Job[ParamsT], plan: Plan, markers: Sequence[Marker]) -> Measured:
        """Put the units' summaries together; files beside those of `Measured` may be written to `job.output`."""
